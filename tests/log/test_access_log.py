"""Test that each request has one line, however it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fcgi import records
from support.fcgi.peer import request_params, whole_request
from support.lines import LogFile
from support.server import WORKERS, respond, running, wait_in_app, wait_until

from vsgi_fcgi.server.exchange import Exchange
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

FORMAT = "%(uri)s %(s)s %(end)s"


class App:
    """Answers according to the path; on ``/held`` only when the test allows it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.free = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/held":
            self.begun.set()
            wait_in_app(environ, self.free)
        elif path == "/half":
            return respond(start_response, self._half(environ))
        elif path == "/fails":
            raise ValueError("in the app")
        elif path == "/breaks":
            return respond(start_response, self._breaks())
        elif path == "/endless":
            self.begun.set()
            return respond(start_response, iter(lambda: b"x" * 10_000, b""))
        elif path.startswith("/size/"):
            return respond(start_response, b"x" * int(path[6:]))
        elif path.startswith("/stream/"):
            return respond(start_response, iter([b"x" * 30_000] * int(path[8:])))
        elif path == "/says":
            environ["wsgi.errors"].write("something\n")
            return respond(start_response, iter([b"one", b"two"]))
        elif path == "/elsewhere":
            start_response("303 See Other", [("X-Thin", "404"), ("Location", "/")])
            return [b"elsewhere"]
        return respond(start_response, path.encode())

    def _half(self, environ: Environ) -> Iterator[bytes]:
        yield b"first half"
        self.begun.set()
        wait_in_app(environ, self.free)
        yield b"second half"

    def _breaks(self) -> Iterator[bytes]:
        yield b"first half"
        raise ValueError("in the middle")


@pytest.fixture
def app() -> Iterator[App]:
    app = App()
    yield app
    app.free.set()


@pytest.fixture
def log(tmp_path: Path) -> LogFile:
    return LogFile(tmp_path / "access.log")


def logging_to(log: LogFile, format: str = FORMAT, **settings: Any) -> dict[str, Any]:
    return {"access_log": str(log.path), "access_log_format": format, **settings}


def test_it_is_off_by_default(tmp_path: Path, app: App) -> None:
    with running(app) as server:
        server.connect().get("/x")
        assert server.context.access_log is None
        # That nothing is paid for a log that is off cannot be seen in an answer.
        assert server.context.request_reader.make_exchange is Exchange


# Every way to end.


@pytest.mark.parametrize("worker", WORKERS)
def test_each_request_has_its_line(app: App, log: LogFile, worker: str) -> None:
    with running(app, **logging_to(log, worker=worker)) as server:
        client = server.connect()
        client.send(b"".join(whole_request(id, f"/{id}") for id in range(1, 201)))
        for id in range(1, 201):
            client.answer(id)
    assert sorted(log.lines()) == sorted(f"/{id} 200 complete" for id in range(1, 201))


def test_a_redirect_has_its_status_and_its_headers(app: App, log: LogFile) -> None:
    """The status is not the first line of its header block."""
    format = "%(s)s %(B)s %({location}o)s %({x-thin}o)s %({status}o)s"
    with running(app, access_log=str(log.path), access_log_format=format) as server:
        assert server.connect().get("/elsewhere").status == 303
        assert server.connect().get("/").status == 200
    assert log.lines() == ["303 9 / 404 -", "200 1 - - -"]


def test_lines_are_there_soon_and_not_only_at_the_end(app: App, log: LogFile) -> None:
    with running(app, **logging_to(log)) as server:
        server.connect().get("/x")
        assert log.only() == "/x 200 complete"
        # The thread waits for the next one, and is rung for it.
        server.connect().get("/y")
        assert log.wait_for(2)[1] == "/y 200 complete"


