"""A web server's end of a FastCGI connection, for tests: a plain blocking socket.

It sends any bytes that a test asks for, and sorts the responses by request. Everything that
waits has a deadline: what a server never sends must fail a test and not hang it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from support.fcgi import records
from support.fcgi.records import END_REQUEST, STDERR, STDOUT, Record

Address = str | tuple[str, int]
"""A UNIX socket's path (abstract with a leading NUL), or host and port."""

DEADLINE = 20.0
"""Seconds after which anything that is waited for counts as never coming."""


@dataclass
class Answer:
    """The response to one request so far."""

    id: int
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    order: list[str] = field(default_factory=list)
    """The streams in the order of their records, "out" or "err", each run of records once."""
    ended: bool = False
    app_status: int = -1
    protocol_status: int = -1

    def take(self, record: Record) -> None:
        assert not self.ended, f"{record} after END_REQUEST"
        if record.kind == END_REQUEST:
            self.ended = True
            self.app_status, self.protocol_status = struct.unpack(">IB3x", record.content)
        elif record.content:
            name, stream = {STDOUT: ("out", self.stdout), STDERR: ("err", self.stderr)}[record.kind]
            stream += record.content
            if self.order[-1:] != [name]:
                self.order.append(name)

    @property
    def head(self) -> list[str]:
        head, separator, _ = bytes(self.stdout).partition(b"\r\n\r\n")
        assert separator, f"no whole header block in {head[:200]!r}"
        return head.decode("latin-1").split("\r\n")

    @property
    def status(self) -> int:
        (value,) = (line[8:] for line in self.head if line.startswith("Status: "))
        return int(value[:3])

    @property
    def headers(self) -> dict[str, str]:
        pairs = [line.split(": ", 1) for line in self.head]
        return {name.lower(): value for name, value in pairs if name != "Status"}

    @property
    def body(self) -> bytes:
        return bytes(self.stdout).partition(b"\r\n\r\n")[2]


class Client:
    """One connection to a server.

    Args:
        address: where it listens.
        receive_buffer: bytes of the kernel's receive buffer, or None for its own choice.
        source: the IP address to come from.
    """

    def __init__(
        self, address: Address, *, receive_buffer: int | None = None, source: str | None = None
    ) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family)
        try:
            if receive_buffer is not None:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source is not None:
                self.sock.bind((source, 0))
            self.sock.settimeout(DEADLINE)
            self.sock.connect(address)
        except BaseException:
            self.sock.close()
            raise
        self.answers: dict[int, Answer] = {}
        self.management: list[Record] = []
        self._received = bytearray()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Sending.

    def send(self, data: bytes) -> None:
        """Send all of it; a server that does not read for long is an error."""
        self.sock.settimeout(DEADLINE)
        self.sock.sendall(data)

    def start(
        self,
        id: int,
        path: str = "/",
        *,
        length: int | None = None,
        keep_conn: bool = True,
        method: str = "GET",
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Send BEGIN_REQUEST and PARAMS; STDIN is still to come."""
        self.send(
            records.begin(id, keep_conn=keep_conn)
            + records.params(id, request_params(path, length=length, method=method, more=more))
        )

    def stdin(self, id: int, data: bytes = b"", *, end: bool = True) -> None:
        self.send(records.stdin(id, data, end=end))

    def abort(self, id: int) -> None:
        self.send(records.abort(id))

    def ask(
        self,
        id: int,
        path: str = "/",
        body: bytes | None = None,
        *,
        keep_conn: bool = True,
        method: str = "",
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole request in one piece."""
        self.send(whole_request(id, path, body, keep_conn=keep_conn, method=method, more=more))

    def flood(self, data: bytes) -> None:
        """Send the same over and over, until the deadline or an error."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            self.send(data)

    # Receiving.

    def read_record(self, deadline: float | None = None) -> Record | None:
        """Read one record.

        Returns:
            The record, or None at the end of the connection.

        Raises:
            TimeoutError: neither came before the deadline (of `time.monotonic`).
        """
        header = self._read(8, deadline)
        if header is None:
            return None
        version, kind, id, length, padding = struct.unpack(">BBHHBx", header)
        assert version == 1, header
        content = self._read(length + padding, deadline)
        assert content is not None, "the connection ended in the middle of a record"
        return Record(kind, id, content[:length], padding)

    def _read(self, size: int, deadline: float | None) -> bytes | None:
        deadline = deadline or time.monotonic() + DEADLINE
        while len(self._received) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("nothing more came")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(262144)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self._received, "the connection ended in the middle of a record"
                return None
            self._received += data
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def collect(self, deadline: float | None = None) -> Record | None:
        """Read one record and sort it in."""
        record = self.read_record(deadline)
        if record is None:
            return None
        if record.id == 0:
            self.management.append(record)
            return record
        answer = self.answers.get(record.id)
        if answer is None or answer.ended:
            answer = self.answers[record.id] = Answer(record.id)
        answer.take(record)
        return record

    def collect_until(self, enough: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Read until ``enough()``; the end of the connection before that is an error."""
        deadline = time.monotonic() + seconds
        while not enough():
            assert self.collect(deadline) is not None, "the server closed the connection"

    def answer(self, id: int, seconds: float = DEADLINE) -> Answer:
        """Read until a request has ended, and take its answer out."""
        self.collect_until(lambda: id in self.answers and self.answers[id].ended, seconds)
        return self.answers.pop(id)

    def get(self, path: str = "/", body: bytes | None = None, id: int = 1) -> Answer:
        """Ask, and read the answer."""
        self.ask(id, path, body)
        return self.answer(id)

    def read_to_end(self, seconds: float = DEADLINE) -> None:
        """Read until the server closes the connection."""
        deadline = time.monotonic() + seconds
        while self.collect(deadline) is not None:
            pass


def request_params(
    path: str = "/",
    *,
    length: int | None = None,
    method: str = "GET",
    more: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The params that a web server would send."""
    path_info, _, query = path.partition("?")
    params = {
        "REQUEST_METHOD": method,
        "REQUEST_URI": path,
        "SCRIPT_NAME": "",
        "PATH_INFO": path_info,
        "QUERY_STRING": query,
        "SERVER_NAME": "test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }
    if length is not None:
        params["CONTENT_LENGTH"] = str(length)
    return {**params, **(more or {})}


def whole_request(
    id: int,
    path: str = "/",
    body: bytes | None = None,
    *,
    keep_conn: bool = True,
    method: str = "",
    more: Mapping[str, str] | None = None,
) -> bytes:
    """All records of a request; with a body, CONTENT_LENGTH too."""
    length = None if body is None else len(body)
    method = method or ("GET" if body is None else "POST")
    values = request_params(path, length=length, method=method, more=more)
    return records.request(id, values, body or b"", keep_conn=keep_conn)


@contextlib.contextmanager
def several(address: Address, count: int) -> Iterator[list[Client]]:
    """Several connections, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(address)) for _ in range(count)]
