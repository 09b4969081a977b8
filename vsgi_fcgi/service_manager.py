"""Notifications to the service manager, systemd: sd_notify(3)."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.listen.listeners`
import os
from collections.abc import Callable, Mapping


class ServiceManager:
    """Sends the state of this process to the service manager.

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

    def send(self, **state: object) -> None:
        """Send variables, such as ``READY=1``."""
        message = "".join(f"{name}={value}\n" for name, value in state.items())
        try:
            self._sock.sendto(message.encode("utf-8", "surrogateescape"), self._address)
        except OSError as error:
            report, self._report = self._report, None
            if report is not None:
                name = self._address.replace("\0", "@")
                report(f"cannot notify the service manager at NOTIFY_SOCKET={name}: {error}")

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._sock.fileno()

    def close(self) -> None:
        """Stop sending."""
        self._sock.close()


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
