"""Random FastCGI traffic for a running server: most of it is valid, and none of it is polite.

A `Visitor` is one connection. It begins requests, interleaves their records, cuts the bytes
anywhere, aborts, sends what it must not send, reads or does not read, and leaves in any way. The
answers that it gets must be those to its own requests.
"""

from __future__ import annotations

import random
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator

from apps.fuzzed import large
from support.fcgi import records
from support.fcgi.peer import Address, request_params

PATHS = ("/echo", "/echo", "/large", "/stream", "/poll", "/early", "/stderr", "/empty", "/publish")
RARE_PATHS = ("/fail", "/wrong")
_MAX_IDS = 6
_PATIENCE = 0.002
"""Maximum seconds for which a visitor waits for an answer, before it goes on as before."""

_RESET = struct.pack("ii", 1, 0)


class Visitor:
    """One connection to a server.

    Args:
        chance: decides everything.
        address: where the server listens.
        counts: counts the answers by their status, and what else happens.
    """

    def __init__(self, chance: random.Random, address: Address, counts: Counter[str]) -> None:
        self._chance = chance
        self._counts = counts
        self._sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self._sock.settimeout(20)
        if chance.random() < 0.2:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sock.connect(address)
        self._sock.setblocking(False)
        self._unsent = bytearray()
        self._received = bytearray()
        self._names: dict[int, list[tuple[str, str, int]]] = {}
        self._sending: dict[int, Iterator[bytes]] = {}
        self._at = 0
        self._stdout: dict[int, bytearray] = {}
        self._half_closed = False
        self.gone = False

    def step(self) -> None:
        """Do one thing, and read some of what has come."""
        chance = self._chance
        number = chance.random()
        if number < 0.25:
            self._begin()
        elif number < 0.75 and self._sending:
            id = chance.choice(list(self._sending))
            found = next(self._sending[id], None)
            if found is None:
                del self._sending[id]
            else:
                self._unsent += found
        elif number < 0.77 and self._names:
            self._unsent += records.abort(chance.choice(list(self._names)))
        elif number < 0.80:
            self._unsent += chance.choice(_ODD)
        elif number < 0.802:
            self._unsent += chance.choice(_INVALID)
        elif number < 0.804:
            self._half_close()
        elif number < 0.81:
            self.leave(reset=chance.random() < 0.3)
            return
        self._send()
        if not self.gone and chance.random() < 0.5:
            if chance.random() < 0.3:
                # The server gets some time, and perhaps answers.
                select.select([self._sock], [], [], _PATIENCE)
            self._receive(chance.choice((100, 5000, 200_000)))

    def _begin(self) -> None:
        chance = self._chance
        id = chance.randint(1, _MAX_IDS)
        if id in self._sending:
            return
        path = chance.choice(RARE_PATHS if chance.random() < 0.03 else PATHS)
        size = chance.choice((0, 0, 0, 5, 3000, 40_000))
        name = f"{chance.getrandbits(60):015x}"
        self._names.setdefault(id, []).append((name, path, size))
        self._sending[id] = self._request(id, f"{path}?{name}", size)

    def _request(self, id: int, target: str, size: int) -> Iterator[bytes]:
        chance = self._chance
        role = chance.choice((1,) * 30 + (2, 3, 9))
        keep_conn = chance.random() < 0.9
        more = {"HTTP_X": "x" * chance.choice((1,) * 20 + (900, 5000))}
        # Some announce a body that is longer or shorter.
        length = chance.choice((size,) * 9 + (None, size + 1, max(0, size - 1)))
        method = "POST" if size else "GET"
        block = records.pairs(request_params(target, length=length, method=method, more=more))
        if chance.random() < 0.02:
            block = chance.randbytes(40)
        content = bytes(size)
        yield records.begin(id, role, keep_conn=keep_conn)
        for kind, data in ((records.PARAMS, block), (records.STDIN, content)):
            step = chance.choice((7, 300, 9000, 65535)) if len(data) < 9000 else 9000
            for at in range(0, len(data), step):
                padding = bytes(chance.choice((0, 0, 7, 255)))
                yield records.record(kind, id, data[at : at + step], padding=padding)
            yield records.record(kind, id)

    def _send(self) -> None:
        """Send as much as the server takes, or only a few bytes, which may end anywhere."""
        size = self._chance.choice((3, 50, 100_000, 100_000))
        if self._half_closed:
            self._unsent.clear()
        try:
            sent = self._sock.send(self._unsent[:size]) if self._unsent else 0
            del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.leave()

    def _half_close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.leave()
        self._half_closed = True

    def _receive(self, size: int) -> bool:
        """Read some bytes, check whole records, and return whether the connection is open."""
        if self.gone:
            return False
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self.leave()
            return False
        self._received += data
        while len(self._received) - self._at >= 8:
            header = struct.unpack_from(">BBHHBx", self._received, self._at)
            end = self._at + 8 + header[3] + header[4]
            if end > len(self._received):
                break
            content = bytes(self._received[self._at + 8 : self._at + 8 + header[3]])
            self._at = end
            self._record(header[0], header[1], header[2], content)
        del self._received[: self._at]
        self._at = 0
        return True

    def _record(self, version: int, kind: int, id: int, content: bytes) -> None:
        if version == 0:
            self._counts["broken off"] += 1  # an invalid record, and then the end
            return
        assert version == 1
        if id == 0:
            self._counts[f"management {kind}"] += 1
        elif kind == records.STDOUT:
            self._stdout.setdefault(id, bytearray()).extend(content)
        elif kind == records.END_REQUEST:
            _, status = struct.unpack(">IB3x", content)
            self._check(id, status, bytes(self._stdout.pop(id, b"")))
        else:
            assert kind == records.STDERR, kind

    def _check(self, id: int, protocol_status: int, stdout: bytes) -> None:
        """Check that an answer is one to a request with this id, and whole."""
        head, _, body = stdout.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.partition(": ")[::2] for line in lines)
        self._counts[f"status {headers.get('Status', 'none')[:3]}"] += 1
        name = headers.get("X-Name")
        assert id in self._names, f"an answer to {id}, which was never used: {stdout[:200]!r}"
        if name is None:
            return  # the answer of the server itself
        found = [each for each in self._names[id] if each[0] == name]
        assert found, f"a crossed answer: {name} is not one of {self._names[id]}"
        path = found[0][1]
        if protocol_status == 0 and path == "/large":
            whole = b"".join(large(name.encode()))
            # An abort ends it anywhere.
            assert whole.startswith(body), f"{len(body)} wrong bytes"
        elif path in ("/echo", "/early", "/stderr", "/stream"):
            assert body == b"" or body.startswith(name.encode()), body[:200]

    def leave(self, *, reset: bool = False) -> None:
        """Close the connection; what was not read is lost."""
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._sock.close()
        self.gone = True


