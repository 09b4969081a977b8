"""The plain WSGI app: small, large, slow and computed answers, selected by the path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HELLO = b"Hello, world!\n"
KIB_100 = bytes(100 * 1024)
PIECE = bytes(64 * 1024)


def hello(environ: WSGIEnvironment) -> Iterable[bytes]:
    """Answer 14 bytes."""
    return [HELLO]


def body(environ: WSGIEnvironment) -> Iterable[bytes]:
    """Answer 100 KiB in one piece."""
    return [KIB_100]


def upload(environ: WSGIEnvironment) -> Iterable[bytes]:
    """Read the whole request body and answer 14 bytes."""
    length = int(environ["CONTENT_LENGTH"])
    if len(environ["wsgi.input"].read(length)) != length:
        raise ValueError("the request body is not complete")
    return [HELLO]


def stream(environ: WSGIEnvironment) -> Iterable[bytes]:
    """Answer 10 MiB in pieces of 64 KiB."""
    return (PIECE for _ in range(160))


def sleep(environ: WSGIEnvironment) -> Iterable[bytes]:
    """Wait 50 ms, as for a database, and answer 14 bytes."""
    time.sleep(0.05)
    return [HELLO]


def busy(environ: WSGIEnvironment) -> Iterable[bytes]:
    """Compute for 5 ms of CPU time and answer 14 bytes."""
    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass
    return [HELLO]


# path: (function, length of the response)
ROUTES: dict[str, tuple[Callable[[WSGIEnvironment], Iterable[bytes]], str]] = {
    "/hello": (hello, "14"),
    "/body": (body, "102400"),
    "/upload": (upload, "14"),
    "/stream": (stream, "10485760"),
    "/sleep": (sleep, "14"),
    "/busy": (busy, "14"),
}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Run the function that belongs to the path."""
    function, length = ROUTES[environ["PATH_INFO"]]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", length)])
    return function(environ)
