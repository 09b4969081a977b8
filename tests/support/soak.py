"""Requests of random sizes: some are aborted, and every byte of the others is checked."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, Protocol, Self

import gevent
from apps.chaos import published, unpublished
from apps.sums import content, digest
from gevent import socket

from vsgi_fcgi.exceptions import UpstreamBroken, UpstreamError

LARGEST = 1_000_000
_DIGEST_SIZE = 20
_FAILED = (500, 502, 503, 504)
"""How a web server, or the server itself, says that a request has failed; 500 is lighttpd's."""


class Response(AbstractContextManager[Any], Protocol):
    """A response of `FastCGIClient`, or of `WebClient`."""

    status: int

    def read(self, size: int = -1) -> bytes: ...


class Client(Protocol):
    """A `FastCGIClient`, or a `WebClient`."""

    def request(
        self, method: str, target: str, *, headers: Mapping[str, str], body: Any
    ) -> Response: ...


@dataclass(frozen=True)
class Asked:
    """A request that has ended.

    Attributes:
        began: when, by `time.monotonic`.
        ended: the same for its end.
        what: "right", "aborted", or why it failed.
        kind: "small", "upload", "download", "held" or "publish".
    """

    began: float
    ended: float
    what: str
    kind: str


class Soak:
    """Asks the app of ``apps/sums.py`` again and again, with many greenlets at once.

    Args:
        client: what it asks with.
        seed: makes it the same each time, as far as the machine allows.
        aborts: which share of the requests is given up.
        failures: whether requests may fail, as when the server is killed meanwhile.
        small: which share of the requests has at most 1000 bytes each way.
        polls: which share of the requests are long polls of ``apps/chaos.py``.
        largest: bytes of the largest response.
        largest_body: bytes of the largest body of a request.
        first: the number before that of the first request; no two may share a number.
        patience: seconds after which a request hangs.
        note: what is called with each request that has ended.

    Attributes:
        counts: requests by what became of them: "right", "aborted", "failed".
        bytes: bytes of bodies, both ways, that were checked.
    """

    def __init__(
        self,
        client: Client,
        seed: int,
        *,
        aborts: float = 0.05,
        failures: bool = False,
        small: float = 0.0,
        polls: float = 0.0,
        largest: int = LARGEST,
        largest_body: int = LARGEST,
        first: int = 0,
        patience: float = 60,
        note: Callable[[Asked], object] = lambda asked: None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self._client = client
        self._chance = random.Random(seed)
        self._aborts = aborts
        self._failures = failures
        self._small = small
        self._polls = polls
        self._largest = largest
        self._largest_body = largest_body
        self._number = first
        self._patience = patience
        self._note = note

    def run(
        self, *, greenlets: int, requests: int = 0, until: Callable[[], bool] = lambda: False
    ) -> None:
        """Go on until so many requests were made, or until the caller says so.

        Raises:
            AssertionError: an answer was wrong.
        """
        last = self._number + requests

        def asks() -> None:
            while self._number < last if requests else not until():
                self._number += 1
                if self._chance.random() < self._polls:
                    self._poll(self._number)
                else:
                    self._ask(self._number)

        asking = [gevent.spawn(asks) for _ in range(greenlets)]
        try:
            gevent.joinall(asking, raise_error=True)
        finally:
            gevent.killall(asking)

    def _size(self, largest: int = LARGEST) -> int:
        """From 0 to a MB: as many of one magnitude as of another."""
        return int(largest ** self._chance.random()) - 1

    def _ask(self, number: int) -> None:
        chance = self._chance
        most = 1000 if chance.random() < self._small else LARGEST
        size = self._size(min(most, self._largest))
        body = memoryview(b"")
        if chance.random() < 0.3:
            body = content(number + 1, self._size(min(most, self._largest_body)))
        given_up = chance.random() < self._aborts
        kind = "small" if max(size, len(body)) < 1000 else "upload" if body else "download"
        headers = {"X-Digest": digest(number, body).hex()}
        sent = _pieces(body) if chance.random() < 0.5 and body else body
        data = self._request(
            number, "PUT" if body else "GET", f"/{number}/{size}", kind, headers, sent, given_up
        )
        if data is None:
            return
        assert len(data) == size + _DIGEST_SIZE, f"request {number}: {len(data)} bytes"
        wanted = digest(number, data[:size])
        assert data[size:] == wanted == digest(number, content(number, size)), f"request {number}"
        self.bytes += len(data) + len(body)

    def _poll(self, number: int) -> None:
        """Wait for an item, and publish it until it has come."""
        poll = gevent.spawn(self._request, number, "GET", f"/poll/{number}", "held")
        # An item that is published before the request is held does not reach it.
        while not poll.ready():
            poll.join(self._chance.random() * 0.2)
            self._request(number, "POST", f"/answer/{number}", "publish")
        data = poll.get()
        right = published(number), unpublished(number)
        assert data is None or data in right, f"long poll {number}: {data!r}"

    def _request(
        self,
        number: int,
        method: str,
        target: str,
        kind: str,
        headers: Mapping[str, str] | None = None,
        body: Any = b"",
        given_up: bool = False,
    ) -> bytes | None:
        """Return the content of a response; None if it was given up, or has failed."""
        chance = self._chance
        began = time.monotonic()
        data = None
        try:
            with gevent.Timeout(chance.random() * 0.02 if given_up else self._patience) as timeout:
                response = self._client.request(method, target, headers=headers or {}, body=body)
                with response:
                    if given_up and chance.random() < 0.5:
                        response.read(chance.randint(0, LARGEST))
                        what = "aborted"
                    else:
                        data = response.read()
                        what = "right"
                        if self._failures and response.status in _FAILED:
                            what, data = str(response.status), None
                        else:
                            assert response.status == 200, (number, response.status, data)
        except gevent.Timeout as error:
            if error is not timeout or not given_up:
                raise AssertionError(f"request {number} hangs: {method} {target}") from error
            what = "aborted"
        except UpstreamError as error:
            if not self._failures:
                raise AssertionError(f"request {number} has failed") from error
            what = f"{error.status} {error}"
        self.counts[what if what in ("right", "aborted") else "failed"] += 1
        self._note(Asked(began, time.monotonic(), what, kind))
        if what not in ("right", "aborted"):
            gevent.sleep(0.01)
        return data


def _pieces(body: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(body), 20_000):
        yield body[at : at + 20_000]


class _Connection(HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.create_connection((self.host, self.port))


class WebClient:
    """Asks a web server as `FastCGIClient` asks the server, over kept connections.

    Args:
        port: the web server's port on loopback.
        prefix: where the app is mounted.
    """

    def __init__(self, port: int, prefix: str = "") -> None:
        self._port = port
        self._prefix = prefix
        self._idle: list[tuple[float, _Connection]] = []

    def request(
        self, method: str, target: str, *, headers: Mapping[str, str], body: Any
    ) -> WebResponse:
        """Send a request, and wait for the head of the response.

        Raises:
            UpstreamError: there is no response.
        """
        connection = self._take()
        try:
            target = self._prefix + target
            connection.request(method, target, body=body or None, headers=dict(headers))
            return WebResponse(connection, self._idle)
        except (OSError, HTTPException) as error:
            connection.close()
            raise UpstreamBroken(repr(error)) from error
        except BaseException:
            connection.close()
            raise

    def _take(self) -> _Connection:
        while self._idle:
            since, connection = self._idle.pop()
            # lighttpd closes a connection that is idle for 5 seconds, perhaps just now.
            if time.monotonic() - since < 2:
                return connection
            connection.close()
        return _Connection("127.0.0.1", self._port)

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop()[1].close()


class WebResponse:
    """A response of a web server, whose connection is kept if it was read."""

    def __init__(self, connection: _Connection, idle: list[tuple[float, _Connection]]) -> None:
        self._response = connection.getresponse()
        self._connection = connection
        self._idle = idle
        self.status = self._response.status

    def read(self, size: int = -1) -> bytes:
        """Read all, or so many bytes.

        Raises:
            UpstreamError: the body is incomplete.
        """
        try:
            return self._response.read(None if size < 0 else size)
        except (OSError, HTTPException) as error:
            self._response.close()
            self._connection.close()
            raise UpstreamBroken(repr(error), begun=True) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._response.isclosed() and self._connection.sock is not None:
            self._idle.append((time.monotonic(), self._connection))
        else:
            self._response.close()
            self._connection.close()
