"""``--worker main``: the app in the main context, one request at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import gevent
import pytest
from support.fcgi import several
from support.server import WORKERS, hello, logged, respond, running, wait_until

from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.runner import StartResponse


@pytest.mark.parametrize(("worker", "multithread"), [("main", False), ("thread", True)])
def test_the_app_is_told_whether_it_shares_its_process(worker: str, multithread: bool) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        flags = (environ["wsgi.multithread"], environ["wsgi.multiprocess"])
        return respond(start_response, repr(flags).encode())

    with running(app, worker=worker) as server:
        assert server.connect().get().body == repr((multithread, False)).encode()


def test_all_requests_run_in_one_thread_one_at_a_time() -> None:
    active: list[str] = []
    overlaps: list[list[str]] = []
    threads: set[int] = set()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        active.append(environ["PATH_INFO"])
        threads.add(threading.get_native_id())
        gevent.sleep(0.001)  # the loop runs, but no other request begins
        if len(active) > 1:
            overlaps.append(active.copy())
        active.remove(environ["PATH_INFO"])
        return respond(start_response, b"x")

    with running(app, worker="main") as server, several(server.address, 5) as clients:
        for client in clients:
            for id in range(1, 11):
                client.ask(id, f"/{id}")
        for client in clients:
            for id in range(1, 11):
                assert client.answer(id).body == b"x"
    assert overlaps == []
    assert len(threads) == 1


def test_an_app_that_waits_cooperatively_lets_the_loop_run() -> None:
    """While it waits, connections are accepted, bodies read, and errors answered."""
    waiting, free = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        waiting.set()
        while not free.is_set():
            gevent.sleep(0.001)
        return respond(start_response, b"done")

    with running(app, worker="main", max_body_bytes=10) as server:
        client = server.connect()
        client.ask(1)
        assert waiting.wait(10)
        other = server.connect()
        other.start(1, length=11)
        assert other.answer(1).status == 413
        free.set()
        assert client.answer(1).body == b"done"


def test_a_reader_that_never_reads_ten_mebibytes_is_in_nobodys_way() -> None:
    ended = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/large":
            return respond(start_response, large())
        return hello(environ, start_response)

    def large() -> Iterator[bytes]:
        for _ in range(160):
            yield b"x" * 65536
        ended.set()

    with running(app, worker="main") as server:
        stuck, other = server.connect(receive_buffer=4096), server.connect()
        stuck.ask(1, "/large")
        for number in range(200):
            assert other.get(f"/{number}").body == b"/%d" % number
        assert ended.wait(10)  # the app has done with it, though nobody has read
        assert 1 not in stuck.answers
        for _ in range(50):
            assert other.get("/still").body == b"/still"


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(
    "error", [SystemExit, KeyboardInterrupt, GeneratorExit, gevent.GreenletExit, MemoryError]
)
def test_no_exception_costs_a_worker(error: type[BaseException], worker: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/call":
                raise error
            case "/body":
                return respond(start_response, body())
            case "/close":
                return Closing(start_response)
        return respond(start_response, b"fine")

    def body() -> Iterator[bytes]:
        raise error
        yield

    class Closing:
        def __init__(self, start_response: StartResponse) -> None:
            start_response("200 OK", [])

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"fine"])

        def close(self) -> None:
            raise error

    with logged() as log, running(app, worker=worker, threads=1) as server:
        client = server.connect()
        for _ in range(3):
            assert client.get("/call").status == 500
            assert client.get("/body").status == 500
            assert client.get("/close").body == b"fine"
            assert client.get("/").body == b"fine"
        log.wait_for("close() of the response failed")


@pytest.mark.parametrize("worker", WORKERS)
def test_close_is_called_where_the_app_ran(worker: str) -> None:
    calls: list[tuple[str, int, object]] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            note("iter")
            return iter([b"x"])

        def close(self) -> None:
            note("close")

    def note(what: str) -> None:
        calls.append((what, threading.get_native_id(), gevent.getcurrent()))

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        note("call")
        start_response("200 OK", [])
        return Body()

    with running(app, worker=worker, threads=3) as server:
        server.connect().get()
        wait_until(lambda: len(calls) == 3)
    assert [what for what, *_ in calls] == ["call", "iter", "close"]
    assert len({(thread, greenlet) for _, thread, greenlet in calls}) == 1
    calls.clear()  # or the greenlet would outlive its loop
