"""Test where a request goes, how long it waits, and how it fails if no server answers."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import gevent
import gevent.socket
import pytest
from support.asking import asking, finish, only, together, uri_of, wait_here
from support.fcgi.scripted import (
    HEAD,
    ONE_AT_A_TIME,
    Peer,
    Script,
    answer,
    end_request,
    scripted,
    stdout,
)
from support.server import hello, logged, respond, running

from vsgi_fcgi.client.connection import Connection
from vsgi_fcgi.exceptions import (
    UpstreamOverloaded,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from vsgi_fcgi.protocol import ProtocolStatus
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

QUICK = 0.05
NOBODY = "127.0.0.1:1"


def silent(peer: Peer) -> None:
    """Takes every request, and answers none."""
    peer.say_values()
    peer.until_closed()


def named(name: bytes) -> Script:
    """A script that multiplexes and answers with its name."""

    def script(peer: Peer) -> None:
        peer.say_values()
        while (record := peer.read()) is not None:
            if peer.has_ended(record.id):
                peer.send(answer(record.id, name))

    return script


# Too long.


def test_no_answer_is_a_timeout() -> None:
    with scripted(silent) as server, asking(server.address, response_timeout=QUICK) as client:
        late = r"sent nothing for 0\.05 s"
        with logged() as log, pytest.raises(UpstreamTimeout, match=late) as raised:
            client.request("GET", "/")
        assert raised.value.status == 504
        log.wait_for("sent nothing for")
        # It is aborted; its neighbours would go on.
        assert len(server.peers) == 1
        wait_here(lambda: server.peers[0].aborted == [1])


def test_an_answer_that_stops_in_the_middle_is_a_timeout() -> None:
    def stops(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, HEAD + b"half", end=False))
        peer.until_closed()

    with scripted(stops) as server, asking(server.address, response_timeout=QUICK) as client:
        response = client.request("GET", "/")
        with pytest.raises(UpstreamTimeout):
            response.read()


def test_a_slow_answer_that_goes_on_is_none() -> None:
    """Each piece, on whichever stream, gives it the whole time again."""
    next_piece = threading.Event()

    def slow(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        for _ in range(15):
            peer.send(stdout(1, b"X: y\r\n", end=False))
            assert not next_piece.wait(0.02)
        peer.send(answer(1, b"done"))
        peer.until_closed()

    with scripted(slow) as server, asking(server.address, response_timeout=0.2) as client:
        assert client.request("GET", "/").read() == b"done"


def test_a_slow_request_body_is_no_timeout() -> None:
    """It is the client's client that is slow."""

    def pieces() -> Iterable[bytes]:
        yield bytes(70_000)
        gevent.sleep(4 * QUICK)
        yield b"x"

    with scripted(named(b"ok")) as server, asking(server.address, response_timeout=QUICK) as client:
        assert client.request("POST", "/", body=pieces()).read() == b"ok"


def test_a_neighbour_of_one_that_times_out_goes_on() -> None:
    release = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/stuck":
            assert release.wait(20)
        return respond(start_response, b"x")

    with running(app) as server, asking(uri_of(server), response_timeout=4 * QUICK) as client:
        stuck = gevent.spawn(client.request, "GET", "/stuck")
        while not stuck.ready():
            assert client.request("GET", "/").read() == b"x"
        assert isinstance(stuck.exception, UpstreamTimeout)
        assert only(client).accepted == 1
        release.set()
        wait_here(lambda: not only(client).in_flight)


# No room.


def test_too_many_that_wait() -> None:
    settings = {"requests_per_connection": 2, "max_queued": 3}
    with scripted(silent) as server, asking(server.address, **settings) as client:
        greenlets = [gevent.spawn(client.request, "GET", "/")]
        wait_here(lambda: only(client).in_flight)
        greenlets += [gevent.spawn(client.request, "GET", "/") for _ in range(4)]
        wait_here(lambda: only(client).load == 5)
        with pytest.raises(UpstreamOverloaded, match="3 requests wait, the maximum") as raised:
            client.request("GET", "/")
        assert raised.value.status == 503
        gevent.killall(greenlets)


