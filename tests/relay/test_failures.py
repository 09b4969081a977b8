"""Test the relay's answers when the application server fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from support.asking import uri_of
from support.fcgi import records
from support.fcgi.peer import Client, whole_request
from support.fcgi.records import CANT_MPX_CONN, OVERLOADED
from support.fcgi.scripted import (
    HEAD,
    MULTIPLEXES,
    ONE_AT_A_TIME,
    Peer,
    answer,
    end_request,
    scripted,
    stdout,
)
from support.relay import Relaying, relaying
from support.server import logged, running, wait_until

from vsgi_fcgi.protocol import BROKEN_ANSWER
from vsgi_fcgi.relay.relayed import Relayed
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


def serves(peer: Peer) -> None:
    """Answers every request with its STDIN."""
    peer.say_values()
    while (record := peer.read()) is not None:
        if record.kind == records.STDIN and not record.content:
            peer.send(answer(record.id, peer.asked[record.id].stdin))


def goes_away(peer: Peer) -> None:
    """Takes a request, and closes the connection."""
    peer.say_values()
    peer.request()


def breaks(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Fails after a part of its answer at ``/fail``, and answers the body elsewhere."""
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/fail":
        yield b"a part" * 20_000
        raise ZeroDivisionError
    yield environ["wsgi.input"].read()


def test_an_application_that_cannot_be_reached_is_a_502() -> None:
    with logged() as log, relaying("unix:/nowhere/app.sock") as relay:
        client = relay.connect()
        seen = client.get("/some/path")
        assert (seen.status, seen.app_status, seen.protocol_status) == (502, 0, 0)
        assert b"/nowhere" not in seen.stdout
        log.wait_for("GET /some/path was answered 502: /nowhere/app.sock cannot be connected to")
        # The connection goes on, and an answer to HEAD has no body.
        client.ask(1, method="HEAD")
        seen = client.answer(1)
        assert (seen.status, seen.body) == (502, b"")


def test_it_is_served_again_as_soon_as_it_can_be_reached() -> None:
    with scripted(serves) as app:
        path = app.address.removeprefix("unix:")
        with relaying(f"unix:{path}.late") as relay:
            client = relay.connect()
            assert client.get().status == 502
            os.link(path, f"{path}.late")
            try:
                client.ask(1, body=b"now")
                assert client.answer(1).body == b"now"
            finally:
                os.unlink(f"{path}.late")


def test_many_that_wait_for_an_application_that_cannot_be_reached_all_get_their_502() -> None:
    with relaying("unix:/nowhere/app.sock") as relay:
        clients = [relay.connect() for _ in range(30)]
        for client in clients:
            client.ask(1, keep_conn=False)
        for client in clients:
            client.read_to_end()
            assert client.answers[1].status == 502


def test_a_request_that_may_be_done_twice_is_sent_again_once_when_the_connection_breaks() -> None:
    with scripted(goes_away, serves) as app, relaying(app.address) as relay:
        assert relay.connect().get().app_status == 0
        assert len(app.peers) == 2
    with scripted(goes_away) as app, relaying(app.address) as relay:
        assert relay.connect().get().status == 502
        assert len(app.peers) == 2


def test_a_post_is_not_sent_twice() -> None:
    with scripted(goes_away, serves) as app, relaying(app.address) as relay:
        assert relay.connect().get(body=b"pay").status == 502
        assert len(app.peers) == 1


