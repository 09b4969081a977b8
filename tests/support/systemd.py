"""Do what systemd does for a service, with its own tool and a socket of the test."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from support.front_ends.servers import find
from support.processes import Process, ProcessGroup

TIMEOUT = 10.0


def activate(
    group: ProcessGroup,
    argv: list[str],
    *sockets: str,
    names: str | None = None,
    options: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
) -> Process:
    """Start a program with sockets, by ``systemd-socket-activate``.

    It starts the program when somebody connects, in its own process.

    Args:
        group: the group that it belongs to.
        argv: the program and its arguments.
        *sockets: paths, or HOST:PORT.
        names: FileDescriptorNames of the sockets, with colons between them.
        options: further options of the tool.
        env: the program's environment; the tool passes only the variables that it is given.
    """
    env = env or {}
    tool = [find("systemd-socket-activate"), *options]
    tool += [f"--listen={item}" for item in sockets]
    if names is not None:
        tool.append(f"--fdname={names}")
    tool += [f"--setenv={item}" for item in {*env, *group.environ().keys()}]
    process = group.start([*tool, *argv], name="server", env=env)
    process.wait_for_log("Listening on ")
    return process


class Manager:
    """The service manager's end of the socket on which a service notifies it.

    Args:
        folder: where the socket is made.
        abstract: it has a name instead of a file.
    """

    def __init__(self, folder: Path, abstract: bool = False) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(TIMEOUT)
        path = f"{folder}/notify"
        self.address = f"@{path}" if abstract else path
        self._sock.bind("\0" + path if abstract else path)

    def receive(self) -> dict[str, str]:
        """The next message: its variables."""
        lines = self._sock.recv(65536).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_for(self, name: str, value: str) -> dict[str, str]:
        """Receive until a message has this in it, and return it."""
        while value not in (message := self.receive()).get(name, ""):
            pass
        return message

    def is_silent(self, seconds: float) -> bool:
        """Return whether nothing more comes for this time."""
        self._sock.setblocking(False)
        try:
            while True:
                self._sock.recv(65536)
        except BlockingIOError:
            pass
        self._sock.settimeout(seconds)
        try:
            self._sock.recv(65536)
        except TimeoutError:
            return True
        finally:
            self._sock.settimeout(TIMEOUT)
        return False

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._sock.close()