_ODD = (
    records.record(77, 0, b"what"),
    records.get_values("FCGI_MPXS_CONNS", "FCGI_MAX_CONNS"),
    records.record(records.DATA, 1, b"data of no filter"),
    records.record(records.STDIN, 999, b"of an id that is not in use"),
    records.record(records.STDIN, 2),
    records.record(records.PARAMS, 3),
    records.abort(4),
    records.abort(998),
)
"""Records that a server must bear."""

_INVALID = (
    b"GET / HTTP/1.1\r\n\r\n",
    records.record(records.STDOUT, 1, b"x"),
    records.record(records.BEGIN_REQUEST, 1, b"short"),
    records.record(records.GET_VALUES, 5, b""),
    records.record(records.STDIN, 1, b"x", version=2),
)
"""Bytes after which a server must end the connection."""


def drive(
    addresses: list[Address],
    seed: int,
    wanted: Callable[[int], bool],
    between: Callable[[random.Random], object] = lambda _: None,
    most: int = 12,
) -> Counter[str]:
    """Visit servers with random traffic, until all visitors have left.

    Args:
        addresses: where they listen.
        seed: decides everything but the timing.
        wanted: returns whether to go on after so many steps.
        between: called now and then, to publish something.
        most: maximum connections at the same time.

    Returns:
        The answers by their status, and what else happened.
    """
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    visitors: list[Visitor] = []
    steps = 0
    try:
        while wanted(steps):
            steps += 1
            if len(visitors) < most and chance.random() < 0.2:
                visitors.append(Visitor(chance, chance.choice(addresses), counts))
                counts["connections"] += 1
            elif visitors:
                visitor = chance.choice(visitors)
                visitor.step()
                if visitor.gone:
                    visitors.remove(visitor)
            if chance.random() < 0.01:
                between(chance)
    finally:
        for visitor in visitors:
            if not visitor.gone:
                visitor.leave()
    return counts