def test_waiting_too_long() -> None:
    settings = {"requests_per_connection": 1, "wait_timeout": QUICK}
    with scripted(silent) as server, asking(server.address, **settings) as client:
        greenlet = gevent.spawn(client.request, "GET", "/")
        wait_here(lambda: only(client).in_flight)
        with pytest.raises(UpstreamOverloaded, match=r"no room .* within 0\.05 s"):
            client.request("GET", "/")
        greenlet.kill()


def test_those_who_wait_are_served_in_their_order() -> None:
    order: list[int] = []

    def ask(number: int) -> None:
        client.request("GET", "/").read()
        order.append(number)

    with running(hello) as server, asking(uri_of(server), requests_per_connection=1) as client:
        client.request("GET", "/").read()
        together([lambda n=n: ask(n) for n in range(50)])  # type: ignore[misc]
        assert order == list(range(50))


def test_room_that_is_not_taken_by_who_was_woken_goes_to_the_next() -> None:
    """A timeout of its own may end it in the very round in which it is woken."""
    settings = {"requests_per_connection": 1}
    with scripted(named(b"x")) as server, asking(server.address, **settings) as client:
        upstream = only(client)
        client.request("GET", "/").read()
        held = client.upstreams.begin(b"", lambda: None)
        second, third = (gevent.spawn(lambda: client.request("GET", "/").read()) for _ in range(2))
        wait_here(lambda: upstream.load == 3)
        wake = upstream.request_ended

        def kill_and_wake(connection: Connection) -> None:
            second.kill(block=False)
            wake(connection)

        upstream.request_ended = kill_and_wake  # type: ignore[method-assign]
        held.end_input()
        assert finish([third], 10) == [b"x"]
        assert isinstance(second.get(), gevent.GreenletExit)
        held.close()


def test_more_requests_than_ids_is_no_setting() -> None:
    with running(hello) as server, asking(uri_of(server), requests_per_connection=65535) as client:
        assert client.request("GET", "/x").read() == b"/x"
        # No request can be begun to see it: it would take 65535 of them.
        assert only(client)._max_requests <= 65535


# Nobody there.


@pytest.mark.parametrize("address", [NOBODY, "unix:/nowhere/app.sock", "unix:@nobody-is-here"])
def test_nobody_listens(address: str) -> None:
    with asking(address) as client:
        with pytest.raises(UpstreamUnreachable, match="cannot be connected to: ") as raised:
            client.request("POST", "/")
        assert raised.value.status == 502


