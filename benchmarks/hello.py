"""The apps that the benchmarks serve: hello world, streams, uploads, held requests."""

from __future__ import annotations

import ctypes
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gevent.event import Event

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

BODY = b"Hello, world!\n"
KIB_100 = bytes(100 * 1024)
PIECE = bytes(64 * 1024)

_FILE = tempfile.NamedTemporaryFile()
_FILE.truncate(10 * 1024 * 1024)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 14 bytes."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "14")])
    return [BODY]


def kib100(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 100 KiB in one piece."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "102400")])
    return [KIB_100]


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 10 MiB in pieces of 64 KiB."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10485760")])
    return (PIECE for _ in range(160))


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a file of 10 MiB with ``wsgi.file_wrapper``, like Flask's ``send_file``."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10485760")])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](open(_FILE.name, "rb"), 8192)
    return wrapped


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the whole request body and answer its length."""
    length = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d\n" % length]


def fair(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 14 bytes, 100 MB for ``/large``, or 1 GB for ``/gigabyte``."""
    pieces = {"/large": 1526, "/gigabyte": 15259}.get(environ["PATH_INFO"])
    if pieces is None:
        return app(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (PIECE for _ in range(pieces))


def neighbours(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 14 bytes, or never end, in the way that the path names."""
    path = environ["PATH_INFO"]
    if path == "/sleep":
        time.sleep(3600)
    elif path == "/lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    elif path == "/call":
        ctypes.CDLL(None).sleep(3600)
    elif path == "/compute":
        while True:
            pass
    return app(environ, start_response)


ITEM = b"the published item"
_PUBLISHED = Event()


def held(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Have streams and long polls held, and publish an item for them."""
    path = environ["PATH_INFO"]
    if path == "/publish":
        from vsgi_fcgi.push import publish

        publish("held", http_stream=ITEM, http_response=ITEM)
    if path not in ("/stream", "/poll"):
        return app(environ, start_response)
    mode = "stream" if path == "/stream" else "response"
    grip = [("Grip-Hold", mode), ("Grip-Channel", "held"), ("Grip-Timeout", "600")]
    start_response("200 OK", [("Content-Type", "text/plain"), *grip])
    return [b"begun"]


def waiting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer the same requests with greenlets that wait."""
    path = environ["PATH_INFO"]
    if path == "/publish":
        _PUBLISHED.set()
        _PUBLISHED.clear()
    if path not in ("/stream", "/poll"):
        return app(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return _wait(path == "/stream")


def _wait(stream: bool) -> Iterator[bytes]:
    if stream:
        yield b"begun"
    _PUBLISHED.wait()
    yield ITEM
