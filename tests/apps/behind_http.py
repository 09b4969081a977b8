"""App that shows what it received of an HTTP request, and that misbehaves on demand."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Find the function that the path names, else describe the request."""
    found: App = ROUTES.get(environ["PATH_INFO"], _describe)
    return found(environ, start_response)


def _describe(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    digest, size = hashlib.sha256(), 0
    while piece := environ["wsgi.input"].read(65536):
        digest.update(piece)
        size += len(piece)
    seen: dict[str, Any] = {name: value for name, value in environ.items() if type(value) is str}
    seen.update(size=size, digest=digest.hexdigest())
    body = json.dumps(seen).encode()
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]


def _wait_for_file(environ: dict[str, Any]) -> None:
    path = environ["QUERY_STRING"]
    open(f"{path}.there", "w").close()
    deadline = time.monotonic() + 20
    # An app in the main context waits by gevent, or nothing else goes on.
    sleep = time.sleep if environ["wsgi.multithread"] else gevent.sleep
    while not os.path.exists(path) and time.monotonic() < deadline:
        sleep(0.005)
    assert os.path.exists(path), f"{path} did not appear"


def _wait(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    _wait_for_file(environ)
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]


def _stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    yield b"data: first\n\n"
    _wait_for_file(environ)
    yield b"data: second\n\n"


def _silent(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        yield b"first"
        _wait_for_file(environ)
        for _ in range(1000):
            yield b"x" * 65536
    except BaseException:
        open(f"{environ['QUERY_STRING']}.left", "w").close()
        raise


def _large(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    for number in range(320):
        yield bytes((number % 251,)) * 65536


def _headers(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Keep-Alive", "no")]
    start_response("418 I am a teapot", headers)
    return [b"short and stout"]


def _empty(status: str, length: str | None = None) -> Any:
    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        headers = [] if length is None else [("Content-Length", length)]
        start_response(status, [("ETag", '"x"'), *headers])
        return []

    return answer


def _broken(headers: list[tuple[str, str]]) -> Any:
    def answer(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", headers)
        yield b"x" * 50
        raise RuntimeError("this app breaks in the middle")

    return answer


def _complain(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    environ["wsgi.errors"].write("this app complains\n")
    start_response("200 OK", [])
    return [b"ok"]


def _pieces(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    # The first may come along with the headers, whatever is done with the others.
    yield b"first"
    for name in ("second", "third"):
        _wait_for_file({**environ, "QUERY_STRING": environ["QUERY_STRING"] + name})
        yield name.encode()


def _stats(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    stats = environ["vsgi_fcgi.main_context"].stats
    seen = {"accepted": stats.connections_accepted, "in_flight": stats.requests_in_flight}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]


ROUTES = {
    "/stats": _stats,
    "/pieces": _pieces,
    "/wait": _wait,
    "/stream": _stream,
    "/silent": _silent,
    "/large": _large,
    "/headers": _headers,
    "/102": _empty("102 Processing"),
    "/204": _empty("204 No Content"),
    "/205": _empty("205 Reset Content"),
    "/304": _empty("304 Not Modified"),
    "/304-length": _empty("304 Not Modified", "5"),
    "/204-length": _empty("204 No Content", "5"),
    "/205-length": _empty("205 Reset Content", "5"),
    "/broken": _broken([]),
    "/broken-length": _broken([("Content-Length", "100")]),
    "/complain": _complain,
}