def test_a_connection_that_is_never_accepted() -> None:
    """A UNIX socket whose backlog is full: those who come wait, and not for ever."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("\0vsgi-fcgi-full-backlog")
        sock.listen(0)
        filling = []
        try:
            while True:
                other = socket.socket(socket.AF_UNIX)
                other.setblocking(False)
                filling.append(other)
                other.connect("\0vsgi-fcgi-full-backlog")
        except BlockingIOError:
            pass
        with (
            asking("unix:@vsgi-fcgi-full-backlog", connect_timeout=QUICK) as client,
            pytest.raises(UpstreamUnreachable, match=r"no connection within 0\.05 s"),
        ):
            client.request("GET", "/")
        for other in filling:
            other.close()


def test_an_address_of_a_name_that_drops_packets_leaves_time_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as full, running(hello, bind="127.0.0.2:0") as server:
        port = server.address[1]
        full.bind(("127.0.0.1", port))
        full.listen(0)
        # The kernel drops what comes while the backlog is full.
        filling = [socket.socket() for _ in range(3)]
        for other in filling:
            other.setblocking(False)
            other.connect_ex(("127.0.0.1", port))
        # A test cannot give a name two addresses.
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
            for host in ("127.0.0.1", "127.0.0.2")
        ]
        monkeypatch.setattr(gevent.socket, "getaddrinfo", lambda *_, **__: found)
        with asking(f"app.example:{port}", connect_timeout=0.5) as client:
            assert client.request("GET", "/x").read() == b"/x"
        for other in filling:
            other.close()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_addresses_of_tcp(name: str) -> None:
    bind = "[::1]:0" if name == "[::1]" else "127.0.0.1:0"
    with running(hello, bind=bind) as server:
        port = server.address[1]
        with asking(f"{name}:{port}") as client:
            assert client.request("GET", "/x").read() == b"/x"
            (connection,) = only(client).connections
            # The option of the socket shows in timings only.
            assert connection._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        # Names are looked up in a thread.
        gevent.get_hub().threadpool.kill()


def test_those_who_wait_for_a_connection_learn_that_there_is_none() -> None:
    with asking(NOBODY) as client:
        greenlets = [gevent.spawn(client.request, "GET", "/") for _ in range(20)]
        gevent.joinall(greenlets, timeout=20)
        assert all(isinstance(each.exception, UpstreamUnreachable) for each in greenlets)


def test_a_server_that_starts_late_is_found() -> None:
    with running(hello) as server:
        address = uri_of(server)
        with asking(address) as client:
            assert client.request("GET", "/a").read() == b"/a"
            server.server.stop(5)
            wait_here(lambda: not only(client).connections)
            with pytest.raises(UpstreamUnreachable):
                client.request("GET", "/b")
            with running(hello, bind=address):
                assert client.request("GET", "/c").read() == b"/c"
                assert only(client).multiplexes
                client.close()


# Several.


def test_a_relative_path_counts_from_where_the_client_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(hello, bind="unix:app.sock"):
        with asking("unix:app.sock") as client:
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
            assert client.request("GET", "/").status == 200
        monkeypatch.chdir(tmp_path)


def test_a_relative_path_stays_one_where_the_whole_one_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 107)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with running(hello, bind="unix:app.sock"), asking("unix:app.sock") as client:
        assert client.request("GET", "/").status == 200


def test_the_least_busy_one_is_asked() -> None:
    with (
        scripted(silent) as one,
        scripted(silent) as two,
        asking(one.address, two.address) as client,
    ):
        greenlets = [gevent.spawn(client.request, "GET", "/") for _ in range(20)]
        wait_here(lambda: sum(each.in_flight for each in client.upstreams.all) == 20)
        assert [each.in_flight for each in client.upstreams.all] == [10, 10]
        gevent.killall(greenlets)


def test_one_that_cannot_be_reached_is_left_out_and_comes_back() -> None:
    settings = {"backoff_min": 0.1, "backoff_max": 0.4}
    with running(hello) as there, running(hello) as gone:
        address = uri_of(gone)
        gone.server.stop(5)
        with asking(address, uri_of(there), **settings) as client:
            dead, _alive = client.upstreams.all
            pauses = []
            for _ in range(4):
                assert client.request("GET", "/x").read() == b"/x"
                # The chosen pause; a measured one would depend on the machine.
                pauses.append(round(dead._backoff, 3))
                # No request uses it until its pause is over.
                assert client.request("GET", "/x").read() == b"/x"
                # The same pause: it was not tried.
                assert round(dead._backoff, 3) == pauses[-1]
                gevent.sleep(max(0.0, dead.backoff_until - time.monotonic()) + 0.01)
            assert pauses == [0.1, 0.2, 0.4, 0.4]
            assert not dead.connections
            with running(hello, bind=address):
                assert client.request("GET", "/x").read() == b"/x"
                assert dead.accepted == 1
                assert not dead.backoff_until
                client.close()


def test_one_that_has_no_room_is_not_waited_for() -> None:
    def one_at_a_time(peer: Peer) -> None:
        peer.say_values(ONE_AT_A_TIME)
        peer.until_closed()

    with (
        scripted(one_at_a_time) as full,
        running(hello) as free,
        asking(full.address, uri_of(free), max_connections=1) as client,
    ):
        stuck = gevent.spawn(client.request, "POST", "/")
        wait_here(lambda: client.upstreams.all[0].in_flight)
        # The other one has more to do, and room.
        with gevent.Timeout(10):
            assert together([lambda: client.request("GET", "/x").read()] * 20) == [b"/x"] * 20
        stuck.kill()


def test_the_time_to_wait_is_over_all_of_them() -> None:
    settings = {"requests_per_connection": 1, "wait_timeout": 1}
    with (
        scripted(silent) as one,
        scripted(silent) as two,
        asking(one.address, two.address, **settings) as client,
    ):
        greenlets = [gevent.spawn(client.request, "GET", "/") for _ in range(2)]
        wait_here(lambda: all(each.in_flight for each in client.upstreams.all))
        began = time.monotonic()
        with pytest.raises(UpstreamOverloaded):
            client.request("GET", "/")
        gevent.sleep(0)
        # One second for each of them would be two.
        assert 0.9 < time.monotonic() - began < 2
        gevent.killall(greenlets)


def test_a_get_that_broke_goes_elsewhere() -> None:
    def breaks(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)

    with (
        scripted(breaks) as bad,
        scripted(named(b"good")) as good,
        asking(bad.address, good.address) as client,
    ):
        assert client.request("GET", "/").read() == b"good"
        assert len(bad.peers) == len(good.peers) == 1


def test_one_that_hangs_is_not_asked_again_while_another_one_is_idle() -> None:
    def hangs(peer: Peer) -> None:
        peer.say_values(ONE_AT_A_TIME)
        peer.until_closed()

    def serves(peer: Peer) -> None:
        peer.request()
        peer.send(answer(1, b"one"))
        peer.until_closed()

    def asked(peer: Peer) -> None:
        peer.say_values(ONE_AT_A_TIME)
        serves(peer)

    with (
        scripted(hangs, Peer.until_closed) as first,
        scripted(asked, serves) as second,
        asking(first.address, second.address, response_timeout=2 * QUICK) as client,
    ):
        with pytest.raises(UpstreamTimeout):
            client.request("GET", "/")
        for _ in range(3):
            assert client.request("GET", "/").read() == b"one"
        assert len(first.peers) == 1


def test_overloaded_and_503_go_elsewhere() -> None:
    def overloaded(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(end_request(1, protocol_status=ProtocolStatus.OVERLOADED))
        known = peer.asked[1]
        peer.read_until(lambda: peer.asked[1] is not known and peer.has_ended(1))
        peer.send(stdout(1, b"Status: 503 Busy\r\n\r\n") + end_request(1))
        peer.until_closed()

    with (
        scripted(overloaded) as busy,
        scripted(named(b"good")) as good,
        asking(busy.address, good.address) as client,
    ):
        # OVERLOADED: the application has not begun.
        assert client.request("POST", "/", body=b"x").read() == b"good"
        assert client.request("GET", "/").read() == b"good"
        assert len(busy.peers[0].asked) == 1


def test_a_503_of_the_only_one_is_an_answer() -> None:
    def busy(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, b"Status: 503 Busy\r\n\r\nlater") + end_request(1))
        peer.until_closed()

    with scripted(busy) as server, asking(server.address) as client:
        response = client.request("GET", "/")
        assert (response.status, response.read()) == (503, b"later")


def test_a_connection_that_cannot_be_made_beside_others_is_no_end_of_those_who_wait() -> None:
    """The server lives, and takes no more connections now."""

    def served(peer: Peer) -> None:
        if not server.peers.index(peer):
            peer.say_values(ONE_AT_A_TIME)
        peer.request(1)
        assert release.wait(20)
        peer.send(answer(1, b"x"))

    release = threading.Event()
    with scripted(served) as server, asking(server.address, backoff_min=0.01) as client:
        first = gevent.spawn(lambda: client.request("GET", "/").read())
        wait_here(lambda: only(client).in_flight)
        path = server.address.removeprefix("unix:")
        os.rename(path, path + "-away")
        others = [gevent.spawn(lambda: client.request("GET", "/").read()) for _ in range(3)]
        # That they wait cannot be seen from outside, where nothing happens.
        wait_here(lambda: len(only(client)._waiting) == 3)
        os.rename(path + "-away", path)
        release.set()
        assert finish([first, *others]) == [b"x"] * 4


def test_idle_connections_are_closed_in_the_end() -> None:
    with running(hello) as server, asking(uri_of(server), upstream_idle_timeout=QUICK) as client:
        assert client.request("GET", "/x").read() == b"/x"
        wait_here(lambda: not only(client).connections)
        assert client.request("GET", "/x").read() == b"/x"
        assert only(client).accepted == 2
