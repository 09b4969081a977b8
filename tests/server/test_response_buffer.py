"""Test unsent output: in memory, then in a file, then the app waits; nothing is lost."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.fcgi.peer import whole_request
from support.server import (
    WORKERS,
    echo,
    exchange_of,
    hello,
    logged,
    respond,
    running,
    wait_in_app,
    wait_until,
)

from vsgi_fcgi.exceptions import ClientDisconnected
from vsgi_fcgi.server.exchange import State
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

KIB = 1024
TINY: dict[str, Any] = {
    "output_memory_bytes": 4 * KIB,
    "output_spool_bytes": 50_000,
    "output_wait": 0.001,
}
"""A file that is no multiple of the pieces, so that it wraps around in the middle of one."""


def stream(size: int, piece: int) -> Iterator[bytes]:
    """Bytes that differ everywhere, so that a piece in the wrong place is seen."""
    number = 0
    while size > 0:
        part = hashlib.shake_128(b"%d" % number).digest(min(piece, size))
        yield part
        size -= len(part)
        number += 1


class Streamer:
    """Streams ``/size/piece``, and counts what it has yielded and how it ended."""

    def __init__(self) -> None:
        self.yielded = 0
        self.errors: list[BaseException] = []
        self.closed = threading.Event()
        self.paths_ended: list[str] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, self._stream(environ["PATH_INFO"]))

    def _stream(self, path: str) -> Iterator[bytes]:
        size, piece = map(int, path.strip("/").split("/"))
        try:
            for part in stream(size, piece):
                self.yielded += len(part)
                yield part
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.paths_ended.append(path)
            self.closed.set()


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("piece", [100, 4096, 10_007, 70_000, 700_000])
def test_a_slow_reader_gets_every_byte_in_order(piece: int, worker: str) -> None:
    size = min(2_000_000, 4000 * piece)
    with running(Streamer(), worker=worker, **TINY) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, f"/{size}/{piece}")
        # Not read until much has gone to the file; then in bursts, so that file and memory mix.
        wait_until(lambda: server.context.services.spool.used > 0)
        assert client.answer(1).body == b"".join(stream(size, piece))


@pytest.mark.parametrize("worker", WORKERS)
def test_several_slow_answers_on_one_connection_keep_their_own_bytes(worker: str) -> None:
    with running(Streamer(), worker=worker, **TINY) as server:
        client = server.connect(receive_buffer=4096)
        sizes = {id: 100_000 + 37_123 * id for id in range(1, 7)}
        for id, size in sizes.items():
            client.ask(id, f"/{size}/{1000 * id}")
        wait_until(lambda: server.context.services.spool.used > 0)
        for id, size in sizes.items():
            assert client.answer(id).body == b"".join(stream(size, 1000 * id))


def test_output_is_held_in_memory_then_in_the_file_then_the_app_waits() -> None:
    app = Streamer()
    with running(app, threads=1, **TINY) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, f"/{10_000_000}/1000")
        wait_until(lambda: server.context.services.spool.used == 50_000)
        settled = _settle(app)
        in_kernel = server.connection().writer.sent
        # One slice more may have left the queue for the one writer.
        assert settled <= in_kernel + 4 * KIB + 50_000 + 65_536 + 2000
        assert server.context.services.memory.used <= 4 * KIB + 65_536 + 2000
        assert hashlib.sha256(client.answer(1).body).digest() == _digest(10_000_000, 1000)


def _settle(app: Streamer) -> int:
    """Wait until the app gets no further, and return how far it got."""
    before = -1
    for _ in range(1000):
        if app.yielded == before:
            return before
        before = app.yielded
        app.closed.wait(0.05)
    raise AssertionError(f"the app was never held up; it yielded {app.yielded} bytes")


def _digest(size: int, piece: int) -> bytes:
    digest = hashlib.sha256()
    for part in stream(size, piece):
        digest.update(part)
    return digest.digest()


@pytest.mark.parametrize("worker", WORKERS)
def test_a_file_that_takes_a_whole_answer_frees_the_worker(worker: str) -> None:
    """The reader never reads; the app has long ended, and others are served."""
    app = Streamer()
    with running(app, worker=worker, threads=1, output_wait=0.001) as server:
        stuck = server.connect(receive_buffer=4096)
        stuck.ask(1, f"/{10 * 1024 * KIB}/65536")
        assert app.closed.wait(20)
        assert app.errors == []
        other = server.connect()
        for _ in range(20):
            assert len(other.get("/1000/1000").body) == 1000
        assert hashlib.sha256(stuck.answer(1).body).digest() == _digest(10 * 1024 * KIB, 65536)


@pytest.mark.parametrize("worker", WORKERS)
def test_files_that_cannot_be_made_leave_the_app_waiting(tmp_path: Path, worker: str) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with (
        logged() as log,
        running(Streamer(), worker=worker, spool_dir=str(folder), output_wait=0.001) as server,
    ):
        folder.rmdir()
        client = server.connect(receive_buffer=4096)
        client.ask(1, "/3000000/10000")
        log.wait_for("cannot write output to a temporary file")
        assert client.answer(1).body == b"".join(stream(3_000_000, 10_000))


def test_the_total_of_all_files_leaves_the_app_waiting() -> None:
    settings: dict[str, Any] = {**TINY, "total_spool_bytes": 20_000, "output_spool_bytes": 15_000}
    with running(Streamer(), threads=3, **settings) as server:
        clients = [server.connect(receive_buffer=4096) for _ in range(3)]
        for client in clients:
            client.ask(1, "/1000000/1000")
        wait_until(lambda: server.context.services.spool.used > 15_000)
        for client in clients:
            assert client.answer(1).body == b"".join(stream(1_000_000, 1000))
            assert server.context.services.spool.used <= 20_000


@pytest.mark.parametrize("size", [60_000, 200_000])
def test_memory_for_all_output_is_bounded(size: int) -> None:
    """Whole answers, too, that wait behind a reader that does not read."""
    limit = 512 * KIB
    count = 0

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal count
        count += 1
        return respond(start_response, b"x" * size)

    def has_run(requests: int) -> bool:
        return count == requests

    with running(app, threads=2, total_memory_bytes=limit, output_wait=0.001) as server:
        client = server.connect(receive_buffer=4096)
        ids = range(1, 1 + 6_000_000 // size)
        context = server.context
        for id in ids:
            client.ask(id)
            # One after the other, because the count lags behind a burst of quick responses.
            wait_until(partial(has_run, id))
        wait_until(lambda: context.services.spool.used + context.services.memory.used > 4_000_000)
        # The piece that is being written, and the batch in the kernel, come on top.
        assert context.services.memory.used < limit + 2 * 262_144 + 2 * 131_072
        for id in ids:
            assert client.answer(id).body == b"x" * size


def test_whole_answers_count_while_they_wait() -> None:
    large = Streamer()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/whole":
            return respond(start_response, b"x" * 60_000)
        return large(environ, start_response)

    with running(app, threads=1, output_wait=0.001) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, "/3000000/65536")
        assert large.closed.wait(20)
        before = server.context.services.memory.used
        for id in range(2, 12):
            client.ask(id, "/whole")
        wait_until(lambda: server.context.services.memory.used >= before + 9 * 60_000)
        for id in range(2, 12):
            assert client.answer(id).body == b"x" * 60_000
        client.answer(1)


def test_a_request_goes_on_although_others_hold_all_memory_and_there_are_no_files(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    settings: dict[str, Any] = {
        "total_memory_bytes": 64 * KIB,
        "spool_dir": str(folder),
        "output_wait": 0.001,
    }
    with running(Streamer(), threads=2, **settings) as server:
        folder.rmdir()
        stuck, other = server.connect(receive_buffer=4096), server.connect()
        stuck.ask(1, "/3000000/10000")
        wait_until(lambda: server.context.services.memory.used >= 64 * KIB)
        assert other.get("/500000/10000").body == b"".join(stream(500_000, 10_000))
        assert stuck.answer(1).body == b"".join(stream(3_000_000, 10_000))


def test_answers_that_pile_up_do_not_count_as_a_flood() -> None:
    """More than a MiB of finished answers waits for a reader that is merely slow."""
    release = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/late":
            wait_in_app(environ, release)
        return respond(start_response, b"x" * 60_000)

    with running(app, threads=2) as server:
        client = server.connect(receive_buffer=4096)
        ids = range(1, 100)
        client.ask(100, "/late")
        client.send(b"".join(whole_request(id) for id in ids))
        connection = server.connection()
        wait_until(lambda: connection.writer.blocked and not server.context.dispatcher.waiting)
        release.set()
        for id in [*ids, 100]:
            assert client.answer(id).body == b"x" * 60_000


@pytest.mark.parametrize("worker", WORKERS)
def test_a_reader_that_never_reads_is_closed_after_the_send_timeout(worker: str) -> None:
    app = Streamer()
    settings: dict[str, Any] = {**TINY, "send_timeout": 0.2}
    with logged() as log, running(app, worker=worker, threads=1, **settings) as server:
        stuck = server.connect(receive_buffer=4096)
        stuck.ask(1, "/10000000/1000")
        log.wait_for("nothing could be sent for 0.2 seconds")
        assert app.closed.wait(20)
        wait_until(lambda: not server.context.connections)
        assert server.connect().get("/10/10").body == b"".join(stream(10, 10))
    (error,) = app.errors
    assert isinstance(error, GeneratorExit | ClientDisconnected)


def test_a_connection_that_sends_all_the_time_is_not_stuck() -> None:
    """What the kernel takes whole counts as progress, too."""
    with running(echo) as server:
        client = server.connect()
        client.get("/", b"x" * 100_000)
        connection = server.connection()
        wait_until(lambda: connection.writer.sent)
        before = connection.writer.sent
        assert before > 100_000
        client.get("/", b"x" * 10)
        wait_until(lambda: connection.writer.sent > before)


def test_many_pieces_of_one_byte_take_little_memory() -> None:
    """They are gathered while they wait, or each would take a hundred times its size."""
    with running(Streamer(), output_wait=5) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(2, "/2000000/100000")
        connection = server.full_connection()
        client.ask(1, "/20000/1")
        counts: list[int] = []

        def look() -> None:
            for request in connection.protocol.requests.values():
                exchange = exchange_of(request)
                if request.id == 1 and exchange.state is State.FINISHED:
                    assert exchange.response is not None
                    counts.append(len(exchange.response.pieces))

        def has_counted() -> bool:
            server.in_context(look)
            return bool(counts)

        wait_until(has_counted)
        assert counts[0] < 100
        assert client.answer(1).body == b"".join(stream(20_000, 1))
        client.answer(2)


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("memory", [65_536, 10_000_000])
def test_whole_responses_of_any_size_arrive_in_order(worker: str, memory: int) -> None:
    """Joined to the header block, behind it, or in pieces; and with text on STDERR."""
    sizes = {1: 16_384, 2: 16_385, 3: 65_528, 4: 131_072, 5: 131_073}
    bodies = {id: b"".join(stream(size, size)) for id, size in sizes.items()}

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        id = int(environ["PATH_INFO"].strip("/"))
        if id % 2:
            environ["wsgi.errors"].write("noted")
        start_response("200 OK", [("Content-Length", str(sizes[id]))])
        return [bodies[id]]

    with running(app, worker=worker, total_memory_bytes=memory) as server:
        # With room for all, and with a peer that reads slowly.
        for options in ({}, {"receive_buffer": 4096}):
            client = server.connect(**options)
            client.send(b"".join(whole_request(id, f"/{id}") for id in sizes))
            for id, body in bodies.items():
                answer = client.answer(id)
                assert answer.body == body
                assert bytes(answer.stderr) == (b"noted" if id % 2 else b"")
        wait_until(lambda: server.context.services.memory.used == 0)


def test_hello_has_no_output_object() -> None:
    """The common answer is one piece, and leaves in one write with its end."""
    with running(hello) as server:
        client = server.connect()
        client.ask(1, "/whole")
        kinds = []
        while (record := client.collect()) is not None:
            kinds.append((record.kind, bool(record.content)))
            if record.kind == 3:
                break
        assert kinds == [(6, True), (6, False), (3, True)]


def test_files_of_many_responses_are_sent_in_turn() -> None:
    """A connection reads two files at a time, and each response has its turn."""
    size = 1_000_000
    settings: dict[str, Any] = {"output_memory_bytes": 4 * KIB, "output_wait": 0.001}
    streamer = Streamer()
    with running(streamer, threads=5, **settings) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(5, f"/{size}/10000")
        server.full_connection()
        for id in range(1, 5):
            client.ask(id, f"/{size}/10000")
        # None of them is slow because of its app.
        wait_until(lambda: len(streamer.paths_ended) == 5)
        wait_until(lambda: server.context.services.spool.used >= 4 * size)
        client.collect_until(lambda: any(answer.ended for answer in client.answers.values()))
        assert min(len(client.answers[id].body) for id in range(1, 6)) > size / 2
