"""App whose responses can be checked byte by byte, and that checks the bodies it receives."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

MIB = 1024 * 1024
_NOISE = random.Random(1).randbytes(2 * MIB)
_PIECE = 50_000


def content(number: int, size: int) -> memoryview:
    """Bytes that belong to a number: up to a MiB of them."""
    at = number * 7919 % MIB
    return memoryview(_NOISE)[at : at + size]


def digest(number: int, data: bytes | memoryview) -> bytes:
    """What tells these bytes of this number from all others."""
    found = hashlib.sha1(number.to_bytes(8, "big"))
    found.update(data)
    return found.digest()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer ``/NUMBER/SIZE`` with so many bytes and their digest, if the body has its own."""
    number, size = map(int, environ["PATH_INFO"].strip("/").split("/"))
    body = environ["wsgi.input"].read()
    wanted = environ.get("HTTP_X_DIGEST", "")
    if wanted and digest(number, body).hex() != wanted:
        start_response("400 Bad Request", [])
        return [b"the body is of another request, or cut"]
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return _pieces(number, size)


def _pieces(number: int, size: int) -> Iterator[bytes]:
    data = content(number, size)
    for at in range(0, size, _PIECE):
        yield bytes(data[at : at + _PIECE])
    yield digest(number, data)
