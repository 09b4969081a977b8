"""Test that the relay forwards everything unchanged over one connection."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support.asking import drain, together, uri_of
from support.fcgi import records
from support.fcgi.peer import Client, request_params
from support.fcgi.records import AUTHORIZER, DATA, FILTER, PARAMS, RESPONDER, STDIN, UNKNOWN_ROLE
from support.fcgi.scripted import HEAD, Peer, answer, end_request, scripted, stdout
from support.relay import relaying
from support.server import hello, logged, respond, running, wait_until

from vsgi_fcgi.client import FastCGIClient
from vsgi_fcgi.recording.file import read_recording
from vsgi_fcgi.recording.replay import replay
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

ODD = records.pairs(
    [
        ("REQUEST_METHOD", "GET"),
        ("NOBODY_KNOWS_IT", "1"),
        ("TWICE", "first"),
        ("TWICE", "second"),
        ("EMPTY", ""),
        ("", "no name"),
        ("BINARY", bytes(range(256)).decode("latin-1")),
        ("LONG_" * 100, "x" * 5000),
    ]
)


def digests(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer the digest of the body; at ``/N``, N further bytes that have one too."""
    body = environ["wsgi.input"].read()
    size = int(environ["PATH_INFO"].strip("/") or "0")
    return respond(start_response, hashlib.sha256(body).digest() + noise(size))


def noise(size: int) -> bytes:
    return hashlib.shake_128(str(size).encode()).digest(size)


# Params, roles, streams, status.


@pytest.mark.parametrize(
    "block", [ODD, b"", b"\x80", noise(100_000)], ids=["odd", "empty", "broken", "noise"]
)
@pytest.mark.parametrize("size", [65535, 700])
def test_params_pass_byte_for_byte(block: bytes, size: int) -> None:
    blocks = []

    def script(peer: Peer) -> None:
        peer.say_values()
        blocks.append(peer.request().block)
        peer.send(answer(1, b"seen"))
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.send(records.begin(7) + records.params(7, block, size=size) + records.stdin(7))
        assert client.answer(7).body == b"seen"
    assert blocks == [block]


def test_an_authorizer_and_a_filter_get_their_streams() -> None:
    asked = []

    def script(peer: Peer) -> None:
        peer.say_values()
        asked.append(peer.request(1, PARAMS))
        peer.send(answer(1, b"yes"))
        asked.append(peer.request(1, DATA))
        peer.send(answer(1, b"filtered"))
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.send(records.begin(1, AUTHORIZER) + records.params(1, ODD))
        assert client.answer(1).body == b"yes"
        client.send(records.begin(2, FILTER) + records.params(2, ODD) + records.stdin(2, b"in"))
        client.send(records.data(2, b"the file"))
        assert client.answer(2).body == b"filtered"
    assert [(item.role, item.block) for item in asked] == [(AUTHORIZER, ODD), (FILTER, ODD)]
    assert asked[1].streams == {STDIN: b"in", DATA: b"the file"}


