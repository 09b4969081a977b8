"""Test many requests on one connection: fairness, and unmixed bytes."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from support.fcgi import records
from support.fcgi.peer import Client, whole_request
from support.server import WORKERS, respond, running

from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

MIB = 1024 * 1024


def sized_app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """``/size/piece`` bytes, with their checksum in a header's stead: at the end of the body."""
    size, piece = map(int, environ["PATH_INFO"].strip("/").split("/"))
    seed = environ["QUERY_STRING"].encode()
    digest = hashlib.blake2b(environ["wsgi.input"].read(), digest_size=16)
    return respond(start_response, _pieces(seed, size, piece, digest.digest()))


def _pieces(seed: bytes, size: int, piece: int, last: bytes) -> Iterator[bytes]:
    number = 0
    while size > 0:
        number += 1
        part = (hashlib.md5(seed + b"%d" % number).digest() * (piece // 16 + 1))[: min(piece, size)]
        yield part
        size -= len(part)
    yield last


def expected(seed: bytes, size: int, piece: int, body: bytes) -> bytes:
    last = hashlib.blake2b(body, digest_size=16).digest()
    return b"".join(_pieces(seed, size, piece, last))


def test_small_answers_do_not_wait_for_a_large_one_on_their_connection() -> None:
    size = 50 * MIB

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/large":
            block = bytes(MIB)
            return respond(start_response, (block for _ in range(size // MIB)))
        return respond(start_response, b"small")

    with running(app, output_memory_bytes=32 * MIB, output_wait=0.001) as server:
        client = server.connect()
        client.ask(1, "/large")
        client.collect_until(lambda: 1 in client.answers and len(client.answers[1].stdout) > MIB)
        came: list[int] = []
        for id in range(2, 12):
            before = len(client.answers[1].stdout)
            client.ask(id, "/small")
            assert client.answer(id).body == b"small"
            came.append(len(client.answers[1].stdout) - before)
        # What lay in the kernel and in one batch goes first, and what passes while the worker of
        # the small one waits for the interpreter (5 ms and some MiB, on a busy machine). Behind
        # the large one it would be the 32 MiB that wait in memory.
        assert len(client.answers[1].stdout) < size
        assert sorted(came)[5] < 10 * MIB
        assert len(client.answer(1, 30).body) == size


def test_large_answers_on_one_connection_advance_together() -> None:
    # All of them are there to be sent, however late a worker gets the processor.
    begun = threading.Barrier(4)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        begun.wait(10)
        return sized_app(environ, start_response)

    with running(app, threads=4) as server:
        client = server.connect()
        ids = range(1, 5)
        size = 4 * MIB
        client.send(b"".join(whole_request(id, f"/{size}/65536") for id in ids))
        client.collect_until(lambda: any(answer.ended for answer in client.answers.values()))
        sizes = [len(client.answers[id].stdout) for id in ids]
        assert min(sizes) > size / 4, sizes
        for id in ids:
            client.answer(id)


@pytest.mark.parametrize("worker", WORKERS)
def test_soak(worker: str) -> None:
    """Requests of random sizes, interleaved and cut anywhere, some given up: none is mixed up."""
    seed = 20240607
    settings: dict[str, Any] = {
        "body_memory_bytes": 20_000,
        "output_memory_bytes": 16_384,
        "output_spool_bytes": 100_000,
        "output_wait": 0.0005,
    }
    with running(sized_app, worker=worker, threads=4, **settings) as server:
        for number in range(2):
            Soak(random.Random(seed + number), server.connect()).run(350)


class Soak:
    """Drives one connection with many requests at once."""

    def __init__(self, chance: random.Random, client: Client) -> None:
        self.chance = chance
        self.client = client
        self.wanted: dict[int, bytes | None] = {}
        """By id, the body that must come; None for a request that was given up."""
        self.checked = 0
        self.given_up = 0

    def run(self, count: int) -> None:
        started = 0
        while started < count or self.wanted:
            burst = bytearray()
            streams = []
            for _ in range(self.chance.randint(1, 12)):
                if started < count and len(self.wanted) < 60:
                    started += 1
                    streams.append(self._new_request(started))
            # The records of several requests, shuffled but for the order within each.
            while streams:
                stream = self.chance.choice(streams)
                burst += stream.pop(0)
                if not stream:
                    streams.remove(stream)
            active = [id for id, body in self.wanted.items() if body is not None]
            if active and self.chance.random() < 0.5:
                victim = self.chance.choice(active)
                burst += records.abort(victim)
                self.wanted[victim] = None
                self.given_up += 1
            cut = self.chance.randint(0, len(burst))
            self.client.send(bytes(burst[:cut]))
            self.client.send(bytes(burst[cut:]))
            goal = self.chance.randint(0, 60) if started < count else 0
            while len(self.wanted) > goal:
                record = self.client.collect()
                assert record is not None
                if record.kind == records.END_REQUEST:
                    self._check(record.id)
        assert self.checked + self.given_up >= count
        assert self.checked > count / 2

    def _new_request(self, number: int) -> list[bytes]:
        chance = self.chance
        id = chance.choice([id for id in range(1, 100) if id not in self.wanted])
        size = chance.choice([0, 1, 100, 5000, 20_000, 70_000, 200_000])
        piece = chance.choice([100, 4096, 30_000, 100_000])
        body = chance.randbytes(chance.choice([0, 0, 10, 5000, 50_000]))
        seed = b"%d" % number
        self.wanted[id] = expected(seed, size, piece, body)
        data = whole_request(id, f"/{size}/{piece}?{number}", body)
        return _records_of(data)

    def _check(self, id: int) -> None:
        answer = self.client.answers.pop(id)
        wanted = self.wanted.pop(id)
        if wanted is not None:
            assert answer.status == 200
            assert answer.body == wanted
            self.checked += 1


def _records_of(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 6], "big") + data[at + 6]
        found.append(data[at:end])
        at = end
    return found
