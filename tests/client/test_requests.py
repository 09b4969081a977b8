"""Test `FastCGIClient` with a real server: requests and responses."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import gevent
import pytest
from support.asking import asking, only, uri_of
from support.fcgi import records
from support.fcgi.scripted import HEAD, Peer, answer, end_request, scripted, stdout
from support.server import echo, hello, respond, running

from vsgi_fcgi.client import ClientConfig, FastCGIClient
from vsgi_fcgi.exceptions import (
    UpstreamBroken,
    UpstreamError,
    UpstreamUnreachable,
    UsageError,
)
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


def show(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the environ's text values and a digest of the body."""
    texts = {name: value for name, value in environ.items() if isinstance(value, str)}
    body = environ["wsgi.input"].read()
    texts["body"] = hashlib.sha256(body).hexdigest()
    start_response("201 Made", [("Content-Type", "application/json"), ("X-A", "1"), ("X-A", "2")])
    return [json.dumps(texts).encode()]


def test_what_a_request_is_made_of() -> None:
    with running(show) as server, asking(uri_of(server)) as client:
        response = client.request(
            "PUT",
            "/a%20b/c?x=%20y&z",
            headers={"Content-Type": "text/x", "X-Odd": "caf\xe9"},
            body=b"hello",
            params={"DOCUMENT_ROOT": "/srv", "SERVER_NAME": "example.com"},
        )
        assert (response.status, response.reason) == (201, "Made")
        assert response.header("content-TYPE") == "application/json"
        assert response.header("x-a") == "1"
        assert response.header("missing", "none") == "none"
        assert response.headers[-2:] == [("X-A", "1"), ("X-A", "2")]
        environ = json.loads(response.read())
        wanted = {
            "REQUEST_METHOD": "PUT",
            "PATH_INFO": "/a b/c",
            "QUERY_STRING": "x=%20y&z",
            "REQUEST_URI": "/a%20b/c?x=%20y&z",
            "CONTENT_TYPE": "text/x",
            "CONTENT_LENGTH": "5",
            "HTTP_X_ODD": "caf\xe9",
            "DOCUMENT_ROOT": "/srv",
            "SERVER_NAME": "example.com",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "body": hashlib.sha256(b"hello").hexdigest(),
        }
        assert {name: environ.get(name) for name in wanted} == wanted


def test_headers_that_come_twice_are_joined_as_a_web_server_does() -> None:
    headers = [("Accept", "a"), ("Cookie", "b=1"), ("accept", "c"), ("cookie", "d=2")]
    with running(show) as server, asking(uri_of(server)) as client:
        environ = json.loads(client.request("GET", "/", headers=headers).read())
        assert environ["HTTP_ACCEPT"] == "a, c"
        assert environ["HTTP_COOKIE"] == "b=1; d=2"
        # The caller may give one that the client would otherwise add.
        named = {"Content-Length": "3"}
        environ = json.loads(client.request("POST", "/", headers=named, body=b"abc").read())
        assert environ["CONTENT_LENGTH"] == "3"


BODY = bytes(range(256)) * 4000


@pytest.mark.parametrize(
    "make",
    [
        lambda: BODY,
        lambda: bytearray(BODY),
        lambda: memoryview(BODY),
        lambda: io.BytesIO(BODY),
        lambda: iter([b"", BODY[:1], bytearray(BODY[1:100_000]), memoryview(BODY)[100_000:], b""]),
    ],
    ids=["bytes", "bytearray", "memoryview", "file", "pieces"],
)
def test_every_kind_of_body_arrives_and_comes_back(make: Any) -> None:
    with running(echo) as server, asking(uri_of(server)) as client:
        assert client.request("POST", "/", body=make()).read() == BODY


@pytest.mark.parametrize("body", ["text", [b"x", "y"], iter([3])])
def test_a_body_that_is_not_of_bytes_is_refused_and_aborted(body: Any) -> None:
    with running(echo) as server, asking(uri_of(server)) as client:
        with pytest.raises(TypeError, match="the body must be bytes or yield bytes"):
            client.request("POST", "/", body=body)
        with pytest.raises(TypeError, match="the body must be bytes or yield bytes"):
            client.request("POST", "/", body=iter([bytes(100_000), "late"]))  # type: ignore[arg-type]
        assert client.request("POST", "/", body=b"x").read() == b"x"


