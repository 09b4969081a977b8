"""Test the gateway in any HTTP server: one with a thread for each request; and its log."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

import gevent
import pytest
from support.asking import uri_of
from support.fcgi import records
from support.fcgi.scripted import HEAD, Peer, end_request, scripted, stdout
from support.server import hello, logged, respond, running, wait_until

from vsgi_fcgi.client.gateway import Gateway
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

ODD = "o\x1b[2Jd\r\nd\x00\x7f\x9b\u2028 \xe9"


@contextlib.contextmanager
def forwarding(address: str, **settings: Any) -> Iterator[Gateway]:
    gateway = Gateway(address, **settings)
    try:
        yield gateway
    finally:
        gateway.close()


def environ_of(method: str = "GET", path: str = "/") -> Environ:
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": BytesIO(),
        "wsgi.url_scheme": "http",
    }


def ask(gateway: Gateway, method: str = "GET", path: str = "/") -> tuple[str, bytes]:
    """Call the gateway as an HTTP server does, and return the status and the body."""
    statuses = []

    def start_response(status: str, headers: list[tuple[str, str]], *more: object) -> None:
        statuses.append(status)

    answer: Any = gateway(environ_of(method, path), start_response)
    try:
        body = b"".join(answer)
    finally:
        if hasattr(answer, "close"):
            answer.close()
    return statuses[-1], body


def says(text: str) -> Any:
    """Return an app that writes a text to `wsgi.errors`."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"].write(text)
        return respond(start_response, b"body")

    return app


def test_a_thread_may_get_the_ident_of_one_that_has_ended() -> None:
    """As with a thread for each request. The connections of threads that ended are closed."""
    idents: list[int] = []
    loops: list[Any] = []
    answers: list[object] = []

    def serve() -> None:
        idents.append(threading.get_ident())
        loops.append(gevent.get_hub().loop)
        answers.append(ask(gateway, path="/path"))

    with running(hello) as server:
        gateway = Gateway(uri_of(server))
        try:
            while len(idents) < len(set(idents)) + 5:
                thread = threading.Thread(target=serve)
                thread.start()
                thread.join()
            assert answers == [("200 OK", b"/path")] * len(idents)
            connections = server.context.connections
            wait_until(lambda: len(connections) == len(set(idents)))
        finally:
            # The threads have ended, so none of them can close its own.
            for upstreams in gateway._by_thread.values():
                upstreams.close()
            for loop in loops:
                loop.destroy()


def test_a_response_that_the_http_server_refuses_is_aborted() -> None:
    """As ours does with a control character in the reason phrase."""

    def endless(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, iter(lambda: bytes(1000), b""))

    def refuse(*_: object) -> None:
        raise ValueError("a bad reason")

    def has_ended() -> bool:
        gevent.sleep(0)  # the loop sends what is due
        return not server.context.calls.stats.requests_in_flight

    with running(endless) as server, forwarding(uri_of(server)) as gateway:
        with pytest.raises(ValueError, match="a bad reason"):
            gateway(environ_of(), refuse)
        wait_until(has_ended)
        assert not gateway.upstreams.memory.used


def gateway_lines(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(("GET", "o\\x1b"))]


def test_what_comes_on_stderr_is_logged_with_the_request() -> None:
    with (
        running(says("first\nsecond\n\n")) as server,
        forwarding(uri_of(server)) as gateway,
        logged() as log,
    ):
        assert ask(gateway, path="/some/path") == ("200 OK", b"body")
        assert gateway_lines(log.lines) == ["GET /some/path: first\nsecond"]


def test_stderr_is_escaped() -> None:
    def script(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        errors = ODD.encode() + b" \xff\n"
        peer.send(records.stream(records.STDERR, 1, errors))
        peer.send(stdout(1, HEAD + b"body") + end_request(1))
        peer.until_closed()

    with scripted(script) as app, forwarding(app.address) as gateway, logged() as log:
        assert ask(gateway)[0] == "200 OK"
        assert gateway_lines(log.lines) == [
            "GET /: o\\x1b[2Jd\\x0d\nd\\x00\\x7f\\x9b\\u2028 é \\xff"
        ]


def test_stderr_of_a_request_without_a_response_is_logged() -> None:
    """It often says why there is none. This request is sent twice."""

    def script(peer: Peer) -> None:
        peer.say_values()
        peer.request()
        peer.send(records.stream(records.STDERR, 1, b"cannot import app\n"))

    with scripted(script) as app, forwarding(app.address) as gateway, logged() as log:
        assert ask(gateway)[0] == "502 Bad Gateway"
        lines = [line for line in gateway_lines(log.lines) if "closed" not in line]
        assert lines == ["GET /: cannot import app\ncannot import app"]


def test_stderr_is_not_logged_where_that_is_turned_off() -> None:
    with (
        running(says("text")) as server,
        forwarding(uri_of(server), log_stderr=False) as gateway,
        logged() as log,
    ):
        assert ask(gateway)[0] == "200 OK"
        assert gateway_lines(log.lines) == []


def test_an_odd_method_and_path_are_escaped() -> None:
    """An HTTP server that is less strict than ours lets them through."""
    method = ODD.replace("\u2028", "")
    path = "/" + method
    with forwarding("unix:/nowhere/app.sock") as gateway, logged() as log:
        assert ask(gateway, method, path)[0].startswith("502 ")
        (line,) = gateway_lines(log.lines)
    escaped = "o\\x1b[2Jd\\r\\nd\\x00\\x7f\\x9b \\xe9"
    assert line.startswith(f"{escaped} /{escaped}: /nowhere/app.sock cannot be connected to")
    with (
        running(says("text")) as server,
        forwarding(uri_of(server)) as gateway,
        logged() as log,
    ):
        ask(gateway, method, path)
        assert gateway_lines(log.lines) == [f"{escaped} /{escaped}: text"]
