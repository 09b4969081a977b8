"""Test ``--worker thread``: a fixed pool, whose threads each run one request at a time."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import deque
from collections.abc import Iterable

import pytest
from support.build import untraced
from support.fcgi.peer import whole_request
from support.server import hello, logged, respond, running, wait_in_app, wait_until

from vsgi_fcgi.server.exchange import Exchange
from vsgi_fcgi.server.workers.threads import ThreadPool, WorkerThread
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


class Blocker:
    """Requests for ``/block...`` wait until the test releases them; counts how many do at once."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.blocked: set[str] = set()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/block"):
            self.blocked.add(path)
            wait_in_app(environ, self.free)
        return respond(start_response, path.encode())


def test_as_many_requests_run_at_once_as_there_are_threads() -> None:
    app = Blocker()
    with running(app, threads=3) as server:
        client = server.connect()
        for id in range(1, 6):
            client.ask(id, f"/block{id}")
        # The last one may still be on its way when the threads are all taken.
        wait_until(lambda: len(app.blocked) == 3 and server.context.dispatcher.waiting == 2)
        app.free.set()
        for id in range(1, 6):
            assert client.answer(id).body == b"/block%d" % id


@pytest.mark.parametrize("quick", [0, 1, 20])
def test_requests_behind_one_that_blocks_get_other_threads(quick: int) -> None:
    """All come in one write, and the first were quick: the pool has to notice that one is not."""
    app = Blocker()
    with running(app, threads=3) as server:
        client = server.connect()
        for _ in range(50):
            client.get("/warm")
        paths = [*["/quick"] * quick, "/block1", "/after1", "/block2", "/after2"]
        ids = range(1, len(paths) + 1)
        client.send(b"".join(whole_request(id, path) for id, path in zip(ids, paths, strict=True)))
        for id, path in zip(ids, paths, strict=True):
            if not path.startswith("/block"):
                assert client.answer(id).body == path.encode()
        assert app.blocked == {"/block1", "/block2"}
        app.free.set()
        for id, path in zip(ids, paths, strict=True):
            if path.startswith("/block"):
                assert client.answer(id).body == path.encode()


def test_no_answer_is_held_back_by_a_request_that_blocks_after_it() -> None:
    """However the two arrive: in one round of the loop, or just as the first one ends."""
    with running(app := Blocker(), threads=2) as server:
        quick, slow = server.connect(), server.connect()
        for turn in range(200):
            app.free.clear()
            app.blocked.clear()
            quick.ask(1, f"/{turn}")
            slow.ask(1, "/block")
            assert quick.answer(1).body == b"/%d" % turn
            app.free.set()
            assert slow.answer(1).body == b"/block"


def test_two_requests_share_a_connection_of_which_the_first_sleeps_and_is_not_read() -> None:
    app = Blocker()
    with running(app, threads=2) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, "/block")
        wait_until(lambda: app.blocked)
        for turn in range(20):
            assert client.get(f"/{turn}", id=2).body == b"/%d" % turn
        assert 1 not in client.answers
        app.free.set()
        assert client.answer(1).body == b"/block"


def test_a_thread_serves_many_connections_in_turn() -> None:
    names = set()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        names.add(threading.current_thread().name)
        return respond(start_response, b"x")

    with running(app, threads=1) as server:
        for _ in range(5):
            server.connect().get()
    assert names == {"vsgi-fcgi-worker-1"}


class FewThreads(WorkerThread):
    """Threads of a host that allows only so many."""

    left = 0

    def start(self) -> None:
        if type(self).left == 0:
            raise RuntimeError("can't start new thread")
        type(self).left -= 1
        super().start()