def test_an_app_that_fails_has_answered(app: App, log: LogFile) -> None:
    with running(app, **logging_to(log)) as server:
        server.connect().get("/fails")
    assert log.only() == "/fails 500 complete"


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("by", ["abort", "close"])
def test_a_request_that_is_given_up_while_the_app_runs(
    app: App, log: LogFile, worker: str, by: str
) -> None:
    settings = logging_to(log, "%(uri)s %(s)s %(end)s %(B)s %(run)s", worker=worker)
    with running(app, **settings) as server:
        client = server.connect()
        client.ask(1, "/half")
        client.collect_until(lambda: bool(client.answers))
        assert app.begun.wait(10)
        client.abort(1) if by == "abort" else client.close()
        # Not when the app has noticed it at last.
        line = log.only()
        app.free.set()
    path, status, end, size, run = line.split()
    assert (path, status, end, size) == ("/half", "200", "cancelled", "10")
    assert int(run) > 0
    assert log.only() == line


def test_requests_that_are_given_up_before_they_run(app: App, log: LogFile) -> None:
    settings = logging_to(log, FORMAT + " %(sent)s %(B)s %(received)s %(run)s %(id)s", threads=1)
    with running(app, **settings) as server:
        client = server.connect()
        client.ask(1, "/held")
        assert app.begun.wait(10)
        client.ask(2, "/queued")
        client.start(3, "/upload", length=10)
        client.stdin(3, b"x" * 4, end=False)
        client.start(4, "/no-body-yet")
        client.send(records.begin(5) + records.params(5, request_params(), end=False))
        wait_until(lambda: len(server.connection().protocol.requests) == 5)
        for id in range(2, 6):
            client.abort(id)
        assert log.wait_for(4) == [
            "/queued - cancelled 0 0 0 - 2",
            "/upload - cancelled 0 0 4 - 3",
            "/no-body-yet - cancelled 0 0 0 - 4",
            "- - cancelled 0 0 0 - 5",
        ]
        app.free.set()
        client.answer(1)


def test_an_answer_whose_rest_waits_is_cancelled(app: App, log: LogFile) -> None:
    """The app has done with it, and its reader goes."""
    size = 3_000_000
    settings = logging_to(log, "%(end)s %(s)s %(B)s", output_memory_bytes=2 * size)
    with running(app, **settings) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, f"/size/{size}")
        server.full_connection()
        client.close()
    end, status, sent = log.only().split()
    assert (end, status) == ("cancelled", "200")
    assert 0 < int(sent) < size


def test_a_last_piece_that_waits_behind_others_is_cancelled(app: App, log: LogFile) -> None:
    with running(app, **logging_to(log, "%(uri)s %(s)s %(end)s %(sent)s")) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, "/endless")
        connection = server.full_connection()
        client.ask(2, "/size/1000")
        # The answer is ready and not sent, which cannot be seen from outside.
        wait_until(lambda: len(connection.writer._ready or ()) == 2)
        client.close()
        assert sorted(log.wait_for(2))[1] == "/size/1000 200 cancelled 0"


def test_requests_that_time_out(app: App, log: LogFile) -> None:
    with running(app, **logging_to(log, receive_timeout=0.1)) as server:
        client = server.connect()
        client.start(1, "/slow", length=10)
        client.send(records.begin(2))
        assert client.answer(1).status == client.answer(2).status == 408
    assert sorted(log.lines()) == ["- 408 timed-out", "/slow 408 timed-out"]


def test_an_answer_that_nobody_reads_times_out(app: App, log: LogFile) -> None:
    with running(app, **logging_to(log, send_timeout=0.2)) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, "/endless")
        assert log.only() == "/endless 200 timed-out"


@pytest.mark.parametrize(
    ("settings", "length", "more", "status"),
    [
        ({}, None, {"CONTENT_LENGTH": "many"}, 400),
        ({"max_body_bytes": 10}, 11, {}, 413),
        ({"max_params_bytes": 256}, None, {"HTTP_X": "x" * 300}, 431),
    ],
)
def test_requests_that_are_refused(
    app: App, log: LogFile, settings: Any, length: int | None, more: Any, status: int
) -> None:
    format = "%(s)s %(end)s %(sent)s %(run)s %(neighbours)s"
    with running(app, **logging_to(log, format, **settings)) as server:
        client = server.connect()
        client.start(1, "/x", length=length, more=more)
        client.stdin(1)
        answer = client.answer(1)
        assert answer.status == status
    assert log.only() == f"{status} refused {len(answer.stdout)} - -"