def test_a_recording_has_the_limits_that_apply(tmp_path: Path) -> None:
    """The relay does not count params, so a replay of its recording must not either."""
    block = records.pairs({f"P{number}": "" for number in range(1500)})

    def script(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        peer.send(answer(1, b"seen"))
        peer.until_closed()

    with scripted(script) as app, relaying(app.address, record=str(tmp_path)) as relay:
        client = relay.connect()
        client.send(records.begin(7) + records.params(7, block) + records.stdin(7))
        assert client.answer(7).body == b"seen"
        client.send(b"GET / HTTP/1.1\r\n")
        client.read_to_end()
    (path,) = tmp_path.iterdir()
    lines = list(replay(*read_recording(str(path))))
    assert any("RequestStarted" in line and "1500 params" in line for line in lines), lines


EARLY = b"Status: 103 Early Hints\r\nLink: </a.css>\r\n\r\n"


@pytest.mark.parametrize("size", [3, 100_000])
@pytest.mark.parametrize("cut", [len(EARLY), len(EARLY) - 2, 12, 1])
def test_interim_answers_are_dropped_wherever_they_are_cut(size: int, cut: int) -> None:
    """A web server would take the first header block for the answer."""
    final = b"X-Powered-By: PHP\r\nstatus: 201 Made\r\n\r\n" + b"x" * size

    def hints(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.request(2)
        peer.send(stdout(1, EARLY[:cut], end=False) + answer(2, b"neighbour"))
        assert taken.wait(10)
        peer.send(stdout(1, EARLY[cut:] + b"Status: 102\n\n" + final) + end_request(1))
        peer.until_closed()

    taken = threading.Event()

    with scripted(hints) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.ask(1)
        client.ask(2)
        assert client.answer(2).body == b"neighbour"
        taken.set()
        assert client.answer(1).stdout == final


@pytest.mark.parametrize(
    ("answered", "why"),
    [
        (b"Status: 100 Continue\r\n\r\n", "ended before the end of the headers"),
        (b"A: b\nSTATUS : 102\n", "ended before the end of the headers"),
        (EARLY + b"x" * 20_000, "ended before the end of the headers"),
        (b"Status: 101 Upgraded\r\nUpgrade: x\r\n\r\n", "switches protocols"),
        (EARLY * 100, "over 1024 bytes"),
        (b"A: b\r\n" * 1000, "over 1024 bytes"),
    ],
)
@pytest.mark.parametrize("role", [RESPONDER, AUTHORIZER])
def test_an_answer_without_a_final_status_is_a_502(answered: bytes, why: str, role: int) -> None:
    """lighttpd lets a request in that an authorizer answers 100."""

    def script(peer: Peer) -> None:
        peer.say_values()
        peer.request(1, PARAMS if role == AUTHORIZER else STDIN)
        peer.send(stdout(1, answered) + end_request(1))
        peer.until_closed()

    limit = 1024 if why.startswith("over") else 65536
    with (
        logged() as log,
        scripted(script) as app,
        relaying(app.address, max_response_head_bytes=limit) as relay,
    ):
        client = relay.connect()
        client.send(records.begin(1, role) + records.params(1, ODD))
        if role == RESPONDER:
            client.stdin(1)
        assert client.answer(1).status == 502
        log.wait_for(why)


def test_headers_that_come_slowly_pass_and_so_does_what_is_no_header() -> None:
    def script(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        for byte in HEAD:
            peer.send(stdout(1, bytes([byte]), end=False))
        peer.send(stdout(1, b"body") + end_request(1))
        peer.asked.clear()
        peer.request()
        peer.send(stdout(1, b"no header") + end_request(1))
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay:
        client = relay.connect()
        assert client.get().stdout == HEAD + b"body"
        assert client.get().stdout == b"no header"


def test_what_the_application_says_of_a_role_is_passed_on() -> None:
    def script(peer: Peer) -> None:
        peer.say_values()
        peer.request(1, PARAMS)
        peer.send(end_request(1, protocol_status=UNKNOWN_ROLE))
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.send(records.begin(1, AUTHORIZER) + records.params(1, ODD))
        answered = client.answer(1)
        assert answered.protocol_status == UNKNOWN_ROLE
        # lighttpd would take it for an authorizer's 200 if it were empty.
        assert answered.status == 500
        # A role that the specification does not know goes no further than the relay.
        client.send(records.begin(1, 9) + records.params(1, ODD))
        assert client.answer(1).protocol_status == UNKNOWN_ROLE
        assert len(app.peers[0].asked) == 1


@pytest.mark.parametrize("length", [20, 20_000])
@pytest.mark.parametrize("size", [0, 8000, 100_000])
def test_stderr_that_comes_first_goes_first(size: int, length: int) -> None:
    """nginx searches it for the text of its fastcgi_catch_stderr."""

    def script(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        complaint = records.record(records.STDERR, 1, b"e" * length)
        peer.send(complaint + stdout(1, HEAD + noise(size)))
        late = records.stream(records.STDERR, 1, b"late")
        peer.send(late + end_request(1))
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay:
        seen = relay.connect().get()
        assert (seen.body, bytes(seen.stderr)) == (noise(size), b"e" * length + b"late")
        assert seen.order[:2] == ["err", "out"]


@pytest.mark.parametrize(
    ("size", "order"), [(0, ["err", "out"]), (8000, ["err", "out"]), (100_000, ["out", "err"])]
)
def test_stderr_and_the_application_status_are_passed_on(size: int, order: list[str]) -> None:
    def script(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        complaint = records.stream(records.STDERR, 1, b"a complaint")
        end = end_request(1, app_status=2**31 + 3)
        peer.send(stdout(1, HEAD + noise(size)) + complaint + end)
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay:
        seen = relay.connect().get()
        assert (seen.app_status, seen.protocol_status) == (2**31 + 3, 0)
        assert (seen.body, bytes(seen.stderr)) == (noise(size), b"a complaint")
        assert seen.order == order


@pytest.mark.parametrize(("version", "spared"), [("2.6.12-1+deb12u2", True), ("3.0.1", False)])
def test_a_haproxy_that_dies_of_stderr_gets_none(version: str, spared: bool) -> None:
    def script(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        complaint = records.stream(records.STDERR, 1, b"a complaint\x1b[31m\n")
        peer.send(stdout(1, HEAD + b"body") + complaint + end_request(1))
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay, logged() as log:
        client = relay.connect()
        client.ask(1, "/x", more={"SERVER_SOFTWARE": f"HAProxy {version}"})
        seen = client.answer(1)
        assert seen.body == b"body"
        assert bytes(seen.stderr) == (b"" if spared else b"a complaint\x1b[31m\n")
        if spared:
            log.wait_for(r"GET /x: a complaint\x1b[31m")
        else:
            assert not log.has("a complaint")


def test_stderr_alone_is_an_answer_too() -> None:
    def script(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        peer.send(records.stream(records.STDERR, 1, b"e" * 20_000) + end_request(1, app_status=1))
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay:
        seen = relay.connect().get()
        assert (seen.app_status, bytes(seen.stdout)) == (1, b"")
        assert bytes(seen.stderr) == b"e" * 20_000


def test_management_records_are_answered_by_the_relay() -> None:
    with relaying("unix:/nowhere") as relay:
        client = relay.connect()
        client.send(records.get_values("FCGI_MPXS_CONNS", "FCGI_MAX_REQS", "OTHER"))
        client.collect_until(lambda: bool(client.management))
        wanted = {"FCGI_MPXS_CONNS": "1", "FCGI_MAX_REQS": "1024"}
        assert client.management[0].content == records.pairs(wanted)


def test_a_connection_without_keep_conn_is_closed_after_its_answer() -> None:
    with running(hello) as server, relaying(uri_of(server)) as relay:
        for path in ("/one", "/two"):
            client = relay.connect()
            client.ask(1, path, keep_conn=False)
            client.read_to_end()
            assert client.answers[1].body == path.encode()
        assert relay.upstream.accepted == 1
        wait_until(lambda: not relay.relay.connections)


# Bodies.


@pytest.mark.parametrize("shared", [False, True], ids=["connection-each", "one-connection"])
def test_large_bodies_pass_both_ways_side_by_side(shared: bool) -> None:
    sizes = [0, 1, 70_000, 300_000, 1_000_000, 3_000_000, 9_000_000]
    with running(digests) as server, relaying(uri_of(server)) as relay:
        together_in_front = relay.connect()
        failures: list[object] = []

        def one(number: int, size: int) -> None:
            body = noise(sizes[-number])
            with Client(relay.address) as client:
                seen = client.get(f"/{size}", body)
                if seen.body != hashlib.sha256(body).digest() + noise(size):
                    failures.append(size)

        if shared:
            for number, size in enumerate(sizes, 1):
                body = noise(sizes[-number])
                together_in_front.ask(number, f"/{size}", body)
            for number, size in enumerate(sizes, 1):
                body = noise(sizes[-number])
                seen = together_in_front.answer(number)
                assert seen.body == hashlib.sha256(body).digest() + noise(size)
        else:
            threads = [threading.Thread(target=one, args=item) for item in enumerate(sizes, 1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not failures
        assert relay.upstream.accepted == 1


def test_a_body_passes_as_it_comes() -> None:
    """The application sees the first bytes of an upload before the last have left the client."""
    seen = threading.Event()

    def script(peer: Peer) -> None:
        peer.say_values()
        peer.read_until(lambda: peer.asked and peer.asked[1].stdin == b"first")
        seen.set()
        peer.send(stdout(1, HEAD + b"half", end=False))
        assert peer.request().stdin == b"firstlast"
        peer.send(stdout(1, b"whole") + end_request(1))
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.start(1)
        client.stdin(1, b"first", end=False)
        assert seen.wait(10)
        client.collect_until(lambda: 1 in client.answers)
        assert client.answers[1].body == b"half"
        client.stdin(1, b"last")
        assert client.answer(1).body == b"halfwhole"


# Many at once.


def test_two_hundred_slow_requests_share_one_connection() -> None:
    all_there = threading.Barrier(200)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        all_there.wait(20)
        return hello(environ, start_response)

    with running(app, threads=200) as server, relaying(uri_of(server)) as relay:
        clients = [relay.connect() for _ in range(200)]
        for number, client in enumerate(clients):
            client.ask(1, f"/{number}", keep_conn=False)
        for number, client in enumerate(clients):
            assert client.answer(1).body == f"/{number}".encode()
        assert relay.upstream.accepted == 1
        assert len(server.context.connections) == 1


def test_connections_are_used_evenly_where_there_are_several() -> None:
    all_there = threading.Barrier(9)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        all_there.wait(20)
        return hello(environ, start_response)

    with running(app, threads=9) as server, relaying(uri_of(server), connections=3) as relay:
        clients = [relay.connect() for _ in range(8)]
        for client in clients:
            client.ask(1)
        wait_until(lambda: relay.upstream.in_flight == 8)
        busy = sorted(connection.in_flight for connection in relay.upstream.connections)
        last = relay.connect()
        last.ask(1)
        for client in [*clients, last]:
            assert client.answer(1).status == 200
        assert busy == [2, 3, 3]
        assert relay.upstream.accepted == 3


def test_several_application_servers_are_used_evenly() -> None:
    over = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        assert over.wait(20)
        return hello(environ, start_response)

    with running(app) as one, running(app) as two, relaying(uri_of(one), uri_of(two)) as relay:
        clients = [relay.connect() for _ in range(6)]
        upstreams = relay.relay.upstreams.all

        def are_in_flight(count: int) -> bool:
            return sum(each.in_flight for each in upstreams) == count

        try:
            for count, client in enumerate(clients, 1):
                client.ask(1)
                wait_until(partial(are_in_flight, count))
            busy = [each.in_flight for each in upstreams]
        finally:
            over.set()
        for client in clients:
            assert client.answer(1).status == 200
        assert busy == [3, 3]


def test_a_multiplexing_web_server_is_served_too() -> None:
    """Responses are sent when they are ready, and a large one does not delay small ones."""
    with (
        running(digests) as server,
        relaying(uri_of(server)) as relay,
        FastCGIClient(relay.uri) as client,
    ):
        with client.request("GET", "/20000000") as large:
            for _ in range(20):
                assert len(client.request("GET", "/10").read()) == 42
            assert drain(large) == 20_000_032
        sizes = [n * 1000 for n in range(50)]

        def ask(size: int) -> bytes:
            return client.request("GET", f"/{size}").read()[32:]

        bodies = together([partial(ask, size) for size in sizes])
        assert bodies == [noise(size) for size in sizes]
        assert client.upstreams.all[0].accepted == relay.upstream.accepted == 1


def test_an_application_that_does_not_multiplex_gets_one_request_on_each_connection() -> None:
    def script(peer: Peer) -> None:
        if len(app.peers) == 1:
            peer.say_values({"FCGI_MPXS_CONNS": "0"})
        peer.request()
        all_there.wait(20)
        peer.send(answer(1, b"alone"))
        peer.until_closed()

    all_there = threading.Barrier(5)
    with scripted(script) as app, relaying(app.address) as relay:
        clients = [relay.connect() for _ in range(5)]
        for client in clients:
            client.ask(1)
        for client in clients:
            assert client.answer(1).body == b"alone"
        assert len(app.peers) == 5


# Who leaves.


class Leaving:
    """An app of which each request is gone from when its file is closed."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.closed_at = 0.0
        self.closed = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/endless":
            return respond(start_response, self._endless())
        return digests(environ, start_response)

    def _endless(self) -> Iterator[bytes]:
        try:
            while True:
                self.begun.set()
                yield b"x"
                time.sleep(0.001)
        finally:
            self.closed_at = time.monotonic()
            self.closed.set()


@pytest.mark.parametrize("how", ["abort", "abort with an invalid record in one read", "close"])
def test_who_leaves_in_front_is_given_up_behind_within_a_second(how: str) -> None:
    app = Leaving()
    with running(app) as server, relaying(uri_of(server)) as relay:
        neighbour = relay.connect()
        neighbour.start(1, "/3000000", length=2_000_000, method="POST")
        neighbour.stdin(1, noise(2_000_000)[:1_000_000], end=False)
        client = relay.connect()
        client.ask(1, "/endless")
        assert app.begun.wait(10)
        left = time.monotonic()
        if how == "abort":
            client.abort(1)
            assert client.answer(1).protocol_status == 0
        elif how == "close":
            client.close()
        else:
            client.send(records.abort(1) + records.record(records.END_REQUEST, 1, bytes(8)))
        assert app.closed.wait(10)
        assert app.closed_at - left < 1
        # Whoever shares the connection behind has noticed nothing.
        neighbour.stdin(1, noise(2_000_000)[1_000_000:])
        body = neighbour.answer(1).body
        assert body == hashlib.sha256(noise(2_000_000)).digest() + noise(3_000_000)
        assert relay.upstream.accepted == 1
        wait_until(lambda: not relay.upstream.in_flight)


def test_who_leaves_and_was_alone_leaves_the_connection_to_those_who_come() -> None:
    app = Leaving()
    with running(app) as server, relaying(uri_of(server)) as relay:
        for _ in range(3):
            client = relay.connect()
            client.ask(1, "/endless")
            assert app.begun.wait(10)
            client.close()
            assert app.closed.wait(1)
            app.begun.clear()
            app.closed.clear()
            seen = relay.connect().get("/500000", noise(400_000))
            assert seen.body == hashlib.sha256(noise(400_000)).digest() + noise(500_000)
        assert relay.upstream.accepted == 1


def test_who_leaves_while_nothing_is_read_of_him_is_noticed_too() -> None:
    """His body waits in front, as the application reads nothing."""
    full, left = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.say_values()
        peer.read_until(lambda: peer.asked)
        assert left.wait(10)
        peer.wait_for_abort(1)
        peer.send(end_request(1))
        full.set()
        peer.until_closed()

    with scripted(script) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.start(1, method="POST", length=10**9)
        client.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.sock.sendall(records.stdin(1, bytes(10**7), end=False))
        (connection,) = relay.relay.connections
        assert connection.paused
        client.close()
        wait_until(lambda: not relay.relay.connections, seconds=1)
        left.set()
        assert full.wait(10)
        wait_until(lambda: not relay.upstream.in_flight)


def test_who_leaves_an_application_that_does_not_multiplex_ends_its_connection() -> None:
    def script(peer: Peer) -> None:
        if len(app.peers) == 1:
            peer.say_values({"FCGI_MPXS_CONNS": "0"})
        peer.request()
        begun.set()
        peer.until_closed()
        ended.set()

    begun, ended = threading.Event(), threading.Event()
    with scripted(script) as app, relaying(app.address) as relay:
        client = relay.connect()
        client.ask(1, keep_conn=False)
        assert begun.wait(10)
        client.close()
        assert ended.wait(1)


def test_garbage_in_front_costs_only_its_connection() -> None:
    app = Leaving()
    with running(app) as server, relaying(uri_of(server)) as relay:
        good, bad = relay.connect(), relay.connect()
        good.start(1, "/1000", length=5, method="POST")
        bad.ask(1, "/endless")
        assert app.begun.wait(10)
        bad.send(b"GET / HTTP/1.1\r\n\r\n")
        bad.read_to_end()
        assert app.closed.wait(1)
        good.stdin(1, b"hello")
        assert good.answer(1).body == hashlib.sha256(b"hello").digest() + noise(1000)
        assert relay.upstream.accepted == 1


def test_params_reach_an_app_as_they_were_sent() -> None:
    seen: list[Environ] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ)
        return hello(environ, start_response)

    with running(app) as server, relaying(uri_of(server)) as relay:
        more = {"HTTP_X_ODD": "\xe4\x00\xff", "REMOTE_USER": "ada"}
        client = relay.connect()
        client.ask(1, "/p?q", more=more)
        assert client.answer(1).status == 200
    wanted = request_params("/p?q", more=more)
    assert {name: seen[0][name] for name in wanted} == wanted
