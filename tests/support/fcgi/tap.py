"""Forward bytes between a web server and the server, and record them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from support.fcgi.records import BEGIN_REQUEST, GET_VALUES, GET_VALUES_RESULT, PARAMS, Record

_HEADER = 8


class Line:
    """One connection through the tap.

    Attributes:
        asked: the bytes that the web server has sent.
        answered: the bytes that the server has sent.
        ended: both have closed it.
    """

    def __init__(self) -> None:
        self.asked = bytearray()
        self.answered = bytearray()
        self.ended = False

    def requests(self) -> list[Record]:
        """The whole records of the web server, in order."""
        return list(_whole_records(bytes(self.asked)))

    def answers(self) -> list[Record]:
        """The whole records of the server, in order."""
        return list(_whole_records(bytes(self.answered)))

    def ids(self) -> list[int]:
        """The ids of the requests, in the order of their beginning."""
        return [record.id for record in self.requests() if record.kind == BEGIN_REQUEST]

    def kinds(self, id: int) -> list[int]:
        """The types of the records that the web server has sent for a request."""
        return [record.kind for record in self.requests() if record.id == id]

    def params(self, id: int) -> list[tuple[str, str]]:
        """Return the params of a request as sent: a name may occur twice."""
        found = [record for record in self.requests() if (record.kind, record.id) == (PARAMS, id)]
        return list(_pairs(b"".join(record.content for record in found)))

    def values(self) -> tuple[list[str], dict[str, str]]:
        """The names that GET_VALUES asked for, and the values that it got."""
        names = [record for record in self.requests() if record.kind == GET_VALUES]
        got = [record for record in self.answers() if record.kind == GET_VALUES_RESULT]
        return (
            [name for record in names for name, _ in _pairs(record.content)],
            dict(pair for record in got for pair in _pairs(record.content)),
        )


class Tap:
    """Listens where the web server is sent, and passes on to the server.

    Args:
        path: the UNIX socket that it makes.
        server: the server's UNIX socket.

    Attributes:
        lines: the connections, in the order in which they came.
    """

    def __init__(self, path: Path, server: Path) -> None:
        self.path = path
        self._server = server
        self.lines: list[Line] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1024)

        self._start(self._accept)

    def close(self) -> None:
        """Cut all connections, and listen no more."""
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
            assert not thread.is_alive()
        for sock in [self._listener, *self._open]:
            sock.close()

    def _start(self, function: Callable[..., None], *args: object) -> None:
        # A daemon: a test that fails may not close it, and the run of the tests must end.
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                front, _ = self._listener.accept()
            except OSError:
                return  # it was shut down
            back = socket.socket(socket.AF_UNIX)
            back.connect(str(self._server))
            self._open |= {front, back}
            line = Line()
            self.lines.append(line)
            self._start(self._pass, front, back, line.asked, line)
            self._start(self._pass, back, front, line.answered, line)

    def _pass(
        self, source: socket.socket, target: socket.socket, kept: bytearray, line: Line
    ) -> None:
        """Pass bytes one way until an end; the end of one way is the end of both."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                kept += data
                target.sendall(data)
        line.ended = True
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _whole_records(data: bytes) -> Iterator[Record]:
    at = 0
    while at + _HEADER <= len(data):
        version, kind, id, length, padding = struct.unpack_from(">BBHHBx", data, at)
        assert version == 1, f"version {version} at byte {at}"
        end = at + _HEADER + length + padding
        if end > len(data):
            return
        yield Record(kind, id, data[at + _HEADER : at + _HEADER + length], padding)
        at = end


def _pairs(data: bytes) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(data):
        sizes = []
        for _ in range(2):
            size = data[at]
            if size < 128:
                at += 1
            else:
                size = struct.unpack_from(">I", data, at)[0] & 0x7FFFFFFF
                at += 4
            sizes.append(size)
        name = data[at : at + sizes[0]]
        value = data[at + sizes[0] : at + sum(sizes)]
        at += sum(sizes)
        yield name.decode("latin-1"), value.decode("latin-1")
