"""Test ``--worker main``: the app runs in the main context, one request at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

import gevent
import pytest
from support.fcgi.peer import several, whole_request
from support.server import WORKERS, hello, logged, respond, running, wait_in_app, wait_until

from vsgi_fcgi.protocol import BROKEN_ANSWER
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


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
        assert ended.wait(10)  # the app has finished, although the client has not read
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
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_whole_response_does_not_wait_for_the_end_of_its_app(at_once: int, worker: str) -> None:
    """PEP 3333: the transmission of no block may be delayed, not even of the last one."""
    seen = {path: threading.Event() for path in ("/1", "/2", "/3")}

    class Body:
        def __init__(self, environ: Environ) -> None:
            self.environ = environ

        def __iter__(self) -> Iterator[bytes]:
            yield b"fine"
            wait_in_app(self.environ, seen[self.environ["PATH_INFO"]])

        def close(self) -> None:
            self.environ["wsgi.errors"].write("late\n")

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "4")])
        return Body(environ) if environ["PATH_INFO"] in seen else [b"warm"]

    with running(app, worker=worker, threads=3) as server:
        client = server.connect()
        for _ in range(20):
            assert client.get("/warm").body == b"warm"
        ids = range(1, at_once + 1)
        client.send(b"".join(whole_request(id, f"/{id}") for id in ids))
        for id in ids:
            while id not in client.answers or b"fine" not in client.answers[id].stdout:
                assert client.collect() is not None
            assert not client.answers[id].ended
            seen[f"/{id}"].set()
            answer = client.answer(id)
            assert (answer.body, answer.order) == (b"fine", ["out", "err"])
        assert server.context.services.memory.used == 0


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("at_once", [1, 3])
def test_an_error_after_a_whole_response_is_a_broken_answer(at_once: int, worker: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "4")])
        return body()

    def body() -> Iterator[bytes]:
        yield b"fine"
        raise RuntimeError

    with logged() as log, running(app, worker=worker, threads=3) as server:
        client = server.connect()
        ids = range(1, at_once + 1)
        client.send(b"".join(whole_request(id) for id in ids))
        if at_once == 1:
            # Without END_REQUEST, because this web server would ignore its status.
            client.read_to_end()
            assert client.answers[1].body == b"fine"
            assert not client.answers[1].ended
        else:
            for id in ids:
                answer = client.answer(id)
                assert (answer.body, answer.app_status) == (b"fine", BROKEN_ANSWER)
        log.wait_for("the app failed in the middle")


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


@pytest.mark.parametrize("worker", WORKERS)
def test_context_variables_end_with_their_request(worker: str) -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    before: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        before.append(user.get())
        user.set(environ["PATH_INFO"])
        return respond(start_response, body())

    def body() -> Iterator[bytes]:
        yield user.get().encode()
        user.set("later")

    with running(app, worker=worker, threads=1) as server:
        client = server.connect()
        for path in ("/first", "/second"):
            assert client.get(path).body == path.encode()
    assert before == ["nobody", "nobody"]


def test_a_timeout_that_an_app_forgot_costs_no_worker() -> None:
    thrown = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/forgetful":
            gevent.Timeout.start_new(0.001)
            gevent.get_hub().loop.timer(0.002).start(thrown.set)
        return respond(start_response, b"x")

    with logged() as messages, running(app, worker="main") as server:
        for _ in range(3):
            thrown.clear()
            assert server.connect().get("/forgetful").status == 200
            assert thrown.wait(10)
            assert server.connect().get("/").status == 200
    assert sum("between two requests" in line for line in messages.lines) == 3


def test_a_timeout_that_an_app_forgot_ends_no_later_request() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/forgetful":
            gevent.Timeout.start_new(0.02)
        else:
            gevent.sleep(0.1)
        return respond(start_response, b"x")

    with logged() as messages, running(app, worker="main") as server:
        client = server.connect()
        for _ in range(3):
            client.ask(1, "/forgetful")
            client.ask(2, "/waits")
            assert client.answer(1).status == 200
            assert client.answer(2).status == 200
    assert sum("an app has caused it" in line for line in messages.lines) == 3


def test_requests_that_leave_nothing_behind_share_a_greenlet() -> None:
    """With gevent's patches, an app's connection to its database belongs to one."""
    seen: set[int] = set()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen.add(id(gevent.getcurrent()))
        with gevent.Timeout(5):
            gevent.sleep(0 if environ["PATH_INFO"] == "/short" else 0.001)
            gevent.spawn(gevent.sleep, 0.001).join()
        return respond(start_response, b"x")

    with running(app, worker="main") as server, several(server.address, 3) as clients:
        for client in clients:
            for id_ in range(1, 8):
                client.ask(id_, "/short" if id_ % 2 else "/long")
        for client in clients:
            for id_ in range(1, 8):
                assert client.answer(id_).body == b"x"
    assert len(seen) == 1


def test_all_requests_that_have_come_are_read_before_one_runs() -> None:
    """Reading and running in turn would be slower: each evicts the other's memory from caches."""
    in_flight: list[int] = []
    began, sent = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/first":
            began.set()
            assert sent.wait(10)  # the whole main context waits
        else:
            stats = environ["vsgi_fcgi.main_context"].stats
            in_flight.append(stats.requests_in_flight)
        return respond(start_response, b"x")

    with running(app, worker="main") as server, several(server.address, 5) as clients:
        # The connections have been accepted.
        wait_until(lambda: len(server.context.connections) == 5)
        first = server.connect()
        first.ask(1, "/first")
        # Otherwise some of the others may be read in the same round.
        assert began.wait(10)
        for client in clients:
            client.ask(1)
        sent.set()
        for client in [first, *clients]:
            assert client.answer(1).body == b"x"
    assert in_flight[0] >= 5  # and one more if the first had not been answered yet


def test_a_response_does_not_wait_for_all_requests_that_came_with_its_own() -> None:
    answered = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/last":
            assert answered.wait(10)
        else:
            time.sleep(0.003)  # longer than a turn
        return respond(start_response, b"x")

    with running(app, worker="main") as server:
        client, other = server.connect(), server.connect()
        client.send(
            b"".join(whole_request(id, "/") for id in (1, 2, 3)) + whole_request(4, "/last")
        )
        assert client.answer(1).body == b"x"
        other.ask(1)  # it is read between two turns
        answered.set()
        assert client.answer(4).body == b"x"
        assert other.answer(1).body == b"x"


def test_responses_of_one_round_leave_a_connection_in_one_write() -> None:
    with running(hello, worker="main") as server:
        client = server.connect()
        client.send(b"".join(whole_request(id, f"/{id}") for id in range(1, 9)))
        data = client.sock.recv(65536)
    assert all(b"/%d" % id in data for id in range(1, 9))


def test_a_burst_that_fills_the_queue_is_not_refused() -> None:
    """The worker is free: requests wait only for the end of the round in which they were read."""
    with running(hello, worker="main", max_queued=2) as server:
        client = server.connect()
        client.send(b"".join(whole_request(id, f"/{id}") for id in range(1, 21)))
        for id in range(1, 21):
            assert client.answer(id).body == b"/%d" % id
