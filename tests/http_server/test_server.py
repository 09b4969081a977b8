"""Test the HTTP server with an app in this process."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.socket
import pytest

from vsgi_fcgi.http.config import HTTPConfig
from vsgi_fcgi.http.connection import HTTPConnection
from vsgi_fcgi.http.head import RequestError
from vsgi_fcgi.http.server import HTTPServer


class Lines:
    """A log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, *args: object) -> None:
        self.lines.append(message % args)

    warning = info


class Site:
    """A server that runs in this thread's hub."""

    def __init__(self, app: Any, **settings: Any) -> None:
        self.listener = gevent.socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(8)
        self.address = self.listener.getsockname()
        self.log = Lines()
        self.server = HTTPServer([self.listener], app, HTTPConfig(**settings), self.log)
        self.server.start()

    def connect(self) -> Any:
        return gevent.socket.create_connection(self.address, 10)

    def ask(self, data: bytes) -> bytes:
        """Send something; returns all that comes until the connection is closed."""
        with self.connect() as sock:
            sock.sendall(data)
            return b"".join(iter(lambda: sock.recv(65536), b""))


@contextlib.contextmanager
def serving(app: Any, **settings: Any) -> Iterator[Site]:
    site = Site(app, **settings)
    try:
        with gevent.Timeout(20):
            yield site
    finally:
        site.server.stop(1)


def wait_for(done: Callable[[], object]) -> None:
    """Let the server run until something has happened."""
    with gevent.Timeout(10):
        while not done():
            gevent.sleep(0.005)


GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close\r\n\r\n"


