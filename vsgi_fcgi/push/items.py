"""What is published: an item for a channel, in one or more formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class StreamPart:
    """The format ``http-stream``: what is sent to streams.

    Attributes:
        content: the bytes.
        close: end the streams instead.
        filters: names of filters that only the content passes.
    """

    content: bytes = b""
    close: bool = False
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponsePart:
    """The format ``http-response``: the answer to long polls.

    Attributes:
        code: the HTTP status; None for that of the app's response.
        reason: the reason phrase; None for that of the app's response.
        headers: headers, which replace those of the same name in the app's response.
        body: the body; None for that of the app's response.
        body_patch: a JSON patch (RFC 6902) for the app's body; None for none.
        filters: names of filters that only the body passes.
    """

    code: int | None = None
    reason: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    body_patch: Any = None
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """A published item.

    Attributes:
        channel: the name of the channel.
        id: the identifier; None for none.
        prev_id: the identifier of the item before it; None if unknown.
        stream: what streams get; None for nothing.
        response: what long polls get; None for nothing.
        meta: values for filters, by name.
        size: the number of bytes of its contents.
    """

    channel: str
    id: str | None = None
    prev_id: str | None = None
    stream: StreamPart | None = None
    response: ResponsePart | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    size: int = 0
