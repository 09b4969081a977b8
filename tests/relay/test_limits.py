"""Test the relay's limits, and how it stops."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.asking import spooled, uri_of
from support.fcgi import records
from support.fcgi.peer import Client, whole_request
from support.fcgi.scripted import HEAD, ONE_AT_A_TIME, Peer, scripted, stdout
from support.memory import no_memory
from support.relay import relaying
from support.server import Running, echo, hello, logged, respond, running, wait_until

from vsgi_fcgi.client.exchange import exchange_of
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


class App:
    """``/held`` waits, ``/large`` answers 8 MiB, all else answers at once."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.free = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/held":
            self.begun.release()
            assert self.free.wait(20)
        if environ["PATH_INFO"] == "/large":
            return respond(start_response, self._large())
        return hello(environ, start_response)

    def _large(self) -> Iterator[bytes]:
        for _ in range(128):
            yield b"x" * 65536


# Memory.


@pytest.mark.parametrize("where", ["relay.relayed", "client.exchange"])
def test_a_body_for_which_there_is_no_memory_is_503_and_costs_no_other_request(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(echo) as server, relaying(uri_of(server)) as relay:
        client = relay.connect()
        client.get("/")  # has opened the connection
        client.start(2, length=3)
        client.start(1, length=100_000)
        with monkeypatch.context() as patch:
            patch.setattr(f"vsgi_fcgi.{where}.append_piece", no_memory)
            client.stdin(1, b"x" * 30_000, end=False)
            assert client.answer(1).status == 503
        client.stdin(1, b"x" * 70_000)  # ignored: the request has ended
        client.stdin(2, b"abc")
        assert client.answer(2).body == b"abc"


def test_a_queued_request_for_which_there_is_no_memory_is_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        assert go_on.wait(20)
        peer.say_values()
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.ask(1, body=b"body")
        wait_until(lambda: len(relay.relay.queue) == 1)
        with monkeypatch.context() as patch:
            patch.setattr("vsgi_fcgi.client.exchange.append_piece", no_memory)
            go_on.set()
            assert client.answer(1).status == 503


def test_a_response_for_which_there_is_no_memory_costs_no_other_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(echo) as server, relaying(uri_of(server)) as relay, logged() as log:
        client = relay.connect()
        client.get("/")
        client.start(2, length=3)
        with monkeypatch.context() as patch:
            patch.setattr("vsgi_fcgi.client.exchange.append_piece", no_memory)
            client.ask(1, "/")
            assert client.answer(1).status == 502
        client.stdin(2, b"abc")
        assert client.answer(2).body == b"abc"
        assert log.has("the system has no memory for it")


# Slow readers.


def test_what_a_slow_reader_leaves_lies_in_a_file_and_its_neighbours_go_on() -> None:
    with running(App()) as server, relaying(uri_of(server)) as relay:
        neighbour = relay.connect()
        neighbour.start(1, method="POST", length=1)
        slow = relay.connect(receive_buffer=4096)
        slow.ask(1, "/large")
        (upstream,) = relay.relay.upstreams.all
        wait_until(lambda: spooled(upstream) > 7_000_000)
        for _ in range(20):
            assert relay.connect().get("/quick").body == b"/quick"
        exchanges = [
            exchange_of(request)
            for connection in upstream.connections
            for request in connection.protocol.requests.values()
        ]
        assert all(item.held < 400_000 for item in exchanges)
        # The relay reads no more from the file than it sends next.
        slow.collect_until(lambda: 1 in slow.answers and len(slow.answers[1].stdout) > 2_000_000)
        for connection in relay.relay.connections:
            # Only the writer knows how much it has read from the file.
            assert sum(map(len, connection.writer._unsent)) < 300_000
        assert len(slow.answer(1).body) == 128 * 65536
        neighbour.stdin(1, b"1")
        assert neighbour.answer(1).status == 200
        wait_until(lambda: not spooled(upstream))


def test_a_slow_reader_who_is_alone_slows_the_application_down() -> None:
    app = App()
    with running(app) as server, relaying(uri_of(server)) as relay:
        slow = relay.connect(receive_buffer=4096)
        slow.ask(1, "/large")
        wait_until(lambda: any(c.paused for c in relay.upstream.connections))
        assert not spooled(relay.upstream)
        assert len(slow.answer(1).body) == 128 * 65536


def test_who_reads_nothing_is_given_up() -> None:
    with (
        logged() as log,
        running(App()) as server,
        relaying(uri_of(server), send_timeout=0.2) as relay,
    ):
        client = relay.connect(receive_buffer=4096)
        client.ask(1, "/large")
        log.wait_for("nothing could be sent for 0.2 seconds; the connection is closed")
        wait_until(lambda: not relay.relay.connections)
        wait_until(lambda: not relay.upstream.in_flight)


def test_who_asks_and_does_not_read_is_heard_no_longer() -> None:
    with logged() as log, relaying("unix:/nowhere") as relay:
        client = relay.connect(receive_buffer=4096)
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            client.flood(records.get_values("FCGI_MPXS_CONNS") * 1000)
        log.wait_for("does not read the responses")


# Requests that do not come to their end.


def test_too_much_for_the_limits_costs_one_request_and_is_no_bug() -> None:
    """The read that exceeds the limit has more records, and the connection is closed already."""

    def script(peer: Peer) -> None:
        peer.say_values(ONE_AT_A_TIME)
        peer.read_until(lambda: peer.has_ended(1, records.PARAMS))
        with contextlib.suppress(OSError):
            peer.send(stdout(1, HEAD, end=False) + 400 * stdout(1, bytes(8000), end=False))
        peer.until_closed()

    limits: dict[str, Any] = {"response_memory_bytes": 4096, "response_spool_bytes": 0}
    with scripted(script) as app, relaying(app.address, **limits) as relay, logged() as log:
        client = relay.connect()
        client.start(1, method="POST", length=10)
        assert client.answer(1).status == 502
        log.wait_for("response_spool_bytes or total_response_spool_bytes is reached")
    assert not log.has("internal error"), log.lines


def test_a_request_that_does_not_go_on_is_a_408() -> None:
    with running(hello) as server, relaying(uri_of(server), receive_timeout=0.1) as relay:
        client = relay.connect()
        client.start(1, method="POST", length=10)
        client.stdin(1, b"12345", end=False)
        assert client.answer(1).status == 408
        # So it is before its params are there, and the connection goes on.
        client.send(records.begin(1) + records.params(1, b"\x01", end=False))
        assert client.answer(1).status == 408
        assert client.get("/next").body == b"/next"
        wait_until(lambda: not relay.upstream.in_flight)


def test_a_request_that_goes_on_may_take_its_time() -> None:
    with running(App()) as server, relaying(uri_of(server), receive_timeout=1) as relay:
        client = relay.connect()
        began = time.monotonic()
        client.start(1, method="POST", length=4)
        for byte in (b"a", b"b", b"c", b"d"):
            client.stdin(1, byte, end=False)
            with pytest.raises(TimeoutError):
                client.read_record(time.monotonic() + 0.3)
        client.stdin(1)
        assert client.answer(1).status == 200
        assert time.monotonic() - began > 1


def test_the_rest_of_a_request_that_was_answered_early_is_not_waited_for_long() -> None:
    with relaying("unix:/nowhere", linger_timeout=0.1) as relay:
        client = relay.connect()
        client.send(records.begin(1, keep_conn=False) + records.params(1, {"A": "b"}))
        assert client.answer(1).status == 502
        client.read_to_end()


def test_params_are_bounded() -> None:
    settings: dict[str, Any] = {"max_params_bytes": 1000, "total_params_bytes": 65536}
    with running(hello) as server, relaying(uri_of(server), **settings) as relay:
        client = relay.connect()
        client.ask(1, more={"LONG": "x" * 2000})
        assert client.answer(1).status == 431
        half = b"".join(
            records.begin(id) + records.params(id, b"\x01" * 990, end=False) for id in range(1, 68)
        )
        client.send(half)
        assert client.answer(67).status == 503
        client.close()
        wait_until(lambda: not relay.relay.connections.params.used)
        assert relay.connect().get().status == 200


# How many there may be.


def test_requests_on_a_connection_are_bounded() -> None:
    app = App()
    with running(app) as server, relaying(uri_of(server), max_front_requests=2) as relay:
        client = relay.connect()
        client.ask(1, "/held")
        client.ask(2, "/held")
        client.ask(3)
        assert client.answer(3).status == 503
        app.free.set()
        assert client.answer(1).status == client.answer(2).status == 200


def test_past_the_limit_the_longest_idle_connection_is_closed() -> None:
    with running(hello) as server, relaying(uri_of(server), max_front_connections=3) as relay:
        first, second, third = (relay.connect() for _ in range(3))
        for client in (first, second, third, first):
            assert client.get().status == 200
        assert relay.connect().get().status == 200
        second.read_to_end()
        assert first.get().status == third.get().status == 200


def test_past_the_limit_new_connections_wait_if_none_is_idle() -> None:
    app = App()
    with (
        logged() as log,
        running(app) as server,
        relaying(uri_of(server), max_front_connections=2) as relay,
    ):
        held = [relay.connect() for _ in range(2)]
        for client in held:
            client.ask(1, "/held")
        waiting = relay.connect()
        waiting.ask(1)
        log.wait_for("2 connections are open and none is idle: new ones wait")
        assert len(relay.relay.connections) == 2
        app.free.set()
        assert waiting.answer(1).status == 200


def test_tcp_is_served_and_only_to_those_who_may_come() -> None:
    with running(hello, bind="127.0.0.1:0") as server:
        settings: dict[str, Any] = {
            "bind": "127.0.0.1:0",
            "allowed": frozenset({"127.0.0.1"}),
        }
        with logged() as log, relaying(uri_of(server), **settings) as relay:
            assert relay.connect().get("/tcp").body == b"/tcp"
            with Client(relay.address, source="127.0.0.9") as stranger:
                stranger.read_to_end()
            log.wait_for("127.0.0.9: refused")


# The end.


def ask_and_stop(app: App, server: Running, grace: float) -> tuple[int, bool]:
    """Stop while two requests run and another waits in the backlog; return the results."""
    with relaying(uri_of(server)) as relay:
        idle, silent, held, other = (relay.connect() for _ in range(4))
        assert idle.get().status == 200
        held.ask(1, "/held")
        other.ask(7, "/held", keep_conn=False)
        assert app.begun.acquire(timeout=10)
        assert app.begun.acquire(timeout=10)
        assert isinstance(relay.address, str)
        relay.begin_stop(grace)
        begun = threading.Event()
        relay.in_loop(begun.set)
        assert begun.wait(10)
        idle.read_to_end()
        wait_until(lambda: not Path(str(relay.address)).exists())
        with pytest.raises(OSError, match=r"refused|No such"):
            Client(relay.address)
        if grace > 1:
            # What it would send now fails visibly, so that it can be sent elsewhere.
            silent.read_to_end()
            app.free.set()
            assert held.answer(1).status == other.answer(7).status == 200
        held.read_to_end()
        other.read_to_end()
        return relay.stopped(), held.answers == {}


def test_it_stops_when_all_that_runs_has_ended() -> None:
    app = App()
    with running(app) as server:
        assert ask_and_stop(app, server, 20) == (0, True)


def test_what_has_not_ended_in_time_is_cut_off() -> None:
    app = App()
    with logged() as log, running(app) as server:
        assert ask_and_stop(app, server, 0.2)[0] == 1
        log.wait_for("connections that still had requests are cut off: ")
        app.free.set()


def test_who_says_nothing_does_not_hold_it_up() -> None:
    with relaying("unix:/nowhere") as relay:
        silent = relay.connect()
        wait_until(lambda: len(relay.relay.connections) == 1)
        relay.begin_stop(5)
        silent.read_to_end()
        assert relay.stopped() == 0


def test_what_waits_in_the_backlog_is_served_before_it_stops() -> None:
    with running(hello) as server, relaying(uri_of(server)) as relay:
        waiting = threading.Event()
        stopping = threading.Event()

        def stop() -> None:
            # The loop is blocked here, so that it cannot accept connections meanwhile.
            stopping.set()
            assert waiting.wait(10)
            relay.relay.stop(20)

        relay.in_loop(stop)
        assert stopping.wait(10)
        client = relay.connect()
        client.send(whole_request(1, "/last"))
        waiting.set()
        assert client.answer(1).body == b"/last"
        client.read_to_end()
        assert relay.stopped() == 0
