"""Held requests: long polling and streams, in which no worker waits (GRIP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def publish(
    channel: str,
    *,
    http_stream: Any = None,
    http_response: Any = None,
    id: str | None = None,
    prev_id: str | None = None,
    meta: Mapping[str, str] | None = None,
) -> None:
    """Send an item to all requests that are held on a channel.

    Callable in any thread and greenlet of the app. The call does not wait for clients. The item
    reaches the requests in all processes of a supervisor and, with ``--push-bus``, on other hosts.

    Args:
        channel: the name of the channel.
        http_stream: what streams get: bytes, text or a `vsgi_fcgi.push.items.StreamPart`.
        http_response: the answer to long polls: a body as bytes or text, or a
            `vsgi_fcgi.push.items.ResponsePart`.
        id: the identifier of the item, by which a client that reconnects finds out what it missed.
        prev_id: the identifier of the item before it.
        meta: values for filters, by name.

    Raises:
        vsgi_fcgi.exceptions.PublishError: the queue of items is full, or the item is too large.
        RuntimeError: no server with held requests runs in this process.
        ValueError: the item is invalid.
    """
    # Imported here, because the settings of the server import this package.
    from vsgi_fcgi.push.items import make_item
    from vsgi_fcgi.push.publishing import PROCESS

    PROCESS.publish(
        [
            make_item(
                channel,
                http_stream=http_stream,
                http_response=http_response,
                id=id,
                prev_id=prev_id,
                meta=meta,
            )
        ]
    )
