"""Test nginx over UNIX and TCP, with and without kept connections: ``examples/nginx.conf``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.front_ends.servers import EXAMPLES, AppServer, Nginx
from support.gates import Gate
from support.http import Client, connect, request
from support.processes import ProcessGroup, wait_until

APP = "apps.routes:app"

UNIX, TCP, UNBUFFERED, CAUGHT = "", "/tcp", "/unbuffered", "/caught"


def test_the_example(processes: ProcessGroup) -> None:
    server = AppServer(processes, "hello:app", folder=EXAMPLES)
    nginx = Nginx(processes, server)
    for prefix in (UNIX, TCP, UNBUFFERED, CAUGHT):
        # A path with a newline, and one that only begins like a mount point.
        for path in ("/", "/some/p%20ath", "/a%0Ab", *(["", "x/y"] if prefix else [])):
            answer = request(nginx.port, prefix + path)
            assert answer.status == 200
            assert f"You asked for: GET {prefix}{path}\n" in answer.text
            assert "nginx/" in answer.text
    assert nginx.process.stop() == 0
    # The socket goes with the server that made it.
    assert server.socket.exists()
    assert server.process.stop() == 0
    assert not server.socket.exists()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    with ProcessGroup(tmp_path_factory.mktemp("nginx")) as group:
        yield AppServer(group, APP, "--threads", "2", "--max-body-bytes", "3000000")


@pytest.fixture(scope="module")
def nginx(server: AppServer) -> Nginx:
    return Nginx(server.group, server)


def accepted(client: Client, prefix: str) -> int:
    """How many connections the server has accepted."""
    return int(client.request("GET", f"{prefix}/stats").json()["connections_accepted"])


@pytest.mark.parametrize("prefix", [UNIX, TCP])
def test_connections_are_kept(nginx: Nginx, prefix: str) -> None:
    with Client(nginx.port) as client:
        before = accepted(client, prefix)
        for _ in range(100):
            assert client.request("GET", f"{prefix}/echo").status == 200
            assert client.request("POST", f"{prefix}/upload", b"x").status == 200
        assert accepted(client, prefix) == before


def test_connections_are_not_kept(server: AppServer, nginx: Nginx) -> None:
    before = server.sockets()
    for _ in range(20):
        assert request(nginx.port, f"{UNBUFFERED}/echo").status == 200
    wait_until(lambda: server.sockets() <= before, "the end of all connections")


@pytest.mark.parametrize("prefix", [UNIX, TCP])
def test_two_threads_serve_64_kept_connections(
    server: AppServer, nginx: Nginx, prefix: str
) -> None:
    """While both threads are held, 64 requests come on 64 connections."""
    before = server.sockets()
    held = (Gate(server.group.folder, "first"), Gate(server.group.folder, "second"))
    with held[0] as first, held[1] as second, ThreadPoolExecutor(66) as pool:
        slow = [pool.submit(request, nginx.port, prefix + gate.url) for gate in held]
        first.wait_for_app()
        second.wait_for_app()
        many = [
            pool.submit(request, nginx.port, f"{prefix}/upload", method="POST", body=b"%d" % number)
            for number in range(64)
        ]
        wait_until(lambda: len(server.sockets() - before) >= 64, "64 connections")
        first.open()
        second.open()
        for number, future in enumerate(many):
            digest = hashlib.sha256(b"%d" % number).hexdigest()
            assert future.result(20).text.split()[1] == digest
        assert [future.result(20).text for future in slow] == ["before\nafter\n"] * 2
    # They stay open, and serve again.
    kept = server.sockets()
    assert len(kept - before) >= 60
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda _: request(nginx.port, f"{prefix}/echo"), range(200))
        assert {answer.status for answer in answers} == {200}
    assert server.sockets() <= kept


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("prefix", [UNIX, TCP, UNBUFFERED])
def test_a_body_that_is_too_large_is_answered_413(nginx: Nginx, prefix: str, chunked: bool) -> None:
    """Also while the client still sends: the rest is discarded before the connection is closed."""
    piece = bytes(100_000)
    for _ in range(5):
        body = iter([piece] * 60) if chunked else piece * 60
        answer = request(nginx.port, f"{prefix}/upload", method="POST", body=body)
        assert answer.status == 413
    body = iter([piece] * 30) if chunked else piece * 30
    answer = request(nginx.port, f"{prefix}/upload", method="POST", body=body)
    assert answer.text.startswith("3000000 ")


def test_an_answer_that_breaks_off_is_never_complete(nginx: Nginx) -> None:
    """Not even a short one, nor where connections are not kept."""
    for prefix in (UNIX, TCP, UNBUFFERED):
        for _ in range(5):
            with connect(nginx.port) as sock:
                path = f"{prefix}/fail_midway?pieces=1"
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                received = b""
                while data := sock.recv(65536):
                    received += data
            assert not received.endswith(b"0\r\n\r\n")


def test_a_half_sent_upload_leaves_nothing_behind(server: AppServer, nginx: Nginx) -> None:
    before = server.sockets()
    head = b"POST /unbuffered/upload HTTP/1.1\r\nHost: x\r\n"
    for end in (
        b"Content-Length: 1000000\r\n\r\nhalf",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nx",
    ):
        with connect(nginx.port) as sock:
            sock.sendall(head + end)
            wait_until(lambda: server.sockets() - before, "the request to reach the server")
        wait_until(lambda: server.sockets() <= before, "the request to be given up")


@pytest.mark.parametrize(
    ("prefix", "query"),
    [(UNBUFFERED, ""), (UNIX, "&buffering=no"), (TCP, "&buffering=no")],
    ids=["unbuffered", "x-accel-unix", "x-accel-tcp"],
)
def test_a_streamed_answer_passes_as_it_comes(
    server: AppServer, nginx: Nginx, prefix: str, query: str
) -> None:
    with Gate(server.group.folder) as gate, connect(nginx.port) as sock:
        sock.sendall(f"GET {prefix}{gate.url}{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = b""
        while b"before\n" not in received:
            received += sock.recv(65536)
        assert b"after" not in received
        # It is for nginx, and not for the client.
        assert b"X-Accel" not in received
        gate.wait_for_app()
        gate.open()
        while not received.endswith(b"0\r\n\r\n"):
            received += sock.recv(65536)
        assert b"after\n" in received


@pytest.mark.parametrize(("prefix", "connections"), [(CAUGHT, 0), (UNBUFFERED, 1)])
def test_when_an_upload_reaches_the_server(nginx: Nginx, prefix: str, connections: int) -> None:
    """Neither place keeps connections: a request that comes is a connection that comes."""
    with Client(nginx.port) as client, connect(nginx.port) as sock:
        accepted(client, TCP)
        before = accepted(client, TCP)
        head = f"POST {prefix}/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
        sock.sendall(f"{head}half ".encode())
        wait_until(lambda: accepted(client, TCP) == before + connections, "the connections")
        # nginx goes on to other requests when it has seen to this one.
        for _ in range(5):
            assert accepted(client, TCP) == before + connections
        sock.sendall(b"whole")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        assert accepted(client, TCP) == before + 1


@pytest.mark.parametrize(
    ("size", "more"), [(0, 0), (4000, 0), (8200, 0), (100_000, 0), (5, 8200), (5, 60_000)]
)
def test_an_answer_that_is_given_up(server: AppServer, nginx: Nginx, size: int, more: int) -> None:
    """What the app writes to wsgi.errors comes before it, and nginx asks another server."""
    full = server.group.folder / "full"
    url = f"{CAUGHT}/give_up?size={size}&more={more}&full={full}"
    full.touch()
    answer = request(nginx.port, f"{url}&once=yes")
    assert (answer.status, len(answer.body)) == (200, size)
    assert not full.exists()
    # Requests that must not be repeated go to one server, and all others to every server.
    full.touch()
    assert request(nginx.port, f"{url}&once=yes", method="POST").status == 502
    full.touch()
    assert request(nginx.port, url).status == 502
    full.unlink()
    assert request(nginx.port, url).status == 200
    sign = 'FastCGI sent in stderr: "full: ask another server"'
    assert nginx.error_log().count(sign) >= 3
