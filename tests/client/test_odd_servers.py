"""Test application servers that do not multiplex, stay silent, break the protocol or leave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import gevent
import pytest
from support.asking import asking, drain, finish, only, together, wait_here
from support.fcgi import records
from support.fcgi.peer import DEADLINE
from support.fcgi.scripted import HEAD, ONE_AT_A_TIME, Peer, answer, end_request, scripted, stdout
from support.server import logged

from vsgi_fcgi.exceptions import (
    UpstreamBroken,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamTimeout,
)

QUICK = 0.05
"""Seconds for what never comes."""


def answers_all(peer: Peer) -> None:
    """Multiplexes, and answers whatever id comes with the number of bytes in its body."""
    peer.say_values()
    answers(peer)


def answers(peer: Peer) -> None:
    while (record := peer.read()) is not None:
        if record.kind == records.STDIN and not record.content:
            peer.send(answer(record.id, b"%d" % len(peer.asked[record.id].stdin)))


def one_request(peer: Peer) -> None:
    """Serves one request, and closes the connection in the given way."""
    assert not peer.request(1).keep_conn
    peer.send(answer(1, b"one"))
    peer.until_closed()


# What it says of itself.


def test_a_server_that_multiplexes_gets_all_requests_on_one_connection() -> None:
    def all_at_once(peer: Peer) -> None:
        peer.say_values()
        for id in range(1, 11):
            assert peer.request(id).keep_conn
        for id in range(10, 0, -1):
            peer.send(answer(id, b"%d" % id))
        peer.until_closed()

    with scripted(all_at_once) as server, asking(server.address) as client:
        bodies = together([lambda: client.request("GET", "/").read()] * 10)
        assert sorted(bodies, key=int) == [b"%d" % id for id in range(1, 11)]
        assert len(server.peers) == 1


def test_a_server_that_does_not_multiplex_gets_a_connection_for_each_request() -> None:
    def asked(peer: Peer) -> None:
        peer.say_values(ONE_AT_A_TIME)
        one_request(peer)

    with scripted(asked, one_request) as server, asking(server.address) as client:
        assert together([lambda: client.request("GET", "/").read()] * 5) == [b"one"] * 5
        assert client.request("GET", "/").read() == b"one"
        assert only(client).multiplexes is False
        assert [len(peer.asked) for peer in server.peers] == [1] * 6
        # It is known now, and not asked each time.
        assert [peer.values is not None for peer in server.peers] == [True] + [False] * 5


def test_a_limit_of_connections_that_a_server_names_is_kept() -> None:
    open_at_once: list[int] = []

    def asked(peer: Peer) -> None:
        peer.say_values({**ONE_AT_A_TIME, "FCGI_MAX_CONNS": "2"})
        one_request(peer)

    with scripted(asked, one_request) as server, asking(server.address) as client:

        def ask() -> bytes:
            body = client.request("GET", "/").read()
            open_at_once.append(len(only(client).connections))
            return body

        assert together([ask] * 6) == [b"one"] * 6
        assert max(open_at_once) <= 2
        assert len(server.peers) == 6


def test_a_server_that_never_answers_the_question_is_not_asked_again() -> None:
    with scripted(Peer.until_closed, one_request) as server:
        with asking(server.address, values_timeout=QUICK) as client, logged() as log:
            assert together([lambda: client.request("POST", "/").read()] * 3) == [b"one"] * 3
            assert client.request("GET", "/").read() == b"one"
            log.wait_for("does not answer GET_VALUES")
        # Nothing but the question was sent where it was asked.
        assert [len(peer.asked) for peer in server.peers] == [0, 1, 1, 1, 1]


def test_a_server_that_hangs_up_at_the_question() -> None:
    def hangs_up(peer: Peer) -> None:
        peer.read_until(lambda: peer.values is not None)

    with scripted(hangs_up, one_request) as server, asking(server.address) as client:
        assert client.request("POST", "/", body=b"x").read() == b"one"
        assert client.request("POST", "/", body=b"x").read() == b"one"
        assert [len(peer.asked) for peer in server.peers] == [0, 1, 1]


def test_a_server_that_answers_the_question_and_hangs_up() -> None:
    def hangs_up(peer: Peer) -> None:
        peer.say_values()

    with scripted(hangs_up) as server, asking(server.address) as client:
        for _ in range(10):
            with pytest.raises(UpstreamError, match=r"closed|closes|failed") as raised:
                client.request("POST", "/")
            assert raised.value.status == 502
        assert len(server.peers) <= 40


def test_no_request_begins_on_a_connection_whose_question_is_open() -> None:
    """It would be lost with that connection, which is given up if no answer comes."""

    def reads_only(peer: Peer) -> None:
        peer.until_closed()
        assert not peer.asked

    with (
        scripted(reads_only, one_request) as server,
        asking(server.address, values_timeout=2 * QUICK) as client,
    ):
        first = gevent.spawn(lambda: client.request("POST", "/").read())
        wait_here(lambda: only(client).connections)
        second = gevent.spawn(lambda: client.request("POST", "/").read())
        assert finish([first, second]) == [b"one"] * 2


def test_whoever_asked_is_killed_and_the_next_one_asks() -> None:
    with (
        scripted(Peer.until_closed, answers_all) as server,
        asking(server.address, values_timeout=20) as client,
    ):
        first = gevent.spawn(lambda: client.request("GET", "/").read())
        wait_here(lambda: only(client).connections)
        second = gevent.spawn(lambda: client.request("GET", "/").read())
        wait_here(lambda: only(client).load == 2)
        first.kill()
        assert finish([second]) == [b"0"]
        assert only(client).multiplexes


def test_cant_mpx_conn_from_a_server_that_said_it_multiplexes() -> None:
    def refuses(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.request(2)
        peer.send(end_request(2, protocol_status=records.CANT_MPX_CONN))
        # The first request goes on, whatever becomes of the second one.
        assert ready.wait(DEADLINE)
        peer.send(answer(1, b"first"))
        peer.until_closed()

    ready = threading.Event()
    with scripted(refuses, one_request) as server, asking(server.address) as client:
        first = gevent.spawn(lambda: client.request("POST", "/1", body=b"x").read())
        wait_here(lambda: only(client).in_flight == 1)
        second = gevent.spawn(lambda: client.request("POST", "/2", body=b"x").read())
        assert finish([second]) == [b"one"]
        ready.set()
        assert finish([first]) == [b"first"]


def test_cant_mpx_conn_is_remembered_even_where_nothing_can_be_sent_again() -> None:
    def refuses(peer: Peer) -> None:
        peer.say_values()
        peer.read_until(lambda: 2 in peer.asked)
        peer.send(end_request(2, protocol_status=records.CANT_MPX_CONN))
        peer.request(1)
        peer.send(answer(1, b"first"))
        peer.until_closed()

    def pieces() -> Iterator[bytes]:
        for _ in range(4):
            yield bytes(60_000)

    with scripted(refuses, one_request) as server, asking(server.address) as client:
        held = client.upstreams.begin(b"", lambda: None)
        with pytest.raises(UpstreamBroken, match="CANT_MPX_CONN"):
            client.request("PUT", "/", body=pieces())
        assert client.request("POST", "/").read() == b"one"
        held.end_input()
        wait_here(lambda: held.ended)
        assert held.failure is None
        held.close()


def test_overloaded_is_tried_again_later() -> None:
    def busy(peer: Peer) -> None:
        peer.say_values()
        for _ in range(2):
            peer.request(1)
            peer.send(end_request(1, protocol_status=records.OVERLOADED))
            peer._ended_streams.clear()
        assert peer.request(1).stdin == b"payload"
        peer.send(answer(1, b"at last"))
        peer.until_closed()

    with scripted(busy) as server, asking(server.address) as client:
        assert client.request("POST", "/", body=b"payload").read() == b"at last"


def test_overloaded_for_good_is_an_error() -> None:
    def busy(peer: Peer) -> None:
        peer.say_values()
        while peer.read() is not None:
            if peer.has_ended(1):
                peer._ended_streams.clear()
                peer.send(end_request(1, protocol_status=records.OVERLOADED))

    with scripted(busy) as server, asking(server.address) as client:
        with pytest.raises(UpstreamOverloaded, match="is overloaded") as raised:
            client.request("GET", "/")
        assert raised.value.status == 503


def test_overloaded_when_the_body_cannot_be_sent_again() -> None:
    sent = []

    def pieces() -> Iterator[bytes]:
        for _ in range(4):
            sent.append(1)
            yield bytes(60_000)

    def busy(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(end_request(1, protocol_status=records.OVERLOADED))
        peer.until_closed()

    with scripted(busy) as server, asking(server.address) as client:
        with pytest.raises(UpstreamOverloaded):
            client.request("PUT", "/", body=pieces())
        assert len(sent) == 4
        assert len(server.peers) == 1


# Connections that end.


def hangs_up_at_request(peer: Peer) -> None:
    peer.say_values()
    peer.request(1)


def test_a_get_on_a_connection_that_breaks_is_sent_once_more() -> None:
    with scripted(hangs_up_at_request, answers_all) as server, asking(server.address) as client:
        assert client.request("GET", "/").read() == b"0"
        assert len(server.peers) == 2


def test_and_not_a_third_time() -> None:
    with scripted(hangs_up_at_request) as server, asking(server.address) as client:
        with pytest.raises(UpstreamBroken, match=r"app\.sock: the connection was closed") as raised:
            client.request("GET", "/")
        assert raised.value.status == 502
        assert len(server.peers) == 2


def test_a_post_is_not_sent_twice() -> None:
    with scripted(hangs_up_at_request, answers_all) as server, asking(server.address) as client:
        with pytest.raises(UpstreamBroken):
            client.request("POST", "/", body=b"pay")
        assert len(server.peers) == 1


def test_half_an_answer_is_not_asked_for_again() -> None:
    def half(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, HEAD + b"half", end=False))

    with scripted(half, answers_all) as server, asking(server.address) as client:
        response = client.request("GET", "/")
        assert response.read(4) == b"half"
        with pytest.raises(UpstreamBroken) as raised:
            response.read()
        assert raised.value.begun
        assert len(server.peers) == 1


def test_a_kept_connection_that_was_closed_meanwhile_is_noticed() -> None:
    """Even a POST is safe then: nothing is sent on it."""

    def one_answer(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(answer(1, b"first"))

    with scripted(one_answer, answers_all) as server, asking(server.address) as client:
        assert client.request("GET", "/").read() == b"first"
        # In this moment nothing runs the loop, which would notice it too.
        peer = server.peers[0]
        deadline = time.monotonic() + 20
        while peer.sock.fileno() >= 0:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert client.request("POST", "/", body=b"12345").read() == b"5"


def test_an_answer_that_came_before_the_connection_broke_under_the_body_is_taken() -> None:
    """As a server does that wants nothing of a large body."""

    def early(peer: Peer) -> None:
        peer.say_values()
        peer.read_until(lambda: peer.asked and peer.asked[1].stdin)
        peer.send(stdout(1, b"Status: 413 Too Large\r\n\r\n") + end_request(1))
        # The connection is closed together with its unread data.

    with scripted(early) as server, asking(server.address) as client:
        for _ in range(5):
            response = client.request("POST", "/", body=bytes(5_000_000))
            assert response.status == 413
            assert response.read() == b""
            wait_here(lambda: not only(client).connections)


def test_an_early_end_of_a_request_leaves_the_connection_to_others() -> None:
    def early(peer: Peer) -> None:
        peer.say_values()
        peer.read_until(lambda: peer.asked and peer.asked[1].stdin)
        peer.send(stdout(1, b"Status: 413 Too Large\r\n\r\n") + end_request(1))
        known = peer.asked[1]
        # Data for the id still belongs to the old request, until a new one begins.
        peer.read_until(lambda: peer.asked[1] is not known and peer.has_ended(1))
        peer.send(answer(1, b"next"))
        peer.until_closed()

    with scripted(early) as server, asking(server.address) as client:
        assert client.request("POST", "/", body=bytes(5_000_000)).status == 413
        assert client.request("GET", "/").read() == b"next"
        assert len(server.peers) == 1


def test_a_connection_that_takes_nothing_more_is_given_up() -> None:
    def deaf(peer: Peer) -> None:
        peer.say_values()
        peer.read_until(lambda: peer.asked)
        assert stopping.wait(DEADLINE)

    stopping = threading.Event()
    with scripted(deaf) as server, asking(server.address, response_timeout=2 * QUICK) as client:
        with pytest.raises(UpstreamTimeout, match="nothing could be sent") as raised:
            client.request("POST", "/", body=bytes(5_000_000))
        assert raised.value.status == 504
        assert not only(client).connections
        stopping.set()


# Those that break the protocol.


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (stdout(7, b"x"), "STDOUT record (id 7, 1 bytes): no request with this id"),
        (end_request(7), "END_REQUEST record (id 7, 8 bytes): no request with this id"),
        (b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8", "record of version 255"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "must speak FastCGI"),
        (records.begin(1), "BEGIN_REQUEST record (id 1, 8 bytes)"),
        (records.record(records.UNKNOWN_TYPE, 0, b"x"), "UNKNOWN_TYPE record (id 0, 1 bytes)"),
        (stdout(1) + stdout(1, b"x"), "STDOUT record (id 1, 1 bytes): the stream has ended"),
    ],
)
def test_a_broken_protocol_costs_the_connection_and_a_line(sent: bytes, message: str) -> None:
    def breaks(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.request(2)
        peer.send(sent)
        peer.until_closed()

    with scripted(breaks, answers_all) as server, asking(server.address) as client, logged() as log:
        got = gevent.spawn(lambda: client.request("GET", "/").read())
        with pytest.raises(UpstreamBroken) as raised:
            client.request("POST", "/")
        assert message in str(raised.value)
        assert finish([got]) == [b"0"]
        assert len([line for line in log.lines if message in line]) == 1
        assert client.request("GET", "/").read() == b"0"


def test_an_answer_that_is_whole_before_the_protocol_breaks_is_taken() -> None:
    """However the two were cut: here they come in one piece."""

    def twice(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(answer(1, b"whole") + end_request(1))
        peer.until_closed()

    with scripted(twice) as server, asking(server.address) as client, logged() as log:
        assert client.request("POST", "/").read() == b"whole"
        wait_here(lambda: log.has("END_REQUEST record (id 1, 8 bytes)"))
        assert client.request("POST", "/").read() == b"whole"


def test_a_web_server_at_that_address() -> None:
    def http(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with scripted(http) as server, asking(server.address) as client, logged() as log:
        with pytest.raises(UpstreamBroken, match="must speak FastCGI"):
            client.request("GET", "/")
        log.wait_for("HTTP response")


def test_a_protocol_status_that_nobody_knows() -> None:
    def odd(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(end_request(1, protocol_status=9))
        peer.until_closed()

    with (
        scripted(odd) as server,
        asking(server.address) as client,
        pytest.raises(UpstreamBroken, match="protocol status 9"),
    ):
        client.request("GET", "/")


# Abort.


def test_an_abandoned_request_keeps_its_id_until_it_has_ended() -> None:
    def late(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, HEAD + b"some", end=False))
        peer.wait_for_abort(1)
        # Late output, which the client must discard.
        peer.send(stdout(1, b"late", end=False))
        peer.request(2)
        peer.send(answer(2, b"second") + answer(1, b"later")[:-16] + end_request(1))
        known = peer.asked[1]
        peer.read_until(lambda: peer.asked[1] is not known and peer.has_ended(1))
        peer.send(answer(1, b"third"))
        peer.until_closed()

    with scripted(late) as server, asking(server.address) as client:
        with client.request("GET", "/") as response:
            assert response.read(4) == b"some"
        assert client.request("GET", "/").read() == b"second"
        wait_here(lambda: not only(client).in_flight)
        assert client.request("GET", "/").read() == b"third"


def test_an_abort_that_is_never_heard_costs_the_connection_in_the_end() -> None:
    def deaf(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, HEAD, end=False))
        peer.until_closed()

    with (
        scripted(deaf, answers_all) as server,
        asking(server.address, response_timeout=QUICK) as client,
    ):
        client.request("GET", "/").close()
        wait_here(lambda: not only(client).connections)
        assert client.request("GET", "/").read() == b"0"
        assert server.peers[0].aborted == [1]


def test_to_abandon_a_request_ends_the_connection_of_a_server_that_does_not_multiplex() -> None:
    def endless(peer: Peer) -> None:
        peer.request(1)
        peer.send(stdout(1, HEAD + b"x", end=False))
        peer.until_closed()

    def asked(peer: Peer) -> None:
        peer.say_values(ONE_AT_A_TIME)
        endless(peer)

    with scripted(asked, endless) as server, asking(server.address) as client:
        for _ in range(2):
            with client.request("GET", "/") as response:
                assert response.read(1) == b"x"
            assert not only(client).connections


def test_to_end_a_greenlet_that_waits_aborts_its_request() -> None:
    def silent(peer: Peer) -> None:
        peer.say_values()
        for count in (1, 2):
            peer.read_until(lambda: len(peer.aborted) == count)  # noqa: B023
            peer.send(end_request(1))
        answers(peer)

    with scripted(silent) as server, asking(server.address) as client:
        greenlet = gevent.spawn(client.request, "GET", "/")
        wait_here(lambda: only(client).in_flight == 1)
        greenlet.kill()
        wait_here(lambda: not only(client).in_flight)
        with pytest.raises(gevent.Timeout), gevent.Timeout(QUICK):
            # A caller's own way to limit the whole.
            client.request("POST", "/")
        wait_here(lambda: not only(client).in_flight)
        assert client.request("GET", "/").read() == b"0"
        assert len(server.peers) == 1


def test_a_bug_in_the_callback_of_one_request_is_logged_and_harms_no_other() -> None:
    def fails() -> None:
        raise ValueError("my bug")

    with scripted(answers_all) as server, asking(server.address) as client, logged() as log:
        exchange = client.upstreams.begin(b"", fails)
        exchange.end_input()
        assert drain(client.request("GET", "/")) == 1
        wait_here(lambda: exchange.ended)
        log.wait_for("my bug")
        exchange.close()
