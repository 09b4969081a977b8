"""Test limits on a request that runs, or waits for a thread."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import gevent
import pytest
from support.build import untraced
from support.fcgi.peer import whole_request
from support.lines import LogFile
from support.server import (
    WORKERS,
    hello,
    logged,
    respond,
    running,
    wait_in_app,
    wait_until,
)

from vsgi_fcgi import RequestTimeout, Server
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.log.handlers import JsonFormatter
from vsgi_fcgi.protocol import BROKEN_ANSWER
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


class Stuck:
    """``/stuck`` blocks its thread until the test ends the wait."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/stuck":
            self.wait_here()
        return respond(start_response, b"done")

    def wait_here(self) -> None:
        assert self.free.wait(20)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_slow_request_is_logged_once_with_its_stack_and_again_at_its_end(worker: str) -> None:
    app = Stuck()
    with logged() as log, running(app, worker=worker, slow_request=0.1) as server:
        client = server.connect()
        client.get("/quick")
        client.ask(1, "/stuck", more={"REQUEST_URI": "/stuck?a=1"})
        log.wait_for("GET /stuck?a=1 has run for 0.")
        other = server.connect()
        if worker == "thread":
            # Several more looks pass, and none of them logs it again.
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 0.2 and other.get("/quick").body)
        app.free.set()
        assert client.answer(1).body == b"done"
        log.wait_for("GET /stuck?a=1 has ended after 0.")
        assert sum("has run for" in line for line in log.lines) == 1
        assert not log.has("/quick")


def test_the_stack_of_a_greenlet_that_waits_is_its_own() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        while not log.has("has run for"):
            gevent.sleep(0.01)
        return respond(start_response)

    with logged() as log, running(app, worker="main", slow_request=0.05) as server:
        server.connect().get()
        log.wait_for("gevent.sleep(0.01)")


def test_a_slow_request_has_fields_and_the_place_in_a_json_log() -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    app, handler = Stuck(), Keep()
    logger = logging.getLogger("vsgi_fcgi")
    logger.addHandler(handler)
    try:
        with running(app, slow_request=0.05) as server:
            client = server.connect()
            client.ask(1, "/stuck", more={"REQUEST_URI": "/stuck?a=1"})
            wait_until(lambda: any("has run for" in each.getMessage() for each in records))
            app.free.set()
            client.answer(1)
    finally:
        logger.removeHandler(handler)
    (record,) = (each for each in records if "has run for" in each.getMessage())
    found = json.loads(JsonFormatter().format(record))
    assert found["extra"]["method"] == "GET"
    assert found["extra"]["uri"] == "/stuck?a=1"
    assert found["extra"]["queued"] >= 0
    assert found["extra"]["run"] >= 0.05
    stack = found["stack"]
    # It begins with the app, not with the server's calls around it.
    assert stack.splitlines()[1].startswith(f'  File "{__file__}"')
    assert "assert self.free.wait(20)" in stack


# Requests that wait for a worker.


def test_a_request_that_waits_too_long_gets_a_503_and_does_not_run(tmp_path: Path) -> None:
    app, ran = Stuck(), []

    def counting(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        ran.append(environ["PATH_INFO"])
        return app(environ, start_response)

    log_file = LogFile(tmp_path / "access.log")
    with running(
        counting,
        threads=1,
        queue_timeout=0.1,
        access_log=str(log_file.path),
        access_log_format="%(s)s %(end)s %(U)s",
    ) as server:
        client = server.connect()
        client.ask(1, "/stuck")
        wait_until(lambda: ran)
        client.ask(2, "/late")
        answer = client.answer(2)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        app.free.set()
        assert client.answer(1).body == b"done"
        assert client.get("/next").body == b"done"
        assert ran == ["/stuck", "/next"]
        assert log_file.wait_for(3) == [
            "503 refused /late",
            "200 complete /stuck",
            "200 complete /next",
        ]


def test_a_request_that_waited_too_long_for_the_main_context_gets_a_503() -> None:
    free, ran = threading.Event(), []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        ran.append(environ["PATH_INFO"])
        wait_in_app(environ, free)
        return respond(start_response)

    with running(app, worker="main", queue_timeout=0.05) as server:
        client = server.connect()
        client.ask(1, "/first")
        wait_until(lambda: ran)
        client.ask(2, "/second")
        wait_until(lambda: server.context.dispatcher.waiting)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.06)
        free.set()
        assert client.answer(1).status == 200
        assert client.answer(2).status == 503
        assert ran == ["/first"]


# Requests that run too long.


