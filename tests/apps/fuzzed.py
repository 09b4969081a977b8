"""An app for random traffic: whatever it answers names the request.

The query of a request is its name, which each answer repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from vsgi_fcgi.exceptions import PublishError
from vsgi_fcgi.push import publish

LARGE = 150_000
"""Bytes of a large answer, at least."""


class Deliberate(Exception):
    """The failure of an app."""


def large(name: bytes) -> Iterable[bytes]:
    """Yield the body of a large answer."""
    piece = name * 2000
    for _ in range(LARGE // len(piece) + 1):
        yield piece


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    path, name = environ["PATH_INFO"], environ["QUERY_STRING"]
    headers = [("Content-Type", "text/plain"), ("X-Name", name)]
    if path == "/stderr":
        environ["wsgi.errors"].write(f"{name}\n" * 300)
    elif path == "/fail":
        raise Deliberate(name)
    elif path == "/stream":
        headers += [("Grip-Hold", "stream"), ("Grip-Channel", "a, b")]
    elif path == "/poll":
        headers += [("Grip-Hold", "response"), ("Grip-Channel", "b; filter=skip-self")]
    elif path == "/publish":
        # Beyond the limits this fails.
        with suppress(PublishError):
            publish("b", http_stream=name * 300, http_response=name)
    elif path == "/wrong":
        headers += [("Grip-Hold", "for ever")]
    elif path == "/empty":
        start_response("204 No Content", headers)
        return []
    size = len(environ["wsgi.input"].read()) if path != "/early" else 0
    start_response("200 OK", headers)
    if path == "/large":
        return large(name.encode())
    return [f"{name} {size}".encode()]
