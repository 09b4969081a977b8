"""The settings of held requests."""

from __future__ import annotations

import base64
import importlib.util
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.settings import KIB, MIB, SettingsBase, Size, setting

OVERFLOWS = ("drop", "end")

RESPONSE_TIMEOUT: Final = 55
"""Seconds after which a held request gets its own response, if the app names no timeout."""


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class PushConfig(SettingsBase):
    """Settings of held requests. Sizes are in bytes and times in seconds."""

    push: bool = setting(
        False,
        "hold the requests whose responses have Grip-Hold headers (GRIP), and send published items"
        " to them",
        group="push",
    )
    push_key: str | None = setting(
        None,
        "key that signs Grip-Sig, by which an app recognises this server; base64:TEXT for a"
        " key of any bytes",
        group="push",
        metavar="KEY",
        default_text="random",
    )
    push_overflow: str = setting(
        "drop",
        "what happens to a stream whose client reads too slowly: drop its oldest items, or end it",
        group="push",
        choices=OVERFLOWS,
    )
    push_max_age: float = setting(
        86400.0,
        "seconds after which a held request is ended",
        group="push",
        minimum=1,
    )
    push_stop_spread: float = setting(
        5.0,
        "seconds over which held requests are ended at a stop, so that their clients do not all"
        " return at once",
        group="push",
        minimum=0,
    )
    max_held: int = setting(20000, "maximum held requests, then 503", group="push", minimum=1)
    max_held_per_channel: int = setting(
        20000, "maximum held requests on one channel, then 503", group="push", minimum=1
    )
    max_channels: int = setting(
        20, "maximum channels of one held request, then 502", group="push", minimum=1
    )
    max_held_bytes: Size = setting(
        64 * MIB,
        "maximum bytes of responses that held requests keep, and of items that wait for a"
        " slow client; then 503 for requests, and push_overflow applies to items",
        group="push",
        minimum=64 * KIB,
    )
    max_items_waiting: int = setting(
        100,
        "maximum items that wait for one slow client, then push_overflow applies",
        group="push",
        minimum=1,
    )
    max_items_queued: int = setting(
        1000,
        "maximum published items in the queue for delivery, then publishing fails",
        group="push",
        minimum=1,
    )
    max_item_bytes: Size = setting(
        MIB,
        "maximum bytes of a published item, then 413; also of the body of a response to hold, then"
        " 502",
        group="push",
        minimum=KIB,
    )

    @property
    def signing_key(self) -> bytes | None:
        """The key for Grip-Sig; None for a random one.

        Raises:
            UsageError: the text after ``base64:`` is invalid.
        """
        key = self.push_key
        if key is None:
            return None
        if not key.startswith("base64:"):
            # A key in the environment may have any bytes.
            return key.encode("utf-8", "surrogateescape")
        try:
            return base64.b64decode(key.removeprefix("base64:"), validate=True)
        except ValueError as error:  # binascii.Error, or a character that is not ASCII
            raise UsageError(f"push_key is not valid after base64: {error}") from None


def check_bus(url: str | None) -> None:
    """Check the value of ``--push-bus``, without connecting.

    Raises:
        UsageError: it is not the URL of a Redis server, or redis-py is missing.
    """
    if url is None:
        return
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    place = parts.path if parts.scheme == "unix" else parts.hostname
    if parts.scheme not in ("redis", "rediss", "unix") or not place:
        raise UsageError(
            "--push-bus is not the URL of a Redis server; write redis://HOST:PORT/DB?channel=NAME"
        )
    if importlib.util.find_spec("redis") is None:
        raise UsageError("--push-bus: redis is missing; run pip install 'vsgi-fcgi[redis]'")