def test_an_error_in_a_body_aborts_its_request() -> None:
    def fails() -> Iterator[bytes]:
        yield bytes(100_000)
        raise OSError("no such tape")

    with running(echo) as server, asking(uri_of(server)) as client:
        with pytest.raises(OSError, match="no such tape"):
            client.request("POST", "/", body=fails())
        assert client.request("POST", "/", body=b"x").read() == b"x"
        assert len(server.context.connections) == 1


def test_a_response_is_there_before_its_end() -> None:
    more = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        respond(start_response, iter(()))
        yield b"first"
        assert more.wait(20)
        yield b"second"

    with running(app) as server, asking(uri_of(server)) as client:
        response = client.request("GET", "/")
        assert response.read(5) == b"first"
        more.set()
        assert response.read() == b"second"
        assert response.read() == b""


def test_a_body_is_sent_as_it_comes() -> None:
    """The second half is made when the application has the first."""
    seen: list[int] = []
    half = 200_000

    def counts(peer: Peer) -> None:
        peer.say_values()
        peer.read_until(lambda: peer.asked and len(peer.asked[1].stdin) == half)
        seen.append(half)
        peer.request(1)
        peer.send(answer(1, b"%d" % len(peer.asked[1].stdin)))
        peer.until_closed()

    def pieces() -> Iterator[bytes]:
        yield bytes(half)
        with gevent.Timeout(20):
            while not seen:
                gevent.sleep(0.001)
        yield bytes(half)

    with scripted(counts) as server, asking(server.address) as client:
        assert client.request("POST", "/", body=pieces()).read() == b"400000"


def test_reading_piece_by_piece() -> None:
    with running(echo) as server, asking(uri_of(server)) as client:
        response = client.request("POST", "/", body=BODY)
        first = response.read(10)
        second = response.read(0)
        third = response.read(70_000)
        assert (len(first), second, len(third)) == (10, b"", 70_000)
        assert first + third + b"".join(response) == BODY


def test_head_and_statuses_without_a_body() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(environ["PATH_INFO"][1:], [("X-Path", environ["PATH_INFO"])])
        return []

    with running(hello) as server, asking(uri_of(server)) as client:
        response = client.request("HEAD", "/abc")
        assert response.header("Content-Length") == "4"
        assert response.read() == b""
    with running(app) as server, asking(uri_of(server)) as client:
        assert client.request("GET", "/204 No Content").read() == b""
        assert client.request("GET", "/304 Not Modified").status == 304


def test_interim_answers_are_skipped() -> None:
    early = b"Status: 103 Early Hints\r\nLink: </a.css>\r\n\r\n"

    def hints(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, early, end=False) + stdout(1, early + HEAD + b"body") + end_request(1))
        peer.until_closed()

    def only_hints(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, early) + end_request(1))
        peer.until_closed()

    with scripted(hints) as server, asking(server.address) as client:
        response = client.request("GET", "/")
        assert (response.status, response.read()) == (200, b"body")
    with (
        scripted(only_hints) as server,
        asking(server.address) as client,
        pytest.raises(UpstreamBroken, match="before the end of the headers"),
    ):
        client.request("POST", "/")


def test_stderr_is_kept_apart_up_to_a_limit() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"].write(environ["PATH_INFO"][1:] * 1000 + "\n")
        return respond(start_response, b"out")

    settings = {"max_upstream_stderr_bytes": 1500}
    with running(app) as server, asking(uri_of(server), **settings) as client:
        response = client.request("GET", "/e")
        assert response.read() == b"out"
        assert response.stderr == b"e" * 1000 + b"\n"
        assert response.stderr == b""
        response = client.request("GET", "/ee")
        assert response.read() == b"out"
        assert response.stderr == b"e" * 1500


# How a request ends.


def test_an_answer_that_breaks_off_is_an_error_whatever_it_is() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        respond(start_response, iter(()))
        yield b"half"
        raise ValueError("on purpose")

    with running(app) as server, asking(uri_of(server)) as client:
        response = client.request("GET", "/")
        assert response.read(4) == b"half"
        with pytest.raises(UpstreamBroken) as raised:
            response.read()
        assert raised.value.begun


