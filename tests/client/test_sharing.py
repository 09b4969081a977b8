"""Test many requests on one connection: fair bodies, and slow readers that delay no others."""

from __future__ import annotations

import gc
import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise

import gevent
import pytest
from support.asking import (
    asking,
    drain,
    exchange_of,
    finish,
    only,
    spooled,
    together,
    uri_of,
    wait_here,
)
from support.fcgi.scripted import HEAD, Peer, answer, end_request, scripted, stdout
from support.server import echo, logged, respond, running

from vsgi_fcgi.client import exchange as client_exchange
from vsgi_fcgi.exceptions import ReaderStalled, UpstreamBroken
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

KIB = 1024
MIB = 1024 * KIB


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """``/size`` answers so many KiB, a body is counted."""
    path = environ["PATH_INFO"]
    if path == "/upload":
        size = 0
        while data := environ["wsgi.input"].read(MIB):
            size += len(data)
        return respond(start_response, b"%d" % size)
    return respond(start_response, (bytes(64 * KIB) for _ in range(int(path[1:]) // 64)))


def test_many_requests_share_one_connection() -> None:
    def ask(number: int) -> bool:
        body = hashlib.sha256(b"%d" % number).digest() * (number * 40)
        return client.request("POST", "/", body=body).read() == body

    with running(echo) as server, asking(uri_of(server)) as client:
        assert all(together([lambda n=n: ask(n) for n in range(200)]))  # type: ignore[misc]
        assert only(client).accepted == 1


def test_several_connections_are_used_evenly() -> None:
    release = threading.Event()

    def waits(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        assert release.wait(20)
        return respond(start_response, b"x")

    with running(waits) as server, asking(uri_of(server), connections=4) as client:
        greenlets = [gevent.spawn(lambda: client.request("GET", "/").read()) for _ in range(40)]
        wait_here(lambda: only(client).in_flight == 40)
        assert [each.in_flight for each in only(client).connections] == [10] * 4
        release.set()
        assert finish(greenlets) == [b"x"] * 40
        assert only(client).accepted == 4


def test_a_large_upload_does_not_stop_what_is_beside_it() -> None:
    """It is one piece of 100 MB, of which all could be sent at once."""
    size = 100_000_000
    with running(app) as server, asking(uri_of(server)) as client:
        upload = gevent.spawn(lambda: client.request("POST", "/upload", body=bytes(size)).read())
        wait_here(lambda: only(client).in_flight)
        left = []
        for _ in range(20):
            assert drain(client.request("GET", "/64")) == 64 * KIB
            (exchange,) = (
                client_exchange.exchange_of(each)
                for each in only(client).connections[0].protocol.requests.values()
            )
            left.append(exchange.input_size)
        assert left[-1] > size / 2, left
        assert finish([upload]) == [b"%d" % size]
        assert only(client).accepted == 1


def test_a_large_upload_leaves_the_loop_to_others() -> None:
    """TCP takes megabytes at once."""
    with running(app, bind="127.0.0.1:0") as server, asking(uri_of(server)) as client:
        body = bytes(50 * MIB)
        upload = gevent.spawn(lambda: client.request("POST", "/upload", body=body).read())
        wait_here(lambda: only(client).in_flight)
        (request,) = only(client).connections[0].protocol.requests.values()
        exchange, sizes = client_exchange.exchange_of(request), []
        each_round = gevent.get_hub().loop.prepare()
        each_round.start(lambda: sizes.append(exchange.input_size))
        finish([upload])
        each_round.stop()
        each_round.close()
        assert max(before - after for before, after in pairwise(sizes)) < MIB
        assert upload.get() == b"%d" % len(body)


def test_uploads_advance_together() -> None:
    half = threading.Event()
    seen: dict[int, int] = {}

    def counts(peer: Peer) -> None:
        peer.say_values()
        while not peer.has_ended(1):
            assert peer.read()
            for id, asked in peer.asked.items():
                seen[id] = len(asked.stdin)
            if not half.is_set() and max(seen.values(), default=0) > MIB:
                half.set()
                break
        lines = dict(seen)
        assert len(lines) == 4
        assert min(lines.values()) > 3 * MIB // 4, lines
        # Enough is known.

    def send() -> None:
        with pytest.raises(UpstreamBroken):
            client.request("POST", "/", body=bytes(4 * MIB))

    with scripted(counts) as server, asking(server.address) as client:
        together([send] * 4)


# Those who do not read.


def test_a_reader_that_is_alone_pauses_its_connection() -> None:
    size = 50 * MIB
    settings = {"response_memory_bytes": 256 * KIB, "response_spool_bytes": 0}
    with running(app) as server, asking(uri_of(server), **settings) as client:
        response = client.request("GET", f"/{size // KIB}")
        connection = only(client).connections[0]
        wait_here(lambda: connection.paused)
        exchange = exchange_of(response)
        most = 0
        for piece in response:
            size -= len(piece)
            most = max(most, exchange.held)
        assert not size
        assert most < 400 * KIB
        assert not connection.paused


def test_a_reader_that_is_not_alone_gets_a_file() -> None:
    size = 20 * MIB
    with running(app) as server, asking(uri_of(server)) as client:
        slow = client.request("GET", f"/{size // KIB}")
        connection = only(client).connections[0]
        wait_here(lambda: connection.paused)
        # A neighbour: now the connection is read whatever the slow one does.
        assert drain(client.request("GET", "/10240")) == 10 * MIB
        exchange = exchange_of(slow)
        assert exchange.spooled
        assert exchange.held <= 400 * KIB
        # And alone again it pauses again, whatever lies in the file already.
        wait_here(lambda: connection.paused)
        assert drain(slow) == size
        slow.close()
        assert not spooled(only(client))


def test_every_byte_goes_through_the_file_and_round_its_ring() -> None:
    """A response larger than the file goes through it, with other requests on the connection."""
    rounds, part = 24, 512 * KIB

    def parts(number: int) -> bytes:
        return number.to_bytes(4, "big") * (part // 4)

    def one_part_each_time(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, HEAD, end=False))
        for number in range(rounds):
            peer.asked.pop(2, None)
            peer.read_until(lambda: 2 in peer.asked and peer.has_ended(2))
            peer.send(stdout(1, parts(number), end=False) + answer(2, b"small"))
        peer.send(end_request(1))
        peer.until_closed()

    settings = {"response_memory_bytes": 64 * KIB, "response_spool_bytes": 3 * MIB}
    with scripted(one_part_each_time) as server, asking(server.address, **settings) as client:
        slow = client.request("GET", "/")
        exchange = exchange_of(slow)
        digest = hashlib.sha256()
        for number in range(rounds):
            assert client.request("GET", "/small").read() == b"small"
            if number >= 3:
                digest.update(slow.read(part))
                assert exchange.held <= 64 * KIB
                assert MIB < exchange.spooled < 2 * MIB
        digest.update(slow.read())
        wanted = b"".join(map(parts, range(rounds)))
        assert digest.digest() == hashlib.sha256(wanted).digest()
        # It was read to its end, and needs no `close` to give back what it took.
        assert not spooled(only(client))


def test_a_forgotten_answer_gives_its_file_and_its_memory_back() -> None:
    with running(app) as server, asking(uri_of(server)) as client:
        forgotten = [client.request("GET", "/4096") for _ in range(3)]
        wait_here(lambda: only(client).in_flight <= 1)
        for response in forgotten:
            if not exchange_of(response).ended:
                response.close()
        assert spooled(only(client))
        assert client.upstreams.memory.used
        del response
        forgotten.clear()
        gc.collect()
        assert not spooled(only(client))
        assert not client.upstreams.memory.used


def test_a_reader_whose_file_is_full_loses_its_answer_and_nobody_else_does() -> None:
    with running(app) as server:
        settings = {"response_spool_bytes": 2 * MIB}
        with asking(uri_of(server), **settings) as client, logged() as log:
            slow = client.request("GET", "/102400")
            exchange = exchange_of(slow)
            while not exchange.ended:
                assert drain(client.request("GET", "/1024")) == MIB
            assert exchange.spooled <= 2 * MIB
            with pytest.raises(ReaderStalled, match="read too slowly") as raised:
                drain(slow)
            assert raised.value.status == 502
            log.wait_for("response_spool_bytes or total_response_spool_bytes is reached")
            slow.close()
            wait_here(lambda: not only(client).in_flight)
            assert only(client).accepted == 1


def test_the_files_of_all_answers_have_a_limit_too() -> None:
    with running(app) as server:
        settings = {"total_response_spool_bytes": 3 * MIB}
        with asking(uri_of(server), **settings) as client:
            slow = [client.request("GET", "/102400") for _ in range(3)]
            exchanges = [exchange_of(response) for response in slow]
            wait_here(lambda: any(exchange.ended for exchange in exchanges))
            assert spooled(only(client)) <= 3 * MIB
            for response in slow:
                response.close()
            assert not spooled(only(client))
            assert drain(client.request("GET", "/1024")) == MIB


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("read_first", [0, 100 * KIB])
def test_a_reader_that_stops_is_given_up(neighbours: bool, read_first: int) -> None:
    with running(app) as server, asking(uri_of(server), stall_timeout=0.15) as client:
        stalled = client.request("GET", "/1024000")
        exchange = exchange_of(stalled)
        connection = only(client).connections[0]
        wait_here(lambda: connection.paused)
        stalled.read(read_first)
        with gevent.Timeout(20):
            while not exchange.ended:
                if neighbours:
                    assert drain(client.request("GET", "/64")) == 64 * KIB
                else:
                    gevent.sleep(0.005)
        with pytest.raises(ReaderStalled, match=r": the response was not read for 0\.15 s"):
            drain(stalled)
        stalled.close()
        wait_here(lambda: not only(client).in_flight)
        assert drain(client.request("GET", "/64")) == 64 * KIB
        assert only(client).accepted == 1


def test_a_reader_that_reads_now_and_then_is_not_given_up() -> None:
    """It is the time between two of its reads that counts."""
    with running(app) as server, asking(uri_of(server), stall_timeout=1) as client:
        response = client.request("GET", "/1024")
        began = time.monotonic()
        size = 0
        for piece in response:
            size += len(piece)
            gevent.sleep(0.05)
        assert size == MIB
        assert time.monotonic() - began > 1


def test_an_upload_whose_answer_is_not_read_yet_does_not_stop_itself() -> None:
    """The application answers as it reads: a pause would make each wait for the other."""

    def mirrors(peer: Peer) -> None:
        peer.say_values()
        peer.read_until(lambda: peer.asked)
        peer.send(stdout(1, HEAD, end=False))
        sent = 0
        while not peer.has_ended(1):
            assert peer.read()
            body = peer.asked[1].stdin
            if len(body) > sent:
                peer.send(stdout(1, body[sent:], end=False))
                sent = len(body)
        peer.send(end_request(1))
        peer.until_closed()

    size = 3 * MIB
    with scripted(mirrors) as server, asking(server.address) as client:
        assert drain(client.request("POST", "/", body=bytes(size))) == size


def test_many_small_answers_beside_a_download() -> None:
    """None of them waits for its end."""
    with running(app) as server, asking(uri_of(server)) as client:
        size = 40 * MIB
        download = gevent.spawn(lambda: drain(client.request("GET", f"/{size // KIB}")))
        wait_here(lambda: only(client).in_flight)
        for _ in range(10):
            assert drain(client.request("GET", "/64")) == 64 * KIB
        assert not download.ready()
        assert finish([download]) == [size]


def test_an_interleaved_answer_reaches_its_own_request() -> None:
    def mixed(peer: Peer) -> None:
        peer.say_values()
        for id in (1, 2):
            peer.request(id)
        records = []
        for n in range(50):
            for id in (1, 2):
                data = (HEAD if not n else b"") + b"%d" % id * (n * 100)
                records.append(stdout(id, data, end=False))
        whole = b"".join(records) + end_request(2) + end_request(1)
        for at in range(0, len(whole), 777):
            peer.send(whole[at : at + 777])
        peer.request(1)
        peer.send(answer(1, b"x"))
        peer.until_closed()

    with scripted(mixed) as server, asking(server.address) as client:
        size = sum(n * 100 for n in range(50))
        bodies = together([lambda: client.request("GET", "/").read()] * 2)
        assert sorted(bodies) == [b"1" * size, b"2" * size]
        del bodies


def test_a_body_from_an_iterator_waits_while_it_is_not_sent() -> None:
    """No more of it is in memory than the limit and one piece."""
    most = 0
    size = 20 * MIB

    def pieces() -> Iterator[bytes]:
        nonlocal most
        for _ in range(size // (32 * KIB)):
            yield bytes(32 * KIB)
            for connection in only(client).connections:
                for request in connection.protocol.requests.values():
                    most = max(most, client_exchange.exchange_of(request).input_size)

    with running(app) as server, asking(uri_of(server), input_memory_bytes=64 * KIB) as client:
        assert client.request("POST", "/upload", body=pieces()).read() == b"%d" % size
        assert 32 * KIB <= most <= 128 * KIB