@pytest.mark.parametrize("allowed", [1, 2])
def test_threads_that_cannot_start_leave_a_smaller_pool(
    allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Blocker()
    monkeypatch.setattr(FewThreads, "left", allowed)
    with logged() as log:
        with monkeypatch.context() as patch:
            patch.setattr("vsgi_fcgi.server.workers.threads.WorkerThread", FewThreads)
            context = running(app, threads=4)
            server = context.__enter__()
        try:
            log.wait_for(f"only {allowed} of 4 threads could be started")
            client = server.connect()
            for id in range(1, 4):
                client.ask(id, f"/block{id}")
            wait_until(lambda: len(app.blocked) == allowed)
            app.free.set()
            for id in range(1, 4):
                assert client.answer(id).body == b"/block%d" % id
        finally:
            context.__exit__(None, None, None)


def test_without_any_thread_the_main_context_runs_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, repr(environ["wsgi.multithread"]).encode())

    monkeypatch.setattr(FewThreads, "left", 0)
    monkeypatch.setattr("vsgi_fcgi.server.workers.threads.WorkerThread", FewThreads)
    with logged() as log, running(app, threads=4) as server:
        log.wait_for("only 0 of 4 threads could be started")
        log.wait_for("the app runs in the main context instead")
        assert server.connect().get().body == b"False"


def test_no_thread_for_log_and_disk_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: object, args: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("vsgi_fcgi.log.log.start_thread", refuse)
    monkeypatch.setattr("vsgi_fcgi.server.file_io.start_thread", refuse)
    with logged() as log, running(hello, body_memory_bytes=1000) as server:
        client = server.connect()
        assert client.get("/upload", b"x" * 50_000).body == b"/upload"
        assert client.get("/next").body == b"/next"
    log.wait_for("stopped")


class TakenMeanwhile(deque[Exchange]):
    """Requests of which a thread takes the last between two looks at them."""

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return 2


def test_requests_that_are_taken_while_a_check_is_arranged() -> None:
    """Else the check would count as due for ever, and held-back answers would wait for it."""
    due: list[bool] = []

    with running(hello) as server:

        def arrange() -> None:
            pool = ThreadPool(
                lambda exchange: None,
                server.context.services.loop,
                server.context.services.mailbox,
                print,
            )
            pool.jobs = TakenMeanwhile()
            # The race is between two lines of the pool; it cannot be hit from outside.
            pool.fresh = True
            pool.hand_over()
            due.append(server.context.services.mailbox.due)
            pool.stop()

        server.in_context(arrange)
    assert due == [False]


def raise_in(ident: int, error: type[BaseException]) -> None:
    """Raise an exception in a thread as soon as it runs Python again."""
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), ctypes.py_object(error)
    )


@untraced
def test_an_exception_that_comes_late_costs_no_thread_and_no_request() -> None:
    """As a time limit that an app has for a request, and that fires when it has ended."""
    idents: set[int] = set()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        idents.add(threading.get_ident())
        return respond(start_response, b"x")

    with logged() as messages, running(app, threads=1) as server:
        # That a thread is idle cannot be seen from outside.
        pool = server.context._pool
        assert isinstance(pool, ThreadPool)
        client = server.connect()
        client.get()
        for _ in range(20):
            wait_until(lambda: len(pool._idle) == 1)
            raise_in(next(iter(idents)), TimeoutError)
            assert client.get().status == 200
        assert len(idents) == 1
    assert sum("between two requests" in line for line in messages.lines) == 20


@untraced
def test_exceptions_at_any_moment_leave_no_request_without_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    idents: set[int] = set()
    stop = threading.Event()
    # An exception may also come in a callback of the garbage collector (hypothesis has one) or in
    # a finalizer. Python drops it there, and pytest would count it as a failure of the test.
    dropped: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: dropped.append(args.exc_type))

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        idents.add(threading.get_ident())
        return respond(start_response, b"x")

    def disturb() -> None:
        while not stop.wait(0.0003):
            for ident in list(idents):
                raise_in(ident, TimeoutError)

    disturber = threading.Thread(target=disturb)
    with running(app, threads=2) as server, logged():
        client = server.connect()
        client.get()
        disturber.start()
        try:
            for number in range(600):
                id = 1 + number % 50
                client.ask(id)
                client.answer(id)
        finally:
            stop.set()
            disturber.join()
        assert client.get().status == 200
    assert set(dropped) <= {TimeoutError}
