"""Test how an app learns that its client has gone: ``environ["vsgi_fcgi.request"]``."""

from __future__ import annotations

import gc
import io
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest
from support.build import untraced
from support.fcgi import records
from support.fcgi.peer import Client
from support.server import WORKERS, Running, logged, respond, running, wait_in_app, wait_until

from vsgi_fcgi import Server
from vsgi_fcgi.exceptions import ClientDisconnected, RequestTimeout
from vsgi_fcgi.transport.thread_affinity import check_main
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

INVALID = records.record(records.END_REQUEST, 1, bytes(8))
"""The connection is closed for it."""

REASONS: dict[str, Callable[[Running, Client], None]] = {
    "abort": lambda server, client: client.abort(1),
    "end of connection": lambda server, client: client.close(),
    "invalid record": lambda server, client: client.send(INVALID),
}


class App:
    """Waits until the client has gone, and keeps what it noticed."""

    def __init__(self, callbacks: int = 1) -> None:
        self.begun = threading.Event()
        self.gone = threading.Event()
        self.closed = threading.Event()
        self.calls: list[int] = []
        self.notes: list[object] = []
        self._callbacks = callbacks

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = environ["vsgi_fcgi.request"]
        worker = threading.get_ident()

        def gone() -> None:
            assert check_main("the callback")
            assert environ["wsgi.multithread"] == (threading.get_ident() != worker)
            self.calls.append(threading.get_ident())
            if len(self.calls) == self._callbacks:
                self.gone.set()

        self.notes.append(request.client_disconnected())
        for _ in range(self._callbacks):
            request.on_disconnect(gone)
        return respond(start_response, self.body(environ))

    def body(self, environ: Environ) -> Iterator[bytes]:
        try:
            self.begun.set()
            yield b"begun"
            wait_in_app(environ, self.gone)
            self.notes.append(environ["vsgi_fcgi.request"].client_disconnected())
            reads: list[Callable[[], object]] = [
                lambda: environ["wsgi.input"].read(1),
                lambda: next(environ["wsgi.input"]),
                lambda: environ["wsgi.input"].readline(),
            ]
            for read in reads:
                with pytest.raises(ClientDisconnected):
                    read()
            yield b"never sent"
            self.notes.append("asked for more")
        finally:
            self.closed.set()


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("reason", REASONS)
def test_an_app_learns_that_its_client_has_gone(reason: str, worker: str) -> None:
    app = App(callbacks=3)
    with running(app, worker=worker) as server:
        client = server.connect()
        client.ask(1, "/", b"a body")
        assert app.begun.wait(10)
        REASONS[reason](server, client)
        assert app.closed.wait(10)
    assert app.notes == [False, True]
    assert len(app.calls) == 3


def test_an_app_learns_that_the_server_stops_and_waits_no_longer(tmp_path: Path) -> None:
    app = App(callbacks=2)
    server = Server(app, threads=1)
    server.listen(f"unix:{tmp_path}/app.sock")
    server.start()
    with Client(f"{tmp_path}/app.sock") as client:
        client.ask(1, "/", b"a body")
        assert app.begun.wait(10)
        assert not server.stop(0.05)
        assert app.closed.wait(10)
    assert app.notes == [False, True]
    assert len(app.calls) == 2


@pytest.mark.parametrize("worker", WORKERS)
def test_an_app_learns_that_the_server_can_send_nothing(worker: str) -> None:
    called, closed = threading.Event(), threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.set()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["vsgi_fcgi.request"].on_disconnect(called.set)
        return respond(start_response, endless())

    settings: dict[str, Any] = {
        "send_timeout": 0.2,
        "output_spool_bytes": 100_000,
        "output_wait": 0.001,
    }
    with running(app, worker=worker, **settings) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1)
        # The client reads nothing.
        assert called.wait(10)
        assert closed.wait(10)


@untraced
def test_the_request_timeout_is_a_reason_too() -> None:
    """So a callback can end what C code waits for; the exception comes when it returns."""
    reached: list[str] = []
    ended = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        waits = threading.Lock()
        waits.acquire()
        with environ["vsgi_fcgi.request"].on_disconnect(waits.release):
            try:
                # Without the callback, this would not return, and RequestTimeout not be raised.
                waits.acquire()
                while True:
                    threading.Event().wait(0.001)
            except RequestTimeout:
                reached.append("timeout")
                ended.set()
                raise
        return []

    with running(app, request_timeout=0.1) as server:
        assert server.connect().get("/").status == 504
        assert ended.wait(10)
    assert reached == ["timeout"]


@pytest.mark.parametrize("worker", WORKERS)
def test_a_callback_is_called_at_once_if_the_client_has_gone_already(worker: str) -> None:
    begun, go_on, called = threading.Event(), threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        wait_in_app(environ, go_on)
        environ["vsgi_fcgi.request"].on_disconnect(called.set)
        wait_in_app(environ, called)
        return respond(start_response)

    with running(app, worker=worker) as server:
        client = server.connect()
        client.ask(1)
        assert begun.wait(10)
        client.abort(1)
        client.answer(1)
        go_on.set()
        assert called.wait(10)