def test_requests_that_find_everything_full(app: App, log: LogFile) -> None:
    settings: dict[str, Any] = {"threads": 1, "max_queued": 1, "max_requests_per_connection": 3}
    with running(app, **logging_to(log, **settings)) as server:
        client = server.connect()
        client.ask(1, "/held")
        assert app.begun.wait(10)
        client.ask(2, "/queued")
        client.ask(3, "/too-many-wait")
        assert client.answer(3).status == 503
        client.start(4, "/upload", length=1)
        client.ask(5, "/too-many-here")
        assert client.answer(5).status == 503
        assert log.wait_for(2) == ["/too-many-wait 503 refused", "- 503 refused"]
        client.stdin(4, b"x")
        assert client.answer(4).status == 503
        app.free.set()
        client.answer(2)


@pytest.mark.parametrize("with_neighbour", [False, True])
def test_an_answer_that_breaks_off(app: App, log: LogFile, with_neighbour: bool) -> None:
    with running(app, **logging_to(log, FORMAT + " %(B)s")) as server:
        client = server.connect()
        if with_neighbour:
            client.ask(2, "/held")
            assert app.begun.wait(10)
        client.ask(1, "/breaks")
        assert log.only() == "/breaks 200 broken 10"
        app.free.set()


def test_a_connection_that_makes_no_sense(app: App, log: LogFile) -> None:
    with running(app, **logging_to(log)) as server:
        client = server.connect()
        client.ask(1, "/held")
        assert app.begun.wait(10)
        client.send(b"nonsense")
        assert log.only() == "/held - broken"
        app.free.set()


@pytest.mark.parametrize("worker", WORKERS)
def test_what_a_stop_cuts_off(app: App, log: LogFile, worker: str) -> None:
    with running(app, **logging_to(log, worker=worker, threads=1)) as server:
        client = server.connect()
        client.get("/before")
        client.ask(1, "/held")
        assert app.begun.wait(10)
        client.ask(2, "/queued")
        client.start(3, "/upload", length=10)
        wait_until(lambda: len(server.connection().protocol.requests) == 3)
        assert not server.server.stop(0.05)
        app.free.set()
    before, *cut_off = log.lines()
    assert before == "/before 200 complete"
    assert sorted(cut_off) == ["/held - stopped", "/queued - stopped", "/upload - stopped"]


def test_a_graceful_stop_writes_every_line(app: App, log: LogFile) -> None:
    """There is no waiting for the next time that lines would be written."""
    with running(app, **logging_to(log)) as server:
        client = server.connect()
        for number in range(50):
            client.get(f"/{number}")
        server.leave()
        assert server.server.stop(10)
        assert log.lines() == [f"/{number} 200 complete" for number in range(50)]


# What only this server knows.


SIZES = ["/size/0", "/size/10", "/size/70000", "/stream/1", "/stream/40", "/says", "/fails"]


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("path", SIZES)
def test_bytes_are_counted_however_they_leave(
    app: App, log: LogFile, worker: str, path: str
) -> None:
    """In one piece, in several, through a temporary file, behind STDERR."""
    settings = {"worker": worker, "output_memory_bytes": 50_000, "output_wait": 0.001}
    with running(app, **logging_to(log, "%(s)s %(B)s %(sent)s", **settings)) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, path)
        if path == "/stream/40":
            # Nobody reads until some of it is in the file.
            wait_until(lambda: server.context.services.spool.used > 0)
        answer = client.answer(1)
    assert log.only() == f"{answer.status} {len(answer.body)} {len(answer.stdout)}"


