"""Notifications to the service manager: sd_notify(3)."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.listen.listeners`
import os
from collections.abc import Sequence

from vsgi_fcgi.children import silence
from vsgi_fcgi.server.main_context_calls import Stats
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.server.workers.base import Dispatcher
from vsgi_fcgi.service_manager import notify_address, watchdog_interval
from vsgi_fcgi.transport.thread_affinity import main_only

_STATUS_INTERVAL = 5.0
"""Seconds between two checks whether the status line has changed."""

_SHOWN = 3
"""Maximum number of listeners that the status line names. More are only counted."""


class Notifier:
    """Sends READY, STATUS, STOPPING and the keep-alive messages of the watchdog.

    The keep-alive messages come from the loop of the main context. If the loop is blocked, they
    stop, and the service manager restarts the server. Sending never waits, and an error in sending
    is only logged.

    NOTIFY_SOCKET stays in the environment, because an app may send notifications too. The
    NotifyAccess setting of the unit decides whether those of child processes are accepted.

    Args:
        services: the loop and the log.
        stats: the numbers of connections and requests, for the status line.
        dispatcher: knows how many requests wait for a worker.
        address: the address of the service manager, from `notify_address`.
        uris: the addresses of the listeners.
        watchdog: seconds within which the watchdog expects a message; None for no watchdog.
    """

    def __init__(
        self,
        services: Services,
        stats: Stats,
        dispatcher: Dispatcher,
        address: str,
        uris: Sequence[str],
        watchdog: float | None,
    ) -> None:
        self._log = services.log
        self._stats = stats
        self._dispatcher = dispatcher
        self._address = address
        named = ", ".join(uris) if len(uris) <= _SHOWN else f"{len(uris)} addresses"
        self._state = f"listening on {named}"
        self._sign = b"" if watchdog is None else b"WATCHDOG=1\n"
        self._status = ""
        self._failed = False
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        # Half of the watchdog's time, as sd_watchdog_enabled(3) recommends.
        interval = min(_STATUS_INTERVAL, watchdog / 2 if watchdog else _STATUS_INTERVAL)
        self._timer = services.loop.timer(interval, interval)

    @classmethod
    def wanted(
        cls, services: Services, stats: Stats, dispatcher: Dispatcher, uris: Sequence[str]
    ) -> Notifier | None:
        """Return a notifier if the service manager of this process expects notifications.

        Args:
            services: the loop and the log.
            stats: the numbers of connections and requests.
            dispatcher: knows how many requests wait for a worker.
            uris: the addresses of the listeners.
        """
        address = notify_address(os.environ)
        if address is None:
            return None
        watchdog = watchdog_interval(os.environ)
        return cls(services, stats, dispatcher, address, uris, watchdog)

    @main_only
    def ready(self) -> None:
        """Report that connections are accepted."""
        self._send(b"READY=1\n" + self._sign + self._news())
        self._timer.start(self._tick)

    @main_only
    def stopping(self) -> None:
        """Report that no more connections are accepted."""
        self._state = "stopping"
        self._send(b"STOPPING=1\n" + self._news())

    def forked(self, *, stop: bool) -> None:
        """Leave the socket to the parent process, in a child that an app has forked.

        Args:
            stop: whether the loop may continue in this process.
        """
        if stop:
            self._timer.stop()
        silence(self._sock.fileno())

    @main_only
    def close(self) -> None:
        """Stop sending."""
        self._timer.stop()
        self._timer.close()
        self._sock.close()

    def _tick(self) -> None:
        message = self._sign + self._news()
        if message:
            self._send(message)

    def _news(self) -> bytes:
        """Return the message with the status line if it has changed; otherwise an empty one."""
        stats = self._stats
        status = (
            f"{self._state}; connections: {stats.connections_open},"
            f" requests: {stats.requests_in_flight},"
            f" waiting for a worker: {self._dispatcher.waiting}"
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
                self._log.warning(
                    "cannot notify the service manager at NOTIFY_SOCKET=%s: %s",
                    self._address.replace("\0", "@"),
                    error,
                )
