"""Test requests that make no progress, and web servers that do not read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import pytest
from support.fcgi import records
from support.fcgi.peer import request_params
from support.server import WORKERS, echo, hello, logged, respond, running, wait_in_app, wait_until

from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


@pytest.mark.parametrize("worker", WORKERS)
def test_a_body_that_stops_is_408_and_its_neighbour_lives_on(worker: str) -> None:
    free = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            wait_in_app(environ, free)
        return respond(start_response, environ["wsgi.input"].read())

    with running(app, worker=worker, receive_timeout=0.2) as server:
        client = server.connect()
        client.ask(1, "/slow", b"complete")
        client.start(2, length=10)
        client.stdin(2, b"01234", end=False)
        answer = client.answer(2)
        assert answer.status == 408
        assert answer.app_status == 0
        assert 1 not in client.answers  # an app may take longer than any web server
        free.set()
        assert client.answer(1).body == b"complete"
        # Further records of the request that timed out are ignored; the id is free.
        client.stdin(2, b"56789")
        assert client.get("/next", b"new", id=2).body == b"new"


@pytest.mark.parametrize(
    "begun", [b"", records.params(1, b"\x04\x04na", end=False), records.params(1, request_params())]
)
def test_params_and_stdin_that_never_come_are_408(begun: bytes) -> None:
    with running(hello, receive_timeout=0.1) as server:
        client = server.connect()
        client.send(records.begin(1, keep_conn=False) + begun)
        assert client.answer(1).status == 408


def test_who_comes_slowly_but_comes_is_served() -> None:
    timeout = 0.4
    with running(echo, receive_timeout=timeout) as server:
        client = server.connect()
        started = time.monotonic()
        client.start(1)
        sent = 0
        # One byte at a time, for longer than the timeout: each is progress.
        waiting = threading.Event()
        while time.monotonic() - started < 2 * timeout:
            client.stdin(1, b"x", end=False)
            sent += 1
            waiting.wait(0.02)
        client.stdin(1)
        assert client.answer(1).body == b"x" * sent


def test_an_idle_connection_does_not_time_out() -> None:
    with running(hello, receive_timeout=0.05, send_timeout=0.05, linger_timeout=0.05) as server:
        client = server.connect()
        client.get("/first")
        other = server.connect()
        # As good as a sleep, but it ends when a request has really timed out in the meantime.
        for _ in range(3):
            other.start(1, length=5)
            assert other.answer(1).status == 408
        assert client.get("/second").body == b"/second"


def test_a_flood_of_questions_whose_answers_nobody_reads_is_ended() -> None:
    with logged() as log, running(hello) as server:
        flooder, other = server.connect(receive_buffer=4096), server.connect()
        question = records.get_values("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS") * 1000
        with pytest.raises(ConnectionError):
            flooder.flood(question)
        log.wait_for("does not read the responses")
        assert other.get("/other").body == b"/other"
        wait_until(lambda: server.context.services.memory.used == 0)


def test_a_flood_of_aborted_requests_whose_ends_nobody_reads_is_ended() -> None:
    with running(hello) as server:
        flooder, other = server.connect(receive_buffer=4096), server.connect()
        flood = (records.begin(1) + records.abort(1)) * 2000
        with pytest.raises(ConnectionError):
            flooder.flood(flood)
        assert other.get("/other").body == b"/other"


def test_questions_are_answered_with_what_was_asked_and_known() -> None:
    with running(hello, max_connections=77, threads=3, max_queued=5) as server:
        client = server.connect()
        client.send(records.get_values("FCGI_MPXS_CONNS", "FCGI_MAX_CONNS", "OTHER"))
        client.send(records.get_values("FCGI_MAX_REQS") + records.record(99, 0, b"what"))
        client.collect_until(lambda: len(client.management) == 3)
        first, second, third = client.management
        assert first.content == records.pairs({"FCGI_MPXS_CONNS": "1", "FCGI_MAX_CONNS": "77"})
        assert second.content == records.pairs({"FCGI_MAX_REQS": "8"})
        assert (third.kind, third.content) == (records.UNKNOWN_TYPE, bytes([99]) + bytes(7))
        assert client.get("/then").body == b"/then"


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP request"),
        (records.record(1, 1, bytes(8), version=9), "version 9"),
        (records.record(6, 1, b"x"), "STDOUT"),
        (records.begin(1) + records.begin(1), "BEGIN_REQUEST"),
        (records.record(4, 0, b"x"), "PARAMS"),
    ],
)
def test_malformed_input_ends_its_connection_with_one_line_in_the_log(
    sent: bytes, why: str
) -> None:
    with logged() as log, running(hello) as server:
        other, client = server.connect(), server.connect()
        other.get("/before")
        client.send(sent)
        client.read_to_end()
        log.wait_for(why)
        assert sum("the connection is closed" in line for line in log.lines) == 1
        assert other.get("/after").body == b"/after"