def test_cant_mpx_conn_is_believed_and_the_request_sent_again_with_its_body() -> None:
    def refuses_the_second(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.request(2)
        peer.send(end_request(2, protocol_status=CANT_MPX_CONN))
        assert answered.wait(10)
        peer.send(answer(1, b"first"))
        peer.until_closed()

    def one(peer: Peer) -> None:
        peer.send(answer(1, peer.request(1).stdin))
        peer.until_closed()

    answered = threading.Event()

    with scripted(refuses_the_second, one) as app, relaying(app.address) as relay:
        first, second = relay.connect(), relay.connect()
        first.ask(1, body=b"x")
        wait_until(lambda: relay.upstream.in_flight == 1)
        second.ask(1, body=b"the second body")
        assert second.answer(1).body == b"the second body"
        answered.set()
        assert first.answer(1).body == b"first"
        assert relay.upstream.multiplexes is False


def test_overloaded_becomes_a_503_that_every_web_server_understands() -> None:
    def overloaded(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        peer.send(end_request(1, protocol_status=OVERLOADED))
        peer.until_closed()

    with scripted(overloaded) as app, relaying(app.address) as relay:
        seen = relay.connect().get()
        assert (seen.status, seen.protocol_status) == (503, 0)
        assert seen.headers["retry-after"] == "1"


def test_a_status_that_the_specification_does_not_know_is_a_502() -> None:
    def odd(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        peer.send(end_request(1, protocol_status=77))
        peer.until_closed()

    with scripted(odd) as app, relaying(app.address) as relay:
        assert relay.connect().get().status == 502


def test_silence_behind_is_a_504_and_an_abort() -> None:
    aborted = threading.Event()

    def silent(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        peer.wait_for_abort(1)
        aborted.set()
        peer.send(end_request(1))
        peer.until_closed()

    with scripted(silent) as app, relaying(app.address, response_timeout=0.1) as relay:
        seen = relay.connect().get()
        assert (seen.status, seen.protocol_status) == (504, 0)
        assert aborted.wait(10)


def half(peer: Peer) -> None:
    """Sends a part of an answer, and goes away when it is asked something else."""
    peer.say_values()
    peer.request()
    peer.send(stdout(1, HEAD + b"a part", end=False))
    peer.read_until(lambda: 2 in peer.asked)


def test_an_answer_that_breaks_in_the_middle_is_broken_off_in_front_too() -> None:
    with scripted(half, serves) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.ask(1, method="POST")
        client.collect_until(lambda: 1 in client.answers)
        other = relay.connect()
        other.start(1, method="POST")
        # Without END_REQUEST.
        client.read_to_end()
        assert not client.answers[1].ended
        assert client.answers[1].body == b"a part"
        assert not client.management
        # The other one, of which nothing was sent yet, gets a 502.
        other.stdin(1)
        assert other.answer(1).status == 502


@pytest.mark.parametrize(
    ("software", "end"),
    [("nginx/1.22.1", bytes(8)), ("lighttpd/1.4.69", b""), ("Apache/2.4.66", b"")],
)
def test_a_broken_answer_ends_as_the_web_server_in_front_notices(software: str, end: bytes) -> None:
    with running(breaks) as server, relaying(uri_of(server)) as relay:
        client = relay.connect()
        client.send(whole_request(1, "/fail", more={"SERVER_SOFTWARE": software}))
        received = b"".join(iter(lambda: client.sock.recv(65536), b""))
        assert received.endswith(b"a part" + end)


def test_where_others_share_the_connection_in_front_it_ends_with_an_application_status() -> None:
    with scripted(half, serves) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.ask(5, method="POST")
        client.collect_until(lambda: 5 in client.answers)
        client.start(6, method="POST")
        seen = client.answer(5)
        assert (seen.body, seen.app_status, seen.protocol_status) == (b"a part", BROKEN_ANSWER, 0)
        client.stdin(6)
        assert client.answer(6).status == 502
        # The connection goes on.
        client.ask(6, body=b"and on")
        assert client.answer(6).body == b"and on"


def test_stderr_is_passed_on_if_there_is_no_response() -> None:
    """It often says why. This request is sent twice."""

    def fails(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        peer.send(records.stream(records.STDERR, 1, b"a complaint"))

    with scripted(fails) as app, relaying(app.address) as relay:
        seen = relay.connect().get()
        assert (seen.status, bytes(seen.stderr)) == (502, b"a complaint" * 2)


def test_stderr_is_passed_on_if_the_response_breaks() -> None:
    begun = threading.Event()

    def fails(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        peer.send(stdout(1, HEAD + b"a part", end=False))
        assert begun.wait(20)
        peer.send(records.stream(records.STDERR, 1, b"a complaint"))

    with scripted(fails) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.ask(1)
        client.collect_until(lambda: 1 in client.answers)
        begun.set()
        client.read_to_end()
        assert not client.answers[1].ended
        assert client.answers[1].stderr == b"a complaint"


def test_a_broken_answer_behind_costs_no_neighbour() -> None:
    """Neither those that are under way nor those that are not read yet: all share a connection."""
    with running(breaks) as server, relaying(uri_of(server)) as relay:
        waiting = relay.connect()
        waiting.start(1, method="POST", length=6)
        assert relay.connect().get("/", b"first").body == b"first"

        def alternate(number: int) -> None:
            with Client(relay.address) as kept:
                for turn in range(20):
                    body = b"%d" % number * turn
                    assert kept.get("/", body).body == body
                    with Client(relay.address) as broken:
                        broken.ask(1, "/fail")
                        broken.read_to_end()
                        assert not broken.answers[1].ended

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(alternate, range(6)))
        waiting.stdin(1, b"waited")
        assert waiting.answer(1).body == b"waited"
        # One, as long as none of them cost it.
        assert server.context.calls.stats.connections_accepted == 1


@pytest.mark.parametrize("size", [10, 100_000])
def test_an_application_status_passes_unless_it_is_to_mean_failure(size: int) -> None:
    """vsgi-fcgi ends what it cannot finish with a status, where others share its connection."""

    def fails(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        peer.send(stdout(1, HEAD + b"x" * size) + end_request(1, app_status=1))
        peer.until_closed()

    with scripted(fails) as app, relaying(app.address) as relay:
        assert relay.connect().get().app_status == 1
    with scripted(fails) as app, relaying(app.address, fail_on_app_status=True) as relay:
        client = relay.connect()
        client.ask(1)
        if size < 1000:
            # It is all there before anything of it was sent: a proper answer can be made.
            assert client.answer(1).status == 502
        else:
            client.read_to_end()
            assert not client.answers[1].ended


@pytest.mark.parametrize("size", [10, 100_000])
def test_an_answer_that_is_whole_by_its_length_is_none_that_failed(size: int) -> None:
    """As the page is that vsgi-fcgi makes for an app that raises."""
    head = b"Status: 500 Oh\r\nContent-Length: %d\r\n\r\n" % size

    def fails(peer: Peer) -> None:
        peer.say_values()
        for missing in (0, 1):
            peer.asked.clear()
            peer.request()
            peer.send(stdout(1, head + b"x" * (size - missing)) + end_request(1, app_status=1))
        peer.until_closed()

    with scripted(fails) as app, relaying(app.address, fail_on_app_status=True) as relay:
        whole = relay.connect().get()
        assert (whole.status, len(whole.body), whole.app_status) == (500, size, 1)
        client = relay.connect()
        client.ask(1)
        if size < 1000:
            assert client.answer(1).status == 502
        else:
            client.read_to_end()
            assert not client.answers[1].ended


def test_an_application_that_breaks_the_protocol_costs_its_connection_and_not_the_relay() -> None:
    def garbage(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.until_closed()

    with logged() as log, scripted(garbage, serves) as app, relaying(app.address) as relay:
        client = relay.connect()
        assert client.get(body=b"x").status == 502
        log.wait_for("this looks like an HTTP response")
        assert client.get(body=b"x").body == b"x"


def test_another_application_server_is_asked_when_one_cannot_be_reached() -> None:
    with scripted(serves) as app, relaying("unix:/nowhere/app.sock", app.address) as relay:
        client = relay.connect()
        for _ in range(3):
            assert client.get(body=b"x").body == b"x"


def test_who_waits_too_long_for_room_gets_a_503() -> None:
    def holds(peer: Peer) -> None:
        peer.say_values({**MULTIPLEXES, "FCGI_MAX_REQS": "1"})
        peer.request()
        assert free.wait(10)
        peer.send(answer(1, b"held"))
        peer.until_closed()

    free = threading.Event()
    with scripted(holds) as app, relaying(app.address, wait_timeout=0.2) as relay:
        held, other = relay.connect(), relay.connect()
        held.ask(1)
        wait_until(lambda: relay.upstream.in_flight == 1)
        other.ask(1, body=b"y" * 500_000)
        seen = other.answer(1)
        assert (seen.status, seen.headers["retry-after"]) == (503, "1")
        free.set()
        assert held.answer(1).body == b"held"


def holds_one(peer: Peer) -> None:
    """Multiplexes not, and keeps its only request."""
    peer.say_values(ONE_AT_A_TIME)
    peer.request()
    peer.until_closed()


def test_who_waits_too_long_gets_a_503_however_many_wait() -> None:
    settings: dict[str, Any] = {"wait_timeout": 0.5, "max_connections": 1}
    with scripted(holds_one) as app, relaying(app.address, **settings) as relay:
        relay.connect().ask(1)
        wait_until(partial(has_begun, relay, 0))
        began = time.monotonic()
        clients = [relay.connect() for _ in range(40)]
        for client in clients:
            client.ask(1)
        for client in clients:
            assert client.answer(1).status == 503
        # One after the other, they would wait 20 seconds.
        assert 0.5 <= time.monotonic() - began < 10


def test_the_body_of_a_request_that_waits_is_left_to_wait_in_front() -> None:
    with scripted(holds_one) as app, relaying(app.address, max_connections=1) as relay:
        relay.connect().ask(1)
        wait_until(partial(has_begun, relay, 0))
        client = relay.connect()
        client.start(1, method="POST", length=10**7)
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sock.sendall(records.stdin(1, bytes(10**7)))
        wait_until(partial(has_begun, relay, 1))
        # The queue is private to the relay.
        (waiting,) = relay.relay.queue._waiting
        assert isinstance(waiting, Relayed)
        assert waiting.connection.paused
        assert waiting.request.received < 200_000
        # It is noticed that he leaves, though nothing is read.
        client.close()
        wait_until(partial(has_begun, relay, 0), seconds=1)


def has_begun(relay: Relaying, waiting: int) -> bool:
    """Whether one request is in flight and so many wait."""
    return relay.upstream.in_flight == 1 and len(relay.relay.queue) == waiting


def test_who_waits_is_served_in_order_when_there_is_room() -> None:
    def one_by_one(peer: Peer) -> None:
        if len(app.peers) == 1:
            peer.say_values(ONE_AT_A_TIME)
        peer.request()
        assert free.acquire(timeout=10)
        order.append(peer.asked[1].stdin)
        peer.send(answer(1, peer.asked[1].stdin))

    order: list[bytes] = []
    free = threading.Semaphore(0)
    with scripted(one_by_one) as app, relaying(app.address, max_connections=1) as relay:
        clients = [relay.connect() for _ in range(12)]
        for number, client in enumerate(clients):
            client.ask(1, body=b"%d" % number)
            wait_until(partial(has_begun, relay, number))
        # One leaves while it waits, and is not sent at all.
        clients[5].close()
        wait_until(lambda: len(relay.relay.queue) == 10)
        for number, client in enumerate(clients):
            free.release()
            if number != 5:
                assert client.answer(1).body == b"%d" % number
        assert order == [b"%d" % number for number in range(12) if number != 5]


def test_more_than_may_wait_get_a_503_at_once() -> None:
    def holds(peer: Peer) -> None:
        if len(app.peers) == 1:
            peer.say_values(ONE_AT_A_TIME)
        peer.request()
        assert free.wait(10)
        peer.send(answer(1, b"held"))

    free = threading.Event()
    with (
        scripted(holds) as app,
        relaying(app.address, max_queued=2, max_connections=1) as relay,
    ):
        clients = [relay.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            client.ask(1)
            wait_until(partial(has_begun, relay, number))
        seen = relay.connect().get()
        assert (seen.status, seen.headers["retry-after"]) == (503, "1")
        free.set()
        for client in clients:
            assert client.answer(1).body == b"held"
