"""Views that test a server: an upload, a slow response, event streams and an error."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from werkzeug.exceptions import BadRequest, NotFound
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

PIECE_BYTES = 65536
"""Maximum number of bytes of an upload that are read at a time."""

MAX_SECONDS = 30
MAX_TICKS = 60

MAX_TEXT = 200
"""Maximum length of a text that one page sends to the others."""

_CHANNEL = "vsgi_fcgi.demo"

_STEP = 1.0
"""Maximum time of one sleep in seconds. After a client has left, its worker is free after this."""


class DemonstrationError(RuntimeError):
    """Exception that the view `error` raises."""


def upload(request: Request) -> Response:
    """Read the body piece by piece, and return its size and digest."""
    began = time.perf_counter()
    digest, size = hashlib.sha256(), 0
    while piece := request.stream.read(PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
    seconds = round(time.perf_counter() - began, 6)
    found = {"bytes": size, "seconds": seconds, "sha256": digest.hexdigest()}
    return Response(json.dumps(found) + "\n", mimetype="application/json")


def slow(request: Request) -> Response:
    """Respond after the number of seconds in the query."""
    seconds = _number(request, "seconds", 3, minimum=0, maximum=MAX_SECONDS)
    return Response(_answer_after(seconds, _sleep(request.environ)), mimetype="application/json")


def _answer_after(seconds: float, sleep: Callable[[float], object]) -> Iterator[bytes]:
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        sleep(min(left, _STEP))
        yield b""  # sends nothing, but lets the server stop here if the client has left
    yield json.dumps({"seconds": round(time.monotonic() - began, 3)}).encode() + b"\n"


def events(request: Request) -> Response:
    """Stream one event per second, up to the number in the query, and then an end event.

    A browser that reconnects sends the id of its last event, and gets only the missing events. If
    none is missing, the response is 204, after which a browser does not reconnect.
    """
    ticks = int(_number(request, "ticks", 10, minimum=1, maximum=MAX_TICKS))
    done = min(max(request.headers.get("Last-Event-ID", 0, type=int), 0), ticks)
    if done == ticks:
        response = Response(status="204 No Content")
        del response.content_type
        return response
    return Response(
        _ticks(done, ticks, _sleep(request.environ)),
        mimetype="text/event-stream",
        headers={
            "Cache-Control": "no-cache",
            # Tells nginx not to buffer the events.
            "X-Accel-Buffering": "no",
        },
    )


def _ticks(done: int, ticks: int, sleep: Callable[[float], object]) -> Iterator[bytes]:
    began = time.monotonic()
    for tick in range(done + 1, ticks + 1):
        # The pause is computed from the start time, so that the time for sending does not add up.
        sleep(max(0.0, began + tick - done - 1 - time.monotonic()))
        data = json.dumps({"tick": tick, "ticks": ticks, "time": time.strftime("%H:%M:%S")})
        yield f"id: {tick}\nevent: tick\ndata: {data}\n\n".encode()
    yield b"event: end\ndata: {}\n\n"


def can_hold(environ: WSGIEnvironment) -> bool:
    """Return whether the server holds requests (``--push``)."""
    return "HTTP_GRIP_SIG" in environ and "vsgi_fcgi.request" in environ


def talk(request: Request) -> Response:
    """Send a text to all pages, or return the stream from which a page reads such texts.

    The server holds the stream, so that no worker waits.
    """
    if not can_hold(request.environ):
        raise NotFound("The server does not hold requests; start it with --push.")
    if request.method == "POST":
        text = request.form.get("text", "")
        if not 0 < len(text) <= MAX_TEXT:
            raise BadRequest(f"text must have 1 to {MAX_TEXT} characters")
        # Imported here, because the demonstration runs on other servers, too.
        from vsgi_fcgi.push import publish

        publish(_CHANNEL, http_stream=f"event: talk\ndata: {json.dumps(text)}\n\n")
        return Response(status="204 No Content")
    request.environ["vsgi_fcgi.request"].hold(_CHANNEL, keep_alive=b":\n\n", keep_alive_timeout=20)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return Response("retry: 1000\n\n", mimetype="text/event-stream", headers=headers)


def error(request: Request) -> Response:
    """Raise an exception.

    Raises:
        DemonstrationError: always.
    """
    raise DemonstrationError("this error was requested")


def _sleep(environ: WSGIEnvironment) -> Callable[[float], object]:
    """Return the sleep function. In the main context, it must not block the other connections."""
    if environ["wsgi.multithread"] or environ["wsgi.run_once"]:
        return time.sleep
    from gevent import sleep

    return sleep


def _number(
    request: Request, name: str, default: float, *, minimum: float, maximum: float
) -> float:
    """Return a number from the query.

    Raises:
        BadRequest: the value is not a number, or is out of range.
    """
    text = request.args.get(name, str(default))
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not minimum <= number <= maximum:
        raise BadRequest(
            f"{name} is {text[:40]!r}, but must be a number from {minimum} to {maximum}"
        )
    return number
