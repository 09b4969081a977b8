"""What is asked for while things break: checked bytes, held long polls, and the stream of news.

``/poll/NUMBER`` is held until ``/answer/NUMBER`` publishes its answer. ``/stream`` and ``/publish``
are those of ``apps/news.py``, all other paths those of ``apps/sums.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from apps import news, sums

from vsgi_fcgi.push import publish

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

POLL_SIZE = 500
"""Bytes of the answer to a long poll, without its digest."""


def published(number: int) -> bytes:
    """What is published for a long poll."""
    data = bytes(sums.content(number, POLL_SIZE))
    return data + sums.digest(number, data)


def unpublished(number: int) -> bytes:
    """What a long poll gets at its timeout, or when its process ends."""
    return sums.digest(number, b"")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    first, _, rest = environ["PATH_INFO"].strip("/").partition("/")
    if first in ("stream", "publish"):
        return news.app(environ, start_response)
    headers = [("Content-Type", "application/octet-stream")]
    if first == "poll":
        headers += [("Grip-Hold", "response"), ("Grip-Channel", f"poll-{rest}")]
        start_response("200 OK", [*headers, ("Grip-Timeout", "5")])
        return [unpublished(int(rest))]
    if first == "answer":
        publish(f"poll-{rest}", http_response=published(int(rest)))
        start_response("200 OK", headers)
        return [b"published"]
    return sums.app(environ, start_response)