def test_bytes_are_counted_behind_a_writer_that_waits(app: App, log: LogFile) -> None:
    settings = {"output_memory_bytes": 8_000_000}
    with running(app, **logging_to(log, "%(uri)s %(s)s %(B)s", **settings)) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, "/size/4000000")
        connection = server.full_connection()
        client.ask(2, "/size/1000")
        # The answer is ready and not sent, which cannot be seen from outside.
        wait_until(lambda: len(connection.writer._ready or ()) == 2)
        client.answer(2)
        client.answer(1)
    assert sorted(log.lines()) == ["/size/1000 200 1000", "/size/4000000 200 4000000"]


def test_a_body_is_counted(app: App, log: LogFile) -> None:
    with running(app, **logging_to(log, "%(received)s", body_memory_bytes=1000)) as server:
        client = server.connect()
        for size in (0, 10, 100_000):
            client.get("/x", b"x" * size)
    assert log.lines() == ["0", "10", "100000"]


def test_neighbours_are_those_when_it_was_handed_over(app: App, log: LogFile) -> None:
    format = "%(connection)s: %(id)s %(uri)s %(neighbours)s"
    with running(app, **logging_to(log, format, threads=4)) as server:
        client, other = server.connect(), server.connect()
        client.get("/alone", id=9)
        connections = list(server.context.connections)
        client.ask(9, "/held")
        assert app.begun.wait(10)
        client.get("/next-one", id=4)
        client.ask(5, "/held")
        # Whatever one read brings is there together.
        wait_until(lambda: sum(len(each.protocol.requests) for each in connections) == 2)
        client.get("/next-two", id=65535)
        other.get("/elsewhere")
        app.free.set()
        client.answer(9)
        client.answer(5)
    lines = [line.partition(" on ")[0] + ":" + line.rpartition(":")[2] for line in log.lines()]
    assert sorted(lines) == [
        "connection 1: 4 /next-one 1",
        "connection 1: 5 /held 1",
        "connection 1: 65535 /next-two 2",
        "connection 1: 9 /alone 0",
        "connection 1: 9 /held 0",
        "connection 2: 1 /elsewhere 0",
    ]


@pytest.mark.parametrize("worker", WORKERS)
def test_waiting_and_running_are_told_apart(app: App, log: LogFile, worker: str) -> None:
    settings = logging_to(log, "%(uri)s %(queue)s %(run)s %(D)s", worker=worker, threads=1)
    with running(app, **settings) as server:
        client = server.connect()
        client.ask(1, "/held")
        assert app.begun.wait(10)
        client.ask(2, "/queued")
        wait_until(lambda: server.context.dispatcher.waiting == 1)
        since = time.monotonic()
        threading.Event().wait(0.1)
        held = int((time.monotonic() - since) * 1e6)
        app.free.set()
        client.answer(2)
    times = {}
    for line in log.lines():
        path, *numbers = line.split()
        times[path] = [int(number) for number in numbers]
    queue, run, duration = times["/held"]
    assert held <= run
    assert queue + run <= duration
    queue, run, duration = times["/queued"]
    assert held <= queue
    assert queue + run <= duration


def test_an_app_does_not_run_while_its_reader_is_slow(app: App, log: LogFile) -> None:
    settings = logging_to(log, "%(run)s %(D)s", output_memory_bytes=8_000_000)
    with running(app, **settings) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, "/size/4000000")
        server.full_connection()
        since = time.monotonic()
        threading.Event().wait(0.1)
        slow = int((time.monotonic() - since) * 1e6)
        client.answer(1)
    run, duration = map(int, log.only().split())
    assert duration - run >= slow


def test_the_log_is_made_anew_by_each_start(app: App, log: LogFile) -> None:
    """And appended to."""
    for number in range(2):
        with running(app, **logging_to(log)) as server:
            server.connect().get(f"/{number}")
    assert log.lines() == ["/0 200 complete", "/1 200 complete"]
