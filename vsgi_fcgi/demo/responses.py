"""Answers: the headers that all of them have, and the ones that are short."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    Handler = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]

HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"

_NO_STORE = ("Cache-Control", "no-store")

_FOR_ALL = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
]


def start(start_response: StartResponse, status: str, *headers: tuple[str, str]) -> None:
    """Begin an answer with the headers that all of them have.

    Args:
        start_response: as PEP 3333 has it.
        status: the status, with its reason.
        *headers: more headers. Without a Cache-Control among them, nothing is to be kept.
    """
    more = [] if any(name == "Cache-Control" for name, _ in headers) else [_NO_STORE]
    start_response(status, [*headers, *more, *_FOR_ALL])


def respond(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    body: str | bytes,
    *headers: tuple[str, str],
    status: str = "200 OK",
    content_type: str = TEXT,
) -> list[bytes]:
    """Answer with a body that is all there.

    Args:
        environ: the request's.
        start_response: as PEP 3333 has it.
        body: the body; what UTF-8 cannot encode is escaped.
        *headers: more headers.
        status: the status, with its reason.
        content_type: what the body is.

    Returns:
        What the app is to return: for HEAD, the headers of the same answer and no body.
    """
    data = body.encode("utf-8", "backslashreplace") if isinstance(body, str) else body
    length = ("Content-Length", str(len(data)))
    start(start_response, status, ("Content-Type", content_type), length, *headers)
    return [] if is_head(environ) else [data]


def respond_json(
    environ: WSGIEnvironment, start_response: StartResponse, value: object
) -> list[bytes]:
    """Answer with a value as JSON."""
    text = json.dumps(value) + "\n"
    return respond(environ, start_response, text, content_type="application/json")


def is_head(environ: WSGIEnvironment) -> bool:
    """Whether only the headers of the answer are asked for."""
    return bool(environ["REQUEST_METHOD"] == "HEAD")
