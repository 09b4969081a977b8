"""Tells the service manager how the server is: sd_notify(3)."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.server.listeners`
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vsgi_fcgi.server.contract import main_only
from vsgi_fcgi.server.systemd import notify_address, watchdog_interval

if TYPE_CHECKING:
    from vsgi_fcgi.server.context import MainContext

_STATUS_INTERVAL = 5.0
"""Seconds between two looks at whether the status line has changed."""

_SHOWN = 3
"""Listeners that the status line names; of more it says how many there are."""


class Notifier:
    """Sends READY, STATUS, STOPPING, and signs of life for the watchdog.

    The signs of life come from the main context's loop: when that is stuck, they stop, and the
    service manager restarts the server. Sending never waits, and failing to send ends nothing.

    NOTIFY_SOCKET stays in the environment, as an app may have a word of its own to say; what its
    child processes say is for the unit's NotifyAccess to refuse.

    Args:
        context: the main context.
        address: where to send, as `notify_address` returns it.
        uris: what the server listens on.
        watchdog: seconds within which a sign of life is wanted; None for no watchdog.
    """

    def __init__(
        self, context: MainContext, address: str, uris: Sequence[str], watchdog: float | None
    ) -> None:
        self._context = context
        self._address = address
        named = ", ".join(uris) if len(uris) <= _SHOWN else f"{len(uris)} addresses"
        self._state = f"listening on {named}"
        self._sign = b"" if watchdog is None else b"WATCHDOG=1\n"
        self._status = ""
        self._failed = False
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        # Half of the watchdog's time, as sd_watchdog_enabled(3) advises.
        interval = min(_STATUS_INTERVAL, watchdog / 2 if watchdog else _STATUS_INTERVAL)
        self._timer = context.loop.timer(interval, interval)

    @classmethod
    def wanted(cls, context: MainContext, uris: Sequence[str]) -> Notifier | None:
        """A notifier, if the service manager of this process wants to be told.

        Args:
            context: the main context.
            uris: what the server listens on.
        """
        address = notify_address(os.environ)
        if address is None:
            return None
        return cls(context, address, uris, watchdog_interval(os.environ))

    @main_only
    def ready(self) -> None:
        """Say that connections are accepted."""
        self._send(b"READY=1\n" + self._sign + self._news())
        self._timer.start(self._tick)

    @main_only
    def stopping(self) -> None:
        """Say that no more connections are accepted."""
        self._state = "stopping"
        self._send(b"STOPPING=1\n" + self._news())

    @main_only
    def close(self) -> None:
        """Say no more."""
        self._timer.stop()
        self._timer.close()
        self._sock.close()

    def _tick(self) -> None:
        message = self._sign + self._news()
        if message:
            self._send(message)

    def _news(self) -> bytes:
        """The status line, if it is another one than last time."""
        context = self._context
        figures = context.calls.figures
        status = (
            f"{self._state}; connections: {figures.connections_open},"
            f" requests: {figures.requests_in_flight},"
            f" waiting for a worker: {context.dispatcher.waiting}"
        )
        if status == self._status:
            return b""
        self._status = status
        return f"STATUS={status}\n".encode("utf-8", "surrogateescape")

    def _send(self, message: bytes) -> None:
        try:
            self._sock.sendto(message, self._address)
        except OSError as error:
            if not self._failed:
                self._failed = True
                self._context.log.warning(
                    "cannot notify the service manager at NOTIFY_SOCKET=%s: %s",
                    self._address.replace("\0", "@"),
                    error,
                )