@pytest.mark.parametrize("worker", WORKERS)
def test_nothing_is_called_without_a_reason(worker: str) -> None:
    """Neither after a with block, nor after the end of the request."""
    calls: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = environ["vsgi_fcgi.request"]
        if environ["PATH_INFO"] == "/with":
            with request.on_disconnect(lambda: calls.append("with")):
                pass
            begun.set()
            wait_in_app(environ, go_on)
            return respond(start_response)
        request.on_disconnect(lambda: calls.append("end"))
        return respond(start_response, b"answered")

    with running(app, worker=worker) as server:
        client = server.connect()
        assert client.get("/").body == b"answered"
        client.abort(1)
        client.ask(1, "/with")
        assert begun.wait(10)
        client.abort(1)
        client.answer(1)
        go_on.set()
        client.close()
        assert server.connect().get("/").body == b"answered"
    assert calls == []


@pytest.mark.parametrize("worker", WORKERS)
def test_a_with_block_ends_after_a_callback_that_runs(worker: str) -> None:
    """What the app does then with the same connection of a database is not cancelled."""
    order: list[str] = []
    inside, ended, begun = threading.Event(), threading.Event(), threading.Event()

    def callback() -> None:
        inside.set()
        gevent.sleep(0.05)  # it should not block; but if it does, the block waits for it
        order.append("callback")

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with environ["vsgi_fcgi.request"].on_disconnect(callback):
            begun.set()
            wait_in_app(environ, inside)
        order.append("after the block")
        ended.set()
        return respond(start_response)

    with running(app, worker=worker) as server:
        client = server.connect()
        client.ask(1)
        assert begun.wait(10)
        client.abort(1)
        assert ended.wait(10)
    assert order == ["callback", "after the block"]


@pytest.mark.parametrize("worker", WORKERS)
def test_a_callback_that_fails_is_logged_and_harms_no_other(worker: str) -> None:
    begun, called = threading.Event(), threading.Event()

    def fail() -> None:
        raise SystemExit("on purpose")

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["vsgi_fcgi.request"].on_disconnect(fail)
        environ["vsgi_fcgi.request"].on_disconnect(called.set)
        begun.set()
        wait_in_app(environ, called)
        return respond(start_response)

    with logged() as messages, running(app, worker=worker) as server:
        client = server.connect()
        client.ask(1)
        assert begun.wait(10)
        client.abort(1)
        assert called.wait(10)
        messages.wait_for("a callback of on_disconnect failed")
        messages.wait_for("on purpose")


def test_the_number_of_callbacks_is_limited() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = environ["vsgi_fcgi.request"]
        for _ in range(2000):
            with request.on_disconnect(print):
                pass
        for _ in range(1000):
            request.on_disconnect(print)
        with pytest.raises(RuntimeError, match="on_disconnect: 1000 callbacks"):
            request.on_disconnect(print)
        return respond(start_response, b"answered")

    with running(app) as server:
        assert server.connect().get("/").body == b"answered"


def test_a_request_with_callbacks_is_no_reference_cycle() -> None:
    """Neither one that ended, nor one that was cancelled."""
    kept: list[weakref.ref[Any]] = []
    begun = threading.Event()

    class Token:
        pass

    def note(environ: Environ, gone: threading.Event) -> None:
        gone.set()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["token"] = token = Token()
        kept.append(weakref.ref(token))
        gone = threading.Event()
        environ["vsgi_fcgi.request"].on_disconnect(partial(note, environ, gone))
        if environ["PATH_INFO"] == "/held":
            begun.set()
            assert gone.wait(10)
        return respond(start_response, environ["wsgi.input"].read())

    gc.collect()
    gc.disable()
    try:
        with running(app) as server:
            client = server.connect()
            assert client.get("/").body == b""
            client.ask(1, "/", b"body")
            assert client.answer(1).body == b"body"
            client.ask(1, "/held", b"body")
            assert begun.wait(10)
            client.abort(1)
            assert client.answer(1).stdout == b""
            wait_until(lambda: len(kept) == 3 and not any(each() for each in kept))
    finally:
        gc.enable()


@pytest.mark.parametrize("size", [30, 300_000])
def test_the_body_is_still_a_file(size: int) -> None:
    """In memory, and in a temporary file."""
    body = b"line of ten\n" * (size // 12)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        stream = environ["wsgi.input"]
        assert list(stream) == body.splitlines(keepends=True)
        assert stream.seek(0) == 0
        assert stream.readlines() == body.splitlines(keepends=True)
        assert stream.tell() == len(body)
        stream.seek(0)
        buffer = bytearray(4)
        assert stream.readinto(buffer) == 4
        assert stream.readline() == b" of ten\n"
        assert stream.seekable()
        text = io.TextIOWrapper(stream)
        assert text.readline() == "line of ten\n"
        text.detach()
        assert not hasattr(stream, "no_such_name")
        return respond(start_response, b"answered")

    with running(app, body_memory_bytes=100_000) as server:
        client = server.connect()
        client.ask(1, "/", body)
        assert client.answer(1).body == b"answered"


def test_a_slow_query_is_interrupted() -> None:
    """As in the how-to guide."""
    begun, errors = threading.Event(), []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        database = sqlite3.connect(":memory:")
        # An interrupt before the query runs has no effect.
        database.create_function("note_begin", 0, begun.set)
        with environ["vsgi_fcgi.request"].on_disconnect(database.interrupt):
            try:
                database.execute(
                    "WITH RECURSIVE n(i) AS (SELECT note_begin() UNION ALL SELECT 1 FROM n)"
                    " SELECT count(*) FROM n"
                ).fetchone()
            except sqlite3.OperationalError as error:
                errors.append(str(error))
            finally:
                database.close()
        return respond(start_response)

    with running(app) as server:
        client = server.connect()
        client.ask(1)
        assert begun.wait(10)
        client.abort(1)
        wait_until(lambda: errors)
    assert errors == ["interrupted"]