@untraced
def test_an_app_that_runs_too_long_is_interrupted_and_its_client_gets_a_504(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            try:
                while True:
                    try:
                        time.sleep(0.005)
                        environ["wsgi.errors"].write("")
                    except Exception:
                        continue
            except RequestTimeout as error:
                caught.append(error)
                raise
        return respond(start_response, b"quick")

    log_file = LogFile(tmp_path / "access.log")
    with (
        logged() as log,
        running(
            app,
            threads=1,
            request_timeout=0.1,
            access_log=str(log_file.path),
            access_log_format="%(s)s %(end)s",
        ) as server,
    ):
        client = server.connect()
        for _ in range(3):
            client.ask(1, "/slow", more={"REQUEST_URI": "/slow"})
            assert client.answer(1).status == 504
            # The only thread serves on.
            assert client.get("/quick").body == b"quick"
        log.wait_for("GET /slow was answered 504: it has run for 0.")
        log.wait_for("time.sleep(0.005)")
        assert not log.has("between two requests")
        assert log_file.wait_for(6) == ["504 timed-out", "200 complete"] * 3
    assert len(caught) == 3


@untraced
@pytest.mark.parametrize("multiplexed", [False, True])
def test_a_response_that_had_begun_is_broken_off_and_its_iterable_closed(
    multiplexed: bool,
) -> None:
    closed = threading.Event()
    free = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                time.sleep(0.005)
        finally:
            closed.set()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/neighbour":
            # A thread learns of its timeout between two waits.
            while not free.wait(0.005):
                pass
            return respond(start_response, b"neighbour")
        return respond(start_response, endless())

    with running(app, threads=2, request_timeout=0.3) as server:
        client = server.connect()
        client.ask(1, "/endless")
        if multiplexed:
            client.ask(2, "/neighbour")
            assert client.answer(1).app_status == BROKEN_ANSWER
            # The neighbour has begun a little later, so it times out a little later.
            assert client.answer(2).status == 504
            free.set()
            assert client.get("/neighbour").body == b"neighbour"
        else:
            client.read_to_end()
            assert not client.answers[1].ended
        assert closed.wait(20)


@untraced
def test_no_timeout_strikes_the_server_or_the_next_request() -> None:
    """Requests end at about the moment of their timeout, in every way that an app can end."""
    # Long enough for a quick request on a busy machine.
    limit = 0.08
    opened = 0
    closes = 0

    class Body:
        def __init__(self, pause: float) -> None:
            self.pause = pause

        def __iter__(self) -> Iterator[bytes]:
            for _ in range(4):
                pass_time(self.pause / 4)
                yield b"x"

        def close(self) -> None:
            nonlocal closes
            closes += 1

    def pass_time(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal opened
        kind, pause = environ["PATH_INFO"].split("/")[1:]
        if kind == "quick":
            return respond(start_response, b"quick")
        if kind == "body":
            opened += 1
            return respond(start_response, Body(float(pause)))
        if kind == "write":
            write = start_response("200 OK", [])
            until = time.monotonic() + float(pause)
            while time.monotonic() < until:
                write(b"x")
            return []
        until = time.monotonic() + float(pause)
        while time.monotonic() < until:
            environ["wsgi.errors"].write("x\n")
            time.sleep(0.0005)
        return respond(start_response, b"x")

    random = Random(7)
    outcomes = set()
    with logged() as log, running(app, threads=2, request_timeout=limit) as server:
        client = server.connect()
        # Two at once: from now on, a broken response does not end the connection.
        client.send(whole_request(1, "/quick/") + whole_request(2, "/quick/"))
        client.answer(1)
        client.answer(2)
        for _ in range(50):
            kind = random.choice(["body", "write", "errors"])
            client.ask(1, f"/{kind}/{random.uniform(0.7, 1.6) * limit}")
            answer = client.answer(1)
            outcomes.add((answer.status, answer.app_status))
            assert client.get("/quick/").body == b"quick"
        wait_until(lambda: opened == closes)
    assert outcomes == {(200, 0), (200, BROKEN_ANSWER), (504, 0)}
    assert not log.has("between two requests")
    assert not log.has("bug")
    assert not log.has("failed")


@untraced
def test_a_thread_that_is_stuck_in_c_is_replaced_up_to_a_limit() -> None:
    locks = [threading.Lock() for _ in range(3)]
    ran: list[str] = []

    def workers() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if "worker" in each.name]

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        ran.append(path)
        if path.startswith("/stuck"):
            # No exception is raised in a thread that waits for a lock.
            with locks[int(path[-1])]:
                pass
        return respond(start_response, path.encode())

    settings: Any = {"request_timeout": 0.1, "graceful_timeout": 0.2, "max_stuck_threads": 2}
    with logged() as log, running(app, threads=1, **settings) as server:
        client = server.connect()
        for lock in locks:
            lock.acquire()
        for number in range(2):
            client.ask(1, f"/stuck{number}")
            assert client.answer(1).status == 504
            # Another thread takes the place of the only one.
            assert client.get("/next").body == b"/next"
            log.wait_for(f"/stuck{number} has not ended 0.2 seconds after RequestTimeout")
        client.ask(1, "/stuck2")
        log.wait_for("it is not replaced: max_stuck_threads (2) others are stuck")
        assert client.answer(1).status == 504
        client.ask(1, "/waits")
        # The threads that were replaced end when their app returns.
        locks[0].release()
        locks[1].release()
        wait_until(lambda: len(workers()) == 1)
        assert ran[-1] == "/stuck2"
        locks[2].release()
        assert client.answer(1).body == b"/waits"
    log.wait_for("with locks[int(path[-1])]:")


def test_the_main_context_has_no_request_timeout(tmp_path: Path) -> None:
    with Server(hello, worker="main", request_timeout=1) as server:
        server.listen(f"unix:{tmp_path}/app.sock")
        with pytest.raises(UsageError, match="request_timeout needs worker threads"):
            server.start()
