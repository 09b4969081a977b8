"""Test requests that the web server aborts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from support.fcgi import records
from support.fcgi.peer import Client, whole_request
from support.server import WORKERS, hello, respond, running, wait_in_app, wait_until

from vsgi_fcgi.exceptions import ClientDisconnected
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

INVALID = records.record(records.END_REQUEST, 1, bytes(8))
"""The connection is closed for it."""

GIVE_UP: dict[str, Callable[[Client], None]] = {
    "abort": lambda client: client.abort(1),
    "end of connection": lambda client: client.close(),
    "invalid record": lambda client: client.send(INVALID),
    "abort with an invalid record in one read": lambda client: client.send(
        records.abort(1) + INVALID
    ),
}


class App:
    """``/held`` waits, ``/endless`` writes until it is stopped, all else answers at once."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.free = threading.Event()
        self.closed = threading.Event()
        self.paths: list[str] = []
        self.errors: list[BaseException] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.paths.append(path)
        self.begun.set()
        if path == "/held":
            wait_in_app(environ, self.free)
            return respond(start_response, b"held")
        if path == "/write":
            write = start_response("200 OK", [])
            try:
                while True:
                    write(b"x" * 10_000)
            except BaseException as error:
                self.errors.append(error)
                self.closed.set()
                raise
        if path == "/endless":
            return respond(start_response, self._endless())
        return respond(start_response, path.encode())

    def _endless(self) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 10_000
        finally:
            self.closed.set()


@pytest.mark.parametrize("worker", WORKERS)
def test_an_abort_is_answered_at_once_whatever_the_app_does(worker: str) -> None:
    app = App()
    with running(app, worker=worker) as server:
        client = server.connect()
        client.ask(1, "/held")
        assert app.begun.wait(10)
        client.abort(1)
        answer = client.answer(1)
        assert answer.stdout == b""
        assert (answer.app_status, answer.protocol_status) == (0, 0)
        assert not app.free.is_set()
        app.free.set()


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("path", ["/endless", "/write"])
@pytest.mark.parametrize("how", GIVE_UP)
def test_giving_up_frees_a_worker_that_waits_to_write(how: str, path: str, worker: str) -> None:
    app = App()
    settings: dict[str, Any] = {
        "output_memory_bytes": 65_536,
        "output_spool_bytes": 100_000,
        "output_wait": 0.001,
    }
    with running(app, worker=worker, threads=1, **settings) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, path)
        # Its file is full: the worker waits.
        wait_until(lambda: server.context.services.spool.used >= 60_000)
        GIVE_UP[how](client)
        assert app.closed.wait(10)
        assert server.connect().get("/next").body == b"/next"
        wait_until(lambda: server.context.services.spool.used == 0)
    assert all(isinstance(error, ClientDisconnected) for error in app.errors)
    assert len(app.errors) == (path == "/write")


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("how", GIVE_UP)
def test_a_request_that_no_worker_has_begun_with_never_reaches_the_app(
    how: str, worker: str
) -> None:
    app = App()
    with running(app, worker=worker, threads=1) as server:
        busy, client = server.connect(), server.connect()
        busy.ask(1, "/held")
        assert app.begun.wait(10)
        client.ask(1, "/queued", b"body")
        pool = server.context.dispatcher
        wait_until(lambda: pool.waiting == 1)
        GIVE_UP[how](client)
        wait_until(lambda: pool.waiting == 0)
        wait_until(lambda: server.context.services.memory.used == 0)
        app.free.set()
        assert busy.answer(1).body == b"held"
        assert server.connect().get("/next").body == b"/next"
    assert app.paths == ["/held", "/next"]


@pytest.mark.parametrize("worker", WORKERS)
def test_an_id_that_is_used_again_at_once_gets_its_own_bytes_alone(worker: str) -> None:
    app = App()
    with running(app, worker=worker, threads=4) as server:
        client = server.connect()
        client.send(whole_request(1, "/held"))
        assert app.begun.wait(10)
        client.send(records.abort(1) + whole_request(1, "/again"))
        if worker == "main":
            app.free.set()  # one request at a time: the second waits for the first
        assert client.answer(1).stdout == b""
        assert client.answer(1).body == b"/again"
        app.free.set()
        wait_until(lambda: not server.context.dispatcher.waiting)
        # The answer of the first, if it were sent after all, would come now.
        assert client.get("/last", id=1).body == b"/last"


def test_a_request_that_is_still_coming_in_can_be_given_up() -> None:
    app = App()
    with running(app) as server:
        client = server.connect()
        for begun in (
            records.begin(1),
            records.begin(1) + records.params(1, b"\x05", end=False),
            whole_request(1, "/never", b"body")[:-8],
        ):
            client.send(begun + records.abort(1))
            assert client.answer(1).stdout == b""
        assert client.get("/next").body == b"/next"
    assert app.paths == ["/next"]


def test_abort_of_what_never_began_or_has_ended_is_ignored() -> None:
    with running(hello) as server:
        client = server.connect()
        client.abort(7)
        client.get("/once", id=7)
        client.abort(7)
        client.send(records.stdin(7, b"late") + records.params(9, b"stray"))
        assert client.get("/still", id=7).body == b"/still"
        assert client.answers == {}


def test_an_abort_without_keep_conn_closes_the_connection() -> None:
    app = App()
    with running(app) as server:
        client = server.connect()
        client.ask(1, "/held", keep_conn=False)
        assert app.begun.wait(10)
        client.abort(1)
        client.answer(1)
        client.read_to_end()
        app.free.set()


def test_the_cancelled_flag_stops_an_app_that_only_iterates() -> None:
    """The app is not asked for more than the one piece it is making."""
    pieces = []
    asked, go_on = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, body())

    def body() -> Iterator[bytes]:
        for number in range(100):
            pieces.append(number)
            asked.set()
            assert go_on.wait(10)
            yield b"x"

    with running(app) as server:
        client = server.connect()
        client.ask(1)
        assert asked.wait(10)
        client.abort(1)
        client.answer(1)
        go_on.set()
    assert pieces == [0]


@pytest.mark.parametrize("worker", WORKERS)
def test_two_hundred_half_sent_uploads_leave_nothing_behind(worker: str) -> None:
    """`running` itself asserts that no thread, descriptor or byte is left at the end."""
    with running(hello, worker=worker, body_memory_bytes=20_000) as server:
        server.connect().get("/first")
        context = server.context
        clients = [Client(server.address) for _ in range(200)]
        for number, client in enumerate(clients):
            client.start(1, length=100_000)
            if number % 4:
                client.stdin(1, b"x" * 10_000 * (number % 4), end=False)
        wait_until(lambda: len(context.connections) == 201)
        wait_until(lambda: context.services.memory.used + context.services.spool.used > 2_000_000)
        for number, client in enumerate(clients):
            if number % 2:
                client.abort(1)
                client.answer(1)
            client.close()
        wait_until(lambda: len(context.connections) == 1)
        wait_until(lambda: context.services.memory.used == context.services.spool.used == 0)
        assert server.connect().get("/after").body == b"/after"
