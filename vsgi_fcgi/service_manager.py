"""Notifications to the service manager, systemd: sd_notify(3).

`vsgi_fcgi.server.notify` sends those of a process that serves without a supervisor.
"""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.listen.listeners`
import os
import time
from collections.abc import Callable, Mapping


class ServiceManager:
    """Sends the state of a supervisor to the service manager.

    Sending never waits, and an error in sending is only reported.

    Args:
        address: the address of the service manager, from `notify_address`.
        watchdog: seconds within which the watchdog expects a message; None for no watchdog.
        report: called once with a description if sending fails.

    Attributes:
        watchdog: seconds within which the watchdog expects a message; None for no watchdog.
    """

    def __init__(
        self, address: str, watchdog: float | None, report: Callable[[str], object]
    ) -> None:
        self.watchdog = watchdog
        self._address = address
        self._report: Callable[[str], object] | None = report
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self._sock.setblocking(False)

    @classmethod
    def wanted(
        cls, environ: Mapping[str, str], report: Callable[[str], object]
    ) -> ServiceManager | None:
        """Return the service manager of this process if it expects notifications.

        Args:
            environ: the process's environment.
            report: called once with a description if sending fails.
        """
        address = notify_address(environ)
        return None if address is None else cls(address, watchdog_interval(environ), report)

    def ready(self, status: str) -> None:
        """Report that connections are accepted, at the start and after a reload.

        Args:
            status: a line for ``systemctl status``.
        """
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}\n")

    def reloading(self) -> None:
        """Report that a reload has begun. `ready` ends it."""
        # Type=notify-reload compares this time with that of its signal (systemd 253).
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=reloading\n")

    def stopping(self) -> None:
        """Report that no more connections are accepted."""
        self._send("STOPPING=1\nSTATUS=stopping\n")

    def alive(self) -> None:
        """Send the message that the watchdog expects."""
        self._send("WATCHDOG=1\n")

    def close(self) -> None:
        """Stop sending."""
        self._sock.close()

    def _send(self, message: str) -> None:
        try:
            self._sock.sendto(message.encode("utf-8", "surrogateescape"), self._address)
        except OSError as error:
            report, self._report = self._report, None
            if report is not None:
                name = self._address.replace("\0", "@")
                report(f"cannot notify the service manager at NOTIFY_SOCKET={name}: {error}")


def notify_address(environ: Mapping[str, str]) -> str | None:
    """Return the address of the service manager for `connect`, or None if there is none.

    Args:
        environ: the process's environment.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        return "\0" + address[1:]
    # Other forms, such as vsock:, belong to virtual machines.
    return address if address.startswith("/") else None


def watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return the seconds within which the watchdog expects a message; None without watchdog.

    Args:
        environ: the process's environment.
    """
    text = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 1e6 if text.isdecimal() and int(text) else None
