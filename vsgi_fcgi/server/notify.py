"""Notifications to the service manager: sd_notify(3)."""

from __future__ import annotations

from collections.abc import Sequence

from vsgi_fcgi.children import silence
from vsgi_fcgi.server.main_context_calls import Stats
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.server.workers.base import Dispatcher
from vsgi_fcgi.service_manager import ServiceManager
from vsgi_fcgi.transport.thread_affinity import main_only

_STATUS_INTERVAL = 5.0
"""Seconds between two checks whether the status line has changed."""

_SHOWN = 3
"""Maximum number of listeners that the status line names. More are only counted."""


class Notifier:
    """Sends READY, STATUS, STOPPING and the keep-alive messages of the watchdog.

    The keep-alive messages come from the loop of the main context. If the loop is blocked, they
    stop, and the service manager restarts the server.

    NOTIFY_SOCKET stays in the environment, because an app may send notifications too. The
    NotifyAccess setting of the unit decides whether those of child processes are accepted.

    Args:
        manager: the service manager.
        services: the loop.
        stats: the numbers of connections and requests, for the status line.
        dispatcher: knows how many requests wait for a worker.
        uris: the addresses of the listeners.
    """

    def __init__(
        self,
        manager: ServiceManager,
        services: Services,
        stats: Stats,
        dispatcher: Dispatcher,
        uris: Sequence[str],
    ) -> None:
        self._manager = manager
        self._stats = stats
        self._dispatcher = dispatcher
        named = ", ".join(uris) if len(uris) <= _SHOWN else f"{len(uris)} addresses"
        self._state = f"listening on {named}"
        watchdog = manager.watchdog
        self._sign = {} if watchdog is None else {"WATCHDOG": 1}
        self._status = ""
        # Half of the watchdog's time, as sd_watchdog_enabled(3) recommends.
        interval = min(_STATUS_INTERVAL, watchdog / 2 if watchdog else _STATUS_INTERVAL)
        self._timer = services.loop.timer(interval, interval)

    @main_only
    def ready(self) -> None:
        """Report that connections are accepted."""
        self._manager.send(READY=1, **self._sign, **self._news())
        self._timer.start(self._tick)

    @main_only
    def stopping(self) -> None:
        """Report that no more connections are accepted."""
        self._state = "stopping"
        self._manager.send(STOPPING=1, **self._news())

    def forked(self, *, stop: bool) -> None:
        """Leave the socket to the parent process, in a child that an app has forked.

        Args:
            stop: whether the loop may continue in this process.
        """
        if stop:
            self._timer.stop()
        silence(self._manager.fileno())

    @main_only
    def close(self) -> None:
        """Stop sending."""
        self._timer.stop()
        self._timer.close()
        self._manager.close()

    def _tick(self) -> None:
        state = {**self._sign, **self._news()}
        if state:
            self._manager.send(**state)

    def _news(self) -> dict[str, str]:
        """Return the status line as STATUS, if it has changed."""
        stats = self._stats
        status = (
            f"{self._state}; connections: {stats.connections_open},"
            f" requests: {stats.requests_in_flight},"
            f" waiting for a worker: {self._dispatcher.waiting}"
        )
        if status == self._status:
            return {}
        self._status = status
        return {"STATUS": status}
