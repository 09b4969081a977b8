"""Test the threading contract: who may call what, and that only one context sends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable

import pytest
from support.server import TESTS, WORKERS, echo, respond, running

from vsgi_fcgi.server.connection import ServerConnection
from vsgi_fcgi.server.exchange import Exchange
from vsgi_fcgi.transport.thread_affinity import ContractBroken, main_only, worker_only
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


def exchange_of(environ: Environ) -> Exchange:
    # An app has no other way to the exchange, and it is about what it must not do.
    exchange = environ["wsgi.errors"]._sink
    assert isinstance(exchange, Exchange)
    return exchange


def connection_of(exchange: Exchange) -> ServerConnection:
    assert isinstance(exchange.connection, ServerConnection)
    return exchange.connection


MAIN_ONLY: dict[str, Callable[[Exchange], object]] = {
    "connection.on_readable": lambda exchange: connection_of(exchange).on_readable(),
    "connection.close": lambda exchange: connection_of(exchange).close(),
    "writer.flush": lambda exchange: connection_of(exchange).writer.flush(),
    "writer.finish": lambda exchange: exchange.connection.writer.finish(exchange),
    "exchange.cancel": lambda exchange: exchange.cancel(),
    "request_reader.abort": lambda exchange: connection_of(exchange).reader.abort(exchange),
    "request_reader.handle": lambda exchange: connection_of(exchange).handle([]),
}


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("name", MAIN_ONLY)
def test_what_is_for_the_main_context_raises_in_a_worker(name: str, worker: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with pytest.raises(ContractBroken, match="for the main context alone"):
            MAIN_ONLY[name](exchange_of(environ))
        return respond(start_response, b"checked")

    with running(app, worker=worker) as server:
        assert server.connect().get().body == b"checked"


WORKER_ONLY: dict[str, Callable[[Exchange], object]] = {
    "write": lambda exchange: exchange.write(b"x"),
    "finish": lambda exchange: exchange.finish(),
    "break_off": lambda exchange: exchange.break_off(),
    "write_error": lambda exchange: exchange.write_error("x"),
}


@pytest.mark.parametrize("name", WORKER_ONLY)
def test_what_is_for_workers_raises_in_the_main_context_and_elsewhere(name: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        exchange = exchange_of(environ)

        def call() -> str:
            with pytest.raises(ContractBroken, match="for workers alone"):
                WORKER_ONLY[name](exchange)
            return "refused"

        elsewhere: list[str] = []
        thread = threading.Thread(target=lambda: elsewhere.append(call()))
        thread.start()
        thread.join(10)
        results = [environ["vsgi_fcgi.main_context"].call(call), *elsewhere]
        return respond(start_response, repr(results).encode())

    with running(app) as server:
        assert server.connect().get().body == b"['refused', 'refused']"


def test_no_thread_but_the_main_contexts_may_do_its_work() -> None:
    done: list[str] = []

    @main_only
    def for_main() -> None:
        done.append("main")

    @worker_only
    def for_workers() -> None:
        done.append("worker")

    for function in (for_main, for_workers):
        with pytest.raises(ContractBroken):
            function()
    with running(echo) as server:
        server.in_context(for_main)
        with pytest.raises(ContractBroken):
            server.in_context(for_workers)
    assert done == ["main"]


@pytest.mark.process
def test_the_marks_cost_nothing_where_nothing_is_checked() -> None:
    script = """
from vsgi_fcgi.transport.thread_affinity import main_only, worker_only
function = lambda: None
assert main_only(function) is worker_only(function) is function
"""
    environ = {k: v for k, v in os.environ.items() if k != "VSGI_FCGI_CHECK_CONTRACT"}
    subprocess.run([sys.executable, "-c", script], cwd=TESTS, env=environ, check=True, timeout=30)


@pytest.mark.parametrize("worker", WORKERS)
def test_one_context_alone_sends_on_a_connection(worker: str) -> None:
    """Under large and small answers, uploads and aborts on one connection."""
    threads: set[int] = set()

    class Sock:
        def __init__(self, sock: object) -> None:
            self._sock = sock

        def __getattr__(self, name: str) -> object:
            if name in ("send", "sendmsg", "recv", "close"):
                threads.add(threading.get_native_id())
            return getattr(self._sock, name)

    with running(echo, worker=worker, output_memory_bytes=10_000) as server:
        main: list[int] = []
        server.in_context(lambda: main.append(threading.get_native_id()))
        client = server.connect(receive_buffer=4096)
        connection = server.connection()
        server.in_context(lambda: setattr(connection, "sock", Sock(connection.sock)))
        for id in range(1, 9):
            client.ask(id, "/", b"x" * 100_000 * (id % 3))
        client.abort(2)
        for id in range(1, 9):
            client.answer(id)
        assert threads == set(main)
