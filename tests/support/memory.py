"""Measure the peak memory of a process, fail for want of it, and see how full sockets are."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
import termios
from pathlib import Path
from typing import NoReturn

from support.fcgi.peer import Client
from support.processes import Process, ProcessGroup, wait_until


def no_memory(*_: object, **__: object) -> NoReturn:
    """Fail as a function does for which there is no memory."""
    raise MemoryError


class Measured:
    """A process of ``vsgi-fcgi`` that listens on ``app.sock``, and what its memory has grown by.

    Args:
        group: the group that it belongs to.
        argv: what the process is started with.
        path: where it listens.
    """

    def __init__(self, group: ProcessGroup, argv: list[str], path: Path) -> None:
        self.path = str(path)
        # Coverage would need memory too, and minutes for many tiny records.
        group.measured = False
        self.process: Process = group.start(argv, name="measured")
        wait_until(self._listens, "the socket")
        self._before = 0

    def _listens(self) -> bool:
        try:
            Client(self.path).close()
        except OSError:
            assert self.process.running, self.process.log()
            return False
        return True

    def begin(self) -> None:
        """Note what it needs now, before the load comes."""
        self._before = self._status("VmRSS")

    @property
    def grown(self) -> float:
        """MiB by which its peak is above what it needed before the load."""
        return (self._status("VmHWM") - self._before) / 1024

    def _status(self, field: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1])


def wait_until_read(sock: socket.socket) -> None:
    """Wait until the other side has read everything that was sent on a UNIX socket."""
    wait_until(lambda: not _unread(sock), "the other side to read")


def is_full(sock: socket.socket) -> bool:
    """Whether a UNIX socket takes not one more byte, because the other side does not read."""
    return _unread(sock) + 1 >= sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def _unread(sock: socket.socket) -> int:
    """Return how much memory the bytes need that the other side has not read."""
    size: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
    return size
