"""Test ``environ["vsgi_fcgi.main_context"].call``: one context uses the shared state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import pytest
from support.fcgi.peer import several, whole_request
from support.server import WORKERS, respond, running, wait_until

from vsgi_fcgi.exceptions import MainContextClosed
from vsgi_fcgi.server.main_context_calls import MainContextCalls
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


def app_that_calls(use: Callable[[MainContextCalls], object]) -> Callable[..., Iterable[bytes]]:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, repr(use(environ["vsgi_fcgi.main_context"])).encode())

    return app


@pytest.mark.parametrize("worker", WORKERS)
def test_it_returns_what_the_function_returns(worker: str) -> None:
    def use(main: MainContextCalls) -> object:
        return main.call(divmod, 17, 5), main.call(int, "ff", base=16)

    with running(app_that_calls(use), worker=worker) as server:
        assert server.connect().get().body == b"((3, 2), 255)"


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("error", [KeyError, SystemExit, gevent.GreenletExit])
def test_it_raises_what_the_function_raises(error: type[BaseException], worker: str) -> None:
    def fail() -> None:
        raise error("from the main context")

    def use(main: MainContextCalls) -> object:
        with pytest.raises(error, match="from the main context"):
            main.call(fail)
        return main.call(len, "still alive")

    with running(app_that_calls(use), worker=worker) as server:
        assert server.connect().get().body == b"11"


def test_the_function_runs_in_the_main_contexts_thread() -> None:
    def use(main: MainContextCalls) -> object:
        return main.call(threading.get_native_id) == main.call(threading.get_native_id), (
            main.call(threading.get_native_id) != threading.get_native_id()
        )

    with running(app_that_calls(use)) as server:
        assert server.connect().get().body == b"(True, True)"


@pytest.mark.parametrize("worker", WORKERS)
def test_a_call_inside_a_call_is_a_plain_call(worker: str) -> None:
    def use(main: MainContextCalls) -> object:
        return main.call(lambda: main.call(lambda: main.call(lambda: "deep")))

    with running(app_that_calls(use), worker=worker) as server:
        assert server.connect().get().body == b"'deep'"


def test_no_two_functions_run_at_the_same_time_even_if_one_waits() -> None:
    active: list[int] = []
    most: list[int] = []

    def touch() -> None:
        active.append(1)
        most.append(len(active))
        gevent.sleep(0.002)
        active.pop()

    def use(main: MainContextCalls) -> None:
        for _ in range(5):
            main.call(touch)

    with running(app_that_calls(use), threads=6) as server, several(server.address, 6) as clients:
        for client in clients:
            client.ask(1)
        for client in clients:
            assert client.answer(1).status == 200
    assert len(most) == 30
    assert set(most) == {1}


def test_the_loop_goes_on_while_a_function_waits() -> None:
    begun, free = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        while not free.is_set():
            gevent.sleep(0.001)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/wait":
            environ["vsgi_fcgi.main_context"].call(wait)
        return respond(start_response, b"done")

    with running(app, threads=2) as server:
        client, other = server.connect(), server.connect()
        client.ask(1, "/wait")
        assert begun.wait(10)
        assert other.get().body == b"done"
        free.set()
        assert client.answer(1).body == b"done"


def test_after_the_stop_a_call_is_refused_and_does_not_run() -> None:
    kept: list[MainContextCalls] = []
    ran: list[int] = []

    def use(main: MainContextCalls) -> None:
        kept.append(main)

    with running(app_that_calls(use)) as server:
        server.connect().get()
    with pytest.raises(MainContextClosed):
        kept[0].call(ran.append, 1)
    assert ran == []


def test_calls_that_wait_when_the_server_stops_are_refused() -> None:
    """One is running and never ends in time; the other one has not begun."""
    begun = threading.Event()
    results: list[Any] = []

    def wait() -> None:
        begun.set()
        gevent.sleep(60)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            environ["vsgi_fcgi.main_context"].call(
                wait if environ["PATH_INFO"] == "/first" else lambda: results.append("ran")
            )
        except BaseException as error:
            results.append(type(error))
        return respond(start_response)

    with running(app, threads=2) as server:
        client = server.connect()
        client.ask(1, "/first")
        assert begun.wait(10)
        client.ask(2, "/second")
        # That a call waits cannot be seen before it is answered.
        wait_until(lambda: len(server.context.calls._waiting) == 1)
        assert not server.server.stop(0.05)
        wait_until(lambda: len(results) == 2)
    assert results == [MainContextClosed, MainContextClosed]


def test_a_timeout_that_a_function_forgot_does_not_end_the_next_one() -> None:
    def forgetful() -> None:
        gevent.Timeout.start_new(0.001)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        call = environ["vsgi_fcgi.main_context"].call
        if environ["PATH_INFO"] == "/forgetful":
            call(forgetful)
        else:
            call(gevent.sleep, 0.02)
        return respond(start_response, b"x")

    with running(app, threads=2) as server:
        client = server.connect()
        # Both calls wait before the first one runs.
        client.send(whole_request(1, "/forgetful") + whole_request(2, "/next"))
        assert client.answer(1).status == 200
        assert client.answer(2).status == 200