def hello(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def test_an_app_that_fails_is_a_500_and_the_connection_goes_on() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["HTTP_CONNECTION"] == "close":
            return hello(environ, start_response)
        raise RuntimeError("this app fails")

    with serving(app) as site:
        got = site.ask(GET + b"Connection: x\r\n\r\n" + GET + CLOSE)
    assert got.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"this app" not in got
    assert got.endswith(b"hello")
    assert any("RuntimeError: this app fails" in line for line in site.log.lines)


def test_a_target_does_not_end_its_quotes_in_the_log() -> None:
    with serving(hello) as site:
        site.ask(b'GET /"HTTP/1.1"200,\\ HTTP/1.1\r\nHost: x\r\n' + CLOSE)
        wait_for(lambda: site.log.lines)
    (text,) = site.log.lines
    assert r'"GET /\"HTTP/1.1\"200,\\ HTTP/1.1" 200, 5 bytes' in text


@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_a_body_that_the_app_does_not_read(size: int) -> None:
    """A short rest is read and dropped; for a long one, the connection is closed."""
    sent = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    with serving(hello) as site:
        got = site.ask(sent + GET + CLOSE)
    # Without a reset, which would destroy the answer.
    assert got.count(b"HTTP/1.1 200 OK") == (2 if size == 1000 else 1)
    assert b"Connection: close" in got


def test_an_app_that_does_not_want_the_body_of_a_client_that_asks() -> None:
    sent = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    with serving(hello) as site:
        got = site.ask(sent)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close" in got


def test_the_end_of_a_client_ends_an_app_that_waits() -> None:
    ended: list[str] = []

    class Result:
        def __iter__(self) -> Iterator[bytes]:
            yield b"first"
            gevent.sleep(20)

        def close(self) -> None:
            ended.append("closed")

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Result()

    with serving(app) as site:
        with site.connect() as sock:
            sock.sendall(GET + b"\r\n")
            assert b"first" in sock.recv(65536)
            assert ended == []
        wait_for(lambda: ended)


def test_a_pipelined_request_is_not_taken_for_the_end_of_a_client() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        gevent.sleep(0.01)
        return hello(environ, start_response)

    with serving(app) as site:
        # More than is read at a time, so that some of it stays in the socket.
        filler = b"X-A: " + b"x" * 10000 + b"\r\n"
        got = site.ask((GET + filler + b"\r\n") * 5 + GET + CLOSE)
    assert got.count(b"hello") == 6


def test_no_more_connections_than_may_be() -> None:
    with serving(hello, max_http_connections=1) as site, site.connect() as first:
        first.sendall(GET + b"\r\n")
        assert first.recv(65536).endswith(b"hello")
        with site.connect() as second:
            second.sendall(GET + CLOSE)
            second.settimeout(0.05)
            with pytest.raises(TimeoutError):
                second.recv(65536)
            first.close()
            second.settimeout(10)
            assert second.recv(65536).endswith(b"hello")


class Endless:
    """A client that sends and reads faster than the server, which never has to wait for it.

    Attributes:
        calls: how often the server has used the socket.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.over = False

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 80

    def shutdown(self, how: int) -> None:
        """Take note of the end of the answer, and go on."""

    def settimeout(self, seconds: float) -> None:
        """Never be waited for."""

    def end(self) -> None:
        self.over = True

    def recv(self, size: int) -> bytes:
        self._use()
        return b"" if self.over else b"\r\n" * (size // 2)

    def send(self, data: bytes) -> int:
        self._use()
        return len(data)

    def _use(self) -> None:
        self.calls += 1
        assert self.calls < 1000, "the others never run"


def read_body(connection: HTTPConnection) -> None:
    connection._expects_continue = False
    with contextlib.suppress(RequestError):  # it ends early
        while True:
            connection.receive(65536)


def send_pieces(connection: HTTPConnection) -> None:
    while not connection._sock.over:
        connection._send(b"x")


@pytest.mark.parametrize(
    "use", [HTTPConnection._read_head, read_body, send_pieces, HTTPConnection._linger]
)
def test_a_client_that_is_never_waited_for_leaves_the_loop_to_others(use: Any) -> None:
    """A real client cannot send without a pause."""
    sock = Endless()
    owner: Any = SimpleNamespace(config=HTTPConfig(), environ={})
    connection = HTTPConnection(owner, sock, None)
    # The other connections are served when the loop looks for I/O: callbacks are not enough.
    ready, other = socket.socketpair()
    watcher = gevent.get_hub().loop.io(ready.fileno(), 1)
    with ready, other:
        other.send(b"x")
        watcher.start(sock.end)
        try:
            use(connection)
        finally:
            watcher.stop()
            watcher.close()
    assert sock.calls < 40


def test_pipelined_requests_leave_the_loop_to_others() -> None:
    served: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        served.append(environ["PATH_INFO"])
        if len(served) == 1:
            second.sendall(b"GET /second HTTP/1.1\r\nHost: x\r\n" + CLOSE)
        return hello(environ, start_response)

    with serving(app) as site, site.connect() as first, site.connect() as second:
        first.sendall((GET + b"\r\n") * 500)
        assert second.recv(65536).endswith(b"hello")
    assert served.index("/second") < 100


def test_the_file_of_a_head_request_is_not_read() -> None:
    read: list[bytes] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "1000")])
        for piece in [b"x"] * 1000:
            read.append(piece)
            yield piece

    with serving(app) as site:
        got = site.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n" + CLOSE)
    assert b"Content-Length: 1000\r\n" in got
    assert len(read) == 1


def test_a_listener_that_is_shut_down_is_logged_once_and_costs_nothing() -> None:
    with serving(hello) as site:
        site.listener.shutdown(socket.SHUT_RD)
        wait_for(lambda: site.log.lines)
        assert site.log.lines == [
            "cannot accept HTTP connections: [Errno 22] Invalid argument; trying again"
        ]
        # That it does not spin can be seen in its watcher alone, without measuring CPU.
        server: Any = site.server._servers[0]
        # It waits for a timer, and not for the socket, which is always readable.
        assert server._watcher is None
        assert server._timer is not None
        # It tries again.
        site.listener.listen(8)
        site.address = site.listener.getsockname()
        assert site.ask(GET + CLOSE).endswith(b"hello")
