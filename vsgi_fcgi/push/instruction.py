"""What an app wants done with a request: the instruction in its response.

An app answers as usual, and adds headers that begin with ``Grip-``, or sends a body of the type
``application/grip-instruct``. Both become a `Hold`. docs/topics/push.md describes the headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

RESPONSE_TIMEOUT: Final = 55
"""Seconds after which a held request gets its own response, if the app names no timeout."""


@dataclass(slots=True)
class HeldChannel:
    """A channel on which a request is held.

    Attributes:
        name: the name.
        prev_id: the identifier of the last item that the client has got; None if unknown.
        filters: names of filters that each item for this channel passes.
    """

    name: str
    prev_id: str | None = None
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """What is sent to a stream so that nobody takes it for a dead connection.

    Attributes:
        content: the bytes.
        timeout: seconds between two of them.
        interval: send it after each interval, and not only after a pause of that length.
    """

    content: bytes
    timeout: int
    interval: bool = False


@dataclass(slots=True)
class Hold:
    """How a request is held.

    Attributes:
        stream: the response goes on with what is published; otherwise the first published item is
            the response (long polling).
        channels: the channels.
        timeout: seconds after which a long poll is answered with the app's own response.
        keep_alive: what is sent to a stream in pauses; None for nothing.
        next_uri: what to request from the app when the stream ends or items were missed; None for
            nothing.
        next_timeout: seconds after which ``next_uri`` is requested without a reason.
        gone_uri: what to request from the app when the client has gone; None for nothing.
        meta: values for filters, by name.
    """

    stream: bool
    channels: list[HeldChannel] = field(default_factory=list)
    timeout: int = RESPONSE_TIMEOUT
    keep_alive: KeepAlive | None = None
    next_uri: str | None = None
    next_timeout: int = 120
    gone_uri: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