@pytest.mark.parametrize(
    ("head", "whole"),
    [(b"Content-Length: 4\r\n", True), (b"Content-Length: 5\r\n", False), (b"", False)],
)
def test_an_application_status(head: bytes, whole: bool) -> None:
    """A number other than 0 says that a program failed: only a length shows that nothing lacks."""

    def fails(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, b"A: b\r\n" + head + b"\r\nbody") + end_request(1, 7))
        peer.until_closed()

    with scripted(fails) as server, asking(server.address) as client:
        response = client.request("GET", "/")
        if whole:
            assert response.read() == b"body"
        else:
            assert response.read(4) == b"body"
            with pytest.raises(UpstreamBroken, match="application status 7"):
                response.read()
        assert response.app_status == 7


def test_more_body_than_it_said_is_cut() -> None:
    def long(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, b"Content-Length: 3\r\n\r\nabc", end=False) + answer(1, b"defg"))
        peer.request(1)
        peer.until_closed()

    with scripted(long) as server, asking(server.address) as client:
        assert client.request("GET", "/").read() == b"abc"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "before the end of the headers"),
        (b"Content-Type: text/plain\r\n", "before the end of the headers"),
        (b"\r\nbody", "has no headers"),
        (b"<html>\n\n", "a line that is not a header: '<html>'"),
        (b"A: " + b"b" * 5000, "over 1024 bytes"),
        (b"Content-Length: 9" + b"9" * 900 + b"\n\n", "Content-Length"),
    ],
)
def test_what_is_no_answer_at_all(sent: bytes, message: str) -> None:
    def odd(peer: Peer) -> None:
        peer.say_values()
        peer.request(1)
        peer.send(stdout(1, sent) + end_request(1))
        known = peer.asked[1]
        peer.read_until(lambda: peer.asked[1] is not known and peer.has_ended(1))
        peer.send(answer(1, b"well"))
        peer.until_closed()

    settings = {"max_response_head_bytes": 1024}
    with scripted(odd) as server, asking(server.address, **settings) as client:
        with pytest.raises(UpstreamBroken, match=message):
            client.request("POST", "/")
        assert client.request("GET", "/").read() == b"well"
        assert len(server.peers) == 1


# Roles and raw params.


@pytest.mark.parametrize("role", [Role.AUTHORIZER, Role.FILTER, 77])
def test_a_role_that_a_server_does_not_serve(role: int) -> None:
    with running(hello) as server, asking(uri_of(server)) as client:
        # Of an authorizer there is a 500 before that, which web servers need.
        with pytest.raises(UpstreamBroken, match="UNKNOWN_ROLE"):
            client.request("GET", "/", role=role).read()
        assert client.request("GET", "/x").read() == b"/x"


def test_an_authorizer_has_no_body() -> None:
    def authorizer(peer: Peer) -> None:
        peer.say_values()
        peer.read_until(lambda: peer.has_ended(1, records.PARAMS))
        assert peer.asked[1].role == Role.AUTHORIZER
        peer.send(stdout(1, b"Status: 200 OK\r\nVariable-USER: me\r\n\r\n") + end_request(1, 3))
        peer.until_closed()

    with scripted(authorizer) as server, asking(server.address) as client:
        response = client.request("GET", "/", role=Role.AUTHORIZER)
        assert response.header("Variable-USER") == "me"
        assert response.read() == b""
        assert response.app_status == 3
    assert not server.peers[0].asked[1].streams


def test_a_filter_gets_both_streams() -> None:
    def filters(peer: Peer) -> None:
        peer.say_values()
        asked = peer.request(1, records.DATA)
        assert asked.role == Role.FILTER
        assert asked.stdin == b"in" * 50_000
        peer.send(answer(1, asked.streams[records.DATA].upper()))
        peer.until_closed()

    with scripted(filters) as server, asking(server.address) as client:
        data = io.BytesIO(b"some data " * 30_000)
        response = client.request("GET", "/", role=Role.FILTER, body=b"in" * 50_000, data=data)
        assert response.read() == b"SOME DATA " * 30_000


