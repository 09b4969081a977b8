"""Requests of random sizes: some are aborted, and every byte of the others is checked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import gevent
from apps.sums import content, digest

from vsgi_fcgi.client import FastCGIClient
from vsgi_fcgi.exceptions import UpstreamError

LARGEST = 1_000_000
_DIGEST_SIZE = 20


class Soak:
    """Asks the app of ``apps/sums.py`` again and again, with many greenlets at once.

    Args:
        client: what it asks with.
        seed: makes it the same each time, as far as the machine allows.
        aborts: which share of the requests is given up.
        failures: whether requests may fail, as when the server is killed meanwhile.

    Attributes:
        counts: requests by what became of them: "right", "aborted", "failed".
        bytes: bytes of bodies, both ways, that were checked.
    """

    def __init__(
        self, client: FastCGIClient, seed: int, *, aborts: float = 0.05, failures: bool = False
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self._client = client
        self._chance = random.Random(seed)
        self._aborts = aborts
        self._failures = failures
        self._number = 0

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
                self._ask(self._number)

        asking = [gevent.spawn(asks) for _ in range(greenlets)]
        try:
            gevent.joinall(asking, raise_error=True)
        finally:
            gevent.killall(asking)

    def _size(self) -> int:
        """From 0 to a MB: as many of one magnitude as of another."""
        return int(LARGEST ** self._chance.random()) - 1

    def _ask(self, number: int) -> None:
        chance = self._chance
        size = self._size()
        body = content(number + 1, self._size()) if chance.random() < 0.3 else memoryview(b"")
        given_up = chance.random() < self._aborts
        method = "PUT" if body else "GET"
        headers = {"X-Digest": digest(number, body).hex()}
        streamed = chance.random() < 0.5
        try:
            with gevent.Timeout(chance.random() * 0.02 if given_up else 60) as timeout:
                response = self._client.request(
                    method,
                    f"/{number}/{size}",
                    headers=headers,
                    body=_pieces(body) if streamed else body,
                )
                with response:
                    if given_up and chance.random() < 0.5:
                        response.read(chance.randint(0, size))
                        self.counts["aborted"] += 1
                        return
                    data = response.read()
        except gevent.Timeout as error:
            if error is not timeout or not given_up:
                raise AssertionError(f"request {number} hangs") from error
            self.counts["aborted"] += 1
            return
        except UpstreamError as error:
            if not self._failures:
                raise AssertionError(f"request {number} has failed") from error
            self.counts["failed"] += 1
            gevent.sleep(0.01)
            return
        assert response.status == 200, f"request {number}: {response.status} {data!r}"
        assert len(data) == size + _DIGEST_SIZE, f"request {number}: {len(data)} bytes"
        wanted = digest(number, data[:size])
        assert data[size:] == wanted == digest(number, content(number, size)), f"request {number}"
        self.counts["right"] += 1
        self.bytes += len(data) + len(body)


def _pieces(body: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(body), 20_000):
        yield body[at : at + 20_000]
