"""What one can try: an upload, a slow answer, a stream of events, an error."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from vsgi_fcgi.demo.responses import is_head, respond, respond_json, start

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PIECE_BYTES = 65536
"""An upload is read in pieces of this many bytes."""

MOST_SECONDS = 30
MOST_TICKS = 60

_STEP = 1.0
"""Seconds that are slept at once: a client that has left keeps its worker for no longer."""


class DemonstrationError(RuntimeError):
    """What the demonstration raises when it is asked to fail."""


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the body piece by piece, and answer its size and digest."""
    began = time.perf_counter()
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(environ):
        digest.update(piece)
        size += len(piece)
    seconds = round(time.perf_counter() - began, 6)
    found = {"bytes": size, "seconds": seconds, "sha256": digest.hexdigest()}
    return respond_json(environ, start_response, found)


def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer after as many seconds as the query says."""
    try:
        seconds = _number(environ, "seconds", 3, least=0, most=MOST_SECONDS)
    except ValueError as error:
        return respond(environ, start_response, f"{error}\n", status="400 Bad Request")
    start(start_response, "200 OK", ("Content-Type", "application/json"))
    return [] if is_head(environ) else _answer_after(seconds, _sleep(environ))


def _answer_after(seconds: float, sleep: Callable[[float], object]) -> Iterator[bytes]:
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        sleep(min(left, _STEP))
        yield b""  # sends nothing, and the server stops here if the client has left
    yield json.dumps({"seconds": round(time.monotonic() - began, 3)}).encode() + b"\n"


def events(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Stream one event each second, as many as the query says, and one that says it was the last.

    A browser whose connection broke says which it had last, and gets those that are missing. One
    that comes back for more than there are is told to stop (204).
    """
    try:
        ticks = int(_number(environ, "ticks", 10, least=1, most=MOST_TICKS))
    except ValueError as error:
        return respond(environ, start_response, f"{error}\n", status="400 Bad Request")
    seen = environ.get("HTTP_LAST_EVENT_ID", "")
    done = min(int(seen), ticks) if seen.isascii() and seen.isdigit() and len(seen) < 10 else 0
    if done == ticks:
        start(start_response, "204 No Content")
        return []
    start(
        start_response,
        "200 OK",
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Cache-Control", "no-cache"),
        # Has nginx pass each event as it comes.
        ("X-Accel-Buffering", "no"),
    )
    return [] if is_head(environ) else _ticks(done, ticks, _sleep(environ))


def _ticks(done: int, ticks: int, sleep: Callable[[float], object]) -> Iterator[bytes]:
    began = time.monotonic()
    for tick in range(done + 1, ticks + 1):
        # By the clock, so that what sending takes does not add up.
        sleep(max(0.0, began + tick - done - 1 - time.monotonic()))
        data = json.dumps({"tick": tick, "ticks": ticks, "time": time.strftime("%H:%M:%S")})
        yield f"id: {tick}\nevent: tick\ndata: {data}\n\n".encode()
    yield b"event: end\ndata: {}\n\n"


def error(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Fail.

    Raises:
        DemonstrationError: always.
    """
    raise DemonstrationError("the demonstration was asked to fail")


def _pieces(environ: WSGIEnvironment) -> Iterator[bytes]:
    """The body in pieces of a bounded size."""
    stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        while piece := stream.read(PIECE_BYTES):
            yield piece
        return
    left = int(environ.get("CONTENT_LENGTH") or 0)
    while left and (piece := stream.read(min(left, PIECE_BYTES))):
        left -= len(piece)
        yield piece


def _sleep(environ: WSGIEnvironment) -> Callable[[float], object]:
    """How to wait: who shares a thread with connections must let these go on."""
    if environ["wsgi.multithread"] or environ["wsgi.run_once"]:
        return time.sleep
    from gevent import sleep

    return sleep


def _number(
    environ: WSGIEnvironment, name: str, default: float, *, least: float, most: float
) -> float:
    """Read a number from the query.

    Raises:
        ValueError: it is none, or too small or large.
    """
    query: str = environ.get("QUERY_STRING", "")
    text = parse_qs(query).get(name, [str(default)])[-1]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise ValueError(f"{name} is {text[:40]!r}: it must be a number from {least} to {most}")
    return number