@pytest.mark.parametrize("encoded", [False, True])
def test_raw_params_are_sent_as_they_are(encoded: bool) -> None:
    pairs = [("B", "2"), ("A", ""), ("B", "3"), ("", "x" * 200)]

    def raw(peer: Peer) -> None:
        peer.say_values()
        assert peer.request(1).block == records.pairs(pairs)
        peer.send(answer(1, b"ok"))
        peer.until_closed()

    with scripted(raw) as server, asking(server.address) as client:
        assert client.send(records.pairs(pairs) if encoded else pairs).read() == b"ok"


# The client itself.


def test_settings() -> None:
    config = ClientConfig(connections=3)
    with FastCGIClient("127.0.0.1:9", config=config) as client:
        assert client.config is config
    with pytest.raises(UsageError, match="config and single settings exclude each other"):
        FastCGIClient("127.0.0.1:9", config=config, connections=4)
    with pytest.raises(UsageError, match="FastCGIClient got an unexpected keyword"):
        FastCGIClient("127.0.0.1:9", conections=4)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="connections"):
        FastCGIClient("127.0.0.1:9", connections=0)
    with pytest.raises(UsageError, match="no address of an application server"):
        FastCGIClient()
    with pytest.raises(UsageError, match="cannot be connected to"):
        FastCGIClient("fd://0")


def test_a_client_belongs_to_its_thread() -> None:
    errors: list[BaseException] = []
    with running(hello) as server, asking(uri_of(server)) as client:

        def elsewhere() -> None:
            try:
                client.request("GET", "/")
            except BaseException as error:
                errors.append(error)
            finally:
                gevent.get_hub().destroy(destroy_loop=True)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert [str(error) for error in errors] == [
            "a client can be used only in the thread that created it; create one in each thread"
        ]
        assert client.request("GET", "/x").read() == b"/x"


def test_closing_ends_what_is_in_flight_and_what_waits() -> None:
    def silent(peer: Peer) -> None:
        peer.say_values()
        peer.until_closed()

    with scripted(silent) as server, asking(server.address, requests_per_connection=1) as client:
        greenlets = [gevent.spawn(client.request, "POST", "/") for _ in range(3)]
        with gevent.Timeout(20):
            while only(client).load < 3 or not only(client).in_flight:
                gevent.sleep(0.001)
        client.close()
        gevent.joinall(greenlets, timeout=20)
        assert all(isinstance(each.exception, UpstreamError) for each in greenlets)
        with pytest.raises(UpstreamUnreachable, match="the client was closed"):
            client.request("GET", "/")


@pytest.mark.process
def test_a_script_without_close_ends() -> None:
    """Nothing of the client keeps a program alive."""
    script = (
        "import sys; from vsgi_fcgi.client import FastCGIClient\n"
        "client = FastCGIClient(sys.argv[1])\n"
        "print(client.request('GET', '/there').read().decode())"
    )
    with running(hello) as server:
        run = subprocess.run(
            [sys.executable, "-c", script, uri_of(server)],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert run.stdout == "/there\n"


def test_an_answer_that_was_read_leaves_nothing_for_the_garbage_collector() -> None:
    with running(hello) as server, asking(uri_of(server)) as client:
        client.request("GET", "/").read()
        gc.collect()
        gc.disable()
        try:
            response = client.request("GET", "/x")
            # The reference that must go is hidden in a response.
            call = weakref.ref(response._response.call)
            assert response.read() == b"/x"
            del response
            gevent.sleep(0)
            assert call() is None
        finally:
            gc.enable()


def test_an_answer_that_nobody_wants_is_aborted() -> None:
    def endless(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        respond(start_response, iter(()))
        try:
            while True:
                yield bytes(10_000)
        finally:
            ended.set()

    ended = threading.Event()
    with running(endless) as server, asking(uri_of(server)) as client:
        with client.request("GET", "/") as response:
            assert len(response.read(100_000)) == 100_000
        response.close()
        with gevent.Timeout(20):
            while only(client).in_flight:
                gevent.sleep(0.001)
        assert ended.wait(20)
        assert len(server.context.connections) == 1
