"""A FastCGI application on real sockets that follows the script of a test."""

from __future__ import annotations

import contextlib
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from support.fcgi import records
from support.fcgi.peer import DEADLINE
from support.fcgi.records import Record

HEAD = b"Content-Type: text/plain\r\n\r\n"
MULTIPLEXES = {"FCGI_MAX_CONNS": "100", "FCGI_MAX_REQS": "100", "FCGI_MPXS_CONNS": "1"}
ONE_AT_A_TIME = {"FCGI_MAX_CONNS": "1", "FCGI_MAX_REQS": "1", "FCGI_MPXS_CONNS": "0"}


def stdout(id: int, data: bytes = b"", *, end: bool = True) -> bytes:
    return records.stream(records.STDOUT, id, data, end=end)


def end_request(id: int, app_status: int = 0, protocol_status: int = 0) -> bytes:
    content = struct.pack(">IB3x", app_status, protocol_status)
    return records.record(records.END_REQUEST, id, content)


def answer(id: int, body: bytes, *, app_status: int = 0) -> bytes:
    """A whole answer."""
    return stdout(id, HEAD + body) + end_request(id, app_status)


@dataclass
class Asked:
    """A request that has come.

    Attributes:
        keep_conn: whether the connection is to stay open.
        block: its params, encoded.
        streams: the received STDIN and DATA, by type.
    """

    id: int
    role: int
    keep_conn: bool
    block: bytes = b""
    streams: dict[int, bytes] = field(default_factory=dict)

    @property
    def stdin(self) -> bytes:
        return self.streams.get(records.STDIN, b"")


class Peer:
    """The application's end of one connection.

    Attributes:
        asked: the requests that have begun, by id; one that begins later takes its place.
        aborted: ids for which ABORT_REQUEST has come, in order.
        values: the names that GET_VALUES has asked for; None if it has not come.
        ended: the client has closed the connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked: dict[int, Asked] = {}
        self.aborted: list[int] = []
        self.values: bytes | None = None
        self.ended = False
        self._received = b""
        self._ended_streams: set[tuple[int, int]] = set()

    def send(self, data: bytes) -> None:
        self.sock.settimeout(DEADLINE)
        self.sock.sendall(data)

    def read(self) -> Record | None:
        """Read one record, and note what it says.

        Returns:
            The record; None at the end of the connection, also if that cuts a record off.
        """
        header = self._read(8)
        if header is None:
            return None
        version, kind, id, length, padding = struct.unpack(">BBHHBx", header)
        assert version == 1
        content = self._read(length + padding)
        if content is None:
            return None
        record = Record(kind, id, content[:length], padding)
        self._note(record)
        return record

    def _read(self, size: int) -> bytes | None:
        self.sock.settimeout(DEADLINE)
        while len(self._received) < size:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                self.ended = True
                self._received = b""
                return None
            self._received += data
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _note(self, record: Record) -> None:
        kind, id, content, _ = record
        if kind == records.BEGIN_REQUEST:
            role, flags = struct.unpack(">HB5x", content)
            self.asked[id] = Asked(id, role, bool(flags & 1))
            self._ended_streams = {pair for pair in self._ended_streams if pair[1] != id}
        elif kind == records.ABORT_REQUEST:
            self.aborted.append(id)
        elif kind == records.GET_VALUES:
            self.values = content
        elif not content:
            self._ended_streams.add((kind, id))
        elif kind == records.PARAMS:
            self.asked[id].block += content
        else:
            streams = self.asked[id].streams
            streams[kind] = streams.get(kind, b"") + content

    def read_until(self, enough: Callable[[], object]) -> None:
        """Read until something is so; the end of the connection before that is an error."""
        while not enough():
            assert self.read() is not None, "the client has closed the connection"

    def has_ended(self, id: int, kind: int = records.STDIN) -> bool:
        """Whether a stream of a request has ended."""
        return (kind, id) in self._ended_streams

    def request(self, id: int = 1, last: int = records.STDIN) -> Asked:
        """Wait until a request is complete."""
        self.read_until(lambda: id in self.asked and self.has_ended(id, last))
        return self.asked[id]

    def say_values(self, values: records.Pairs = MULTIPLEXES) -> None:
        """Wait for GET_VALUES, and answer."""
        self.read_until(lambda: self.values is not None)
        self.send(records.record(records.GET_VALUES_RESULT, 0, records.pairs(values)))

    def wait_for_abort(self, id: int) -> None:
        self.read_until(lambda: id in self.aborted)

    def until_closed(self) -> None:
        """Read, and say nothing more, until the client closes the connection."""
        while self.read() is not None:
            pass


Script = Callable[[Peer], object]


class Scripted:
    """Plays a script to each connection: the first to the first, the last to all that are left.

    Attributes:
        address: where it listens, as `FastCGIClient` takes it.
        peers: the connections so far.
    """

    def __init__(self, address: str, sock: socket.socket, scripts: tuple[Script, ...]) -> None:
        self.address = address
        self.peers: list[Peer] = []
        self.errors: list[BaseException] = []
        self._sock = sock
        self._scripts = scripts
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            peer = Peer(sock)
            script = self._scripts[min(len(self.peers), len(self._scripts) - 1)]
            self.peers.append(peer)
            thread = threading.Thread(target=self._play, args=(script, peer))
            self._threads.append(thread)
            thread.start()

    def _play(self, script: Script, peer: Peer) -> None:
        try:
            script(peer)
        except (BrokenPipeError, ConnectionResetError):
            peer.ended = True
        except BaseException as error:
            self.errors.append(error)
        finally:
            peer.sock.close()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self._sock.close()
        deadline = time.monotonic() + DEADLINE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a script has not ended"


@contextlib.contextmanager
def scripted(*scripts: Script, backlog: int = 100) -> Iterator[Scripted]:
    """An application that listens on a UNIX socket; leave it after its clients."""
    with tempfile.TemporaryDirectory(prefix="vsgi-fcgi-test-") as folder:
        path = f"{folder}/app.sock"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen(backlog)
        this = Scripted(f"unix:{path}", sock, scripts)
        try:
            yield this
        finally:
            this.stop()
        if this.errors:
            raise this.errors[0]
