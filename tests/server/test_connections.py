"""Test the limit on connections, and connections above the limit."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from support.fcgi.peer import Address, Client
from support.server import (
    WORKERS,
    Running,
    hello,
    logged,
    respond,
    run_script,
    running,
    wait_in_app,
    wait_until,
)

from vsgi_fcgi.transport import acceptor as accepting
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


class Door:
    """App whose requests for ``/held`` wait until the test releases them."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.free = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/held":
            self.begun.set()
            wait_in_app(environ, self.free)
        return respond(start_response, environ["PATH_INFO"].encode())


def test_the_longest_idle_connection_makes_room() -> None:
    with logged() as log, running(hello, max_connections=3) as server:
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.get("/once")
        # Age is when something was last received: the second is now the oldest.
        clients[0].get("/again")
        clients[2].get("/again")
        for path in ("/fourth", "/fifth"):
            assert server.connect().get(path).body == path.encode()
        clients[1].read_to_end()
        clients[0].read_to_end()
        assert clients[2].get("/alive").body == b"/alive"
        assert len(server.context.connections) == 3
        log.wait_for("closed to make room")


def test_a_busy_connection_is_never_closed_for_another() -> None:
    app = Door()
    with running(app, max_connections=2) as server:
        busy, idle = server.connect(), server.connect()
        busy.ask(1, "/held")
        assert app.begun.wait(10)
        idle.get("/once")
        assert server.connect().get("/third").body == b"/third"
        idle.read_to_end()
        app.free.set()
        assert busy.answer(1).body == b"/held"


@pytest.mark.parametrize("worker", WORKERS)
def test_with_none_idle_who_connects_waits_until_one_closes(worker: str) -> None:
    app = Door()
    with logged() as log, running(app, max_connections=1, worker=worker) as server:
        busy = server.connect()
        busy.ask(1, "/held", keep_conn=False)
        assert app.begun.wait(10)
        waiting = server.connect()
        waiting.ask(1, "/waited")
        log.wait_for("1 connections are open and none is idle")
        assert len(server.context.connections) == 1
        app.free.set()
        assert waiting.answer(1).body == b"/waited"
        assert busy.answer(1).body == b"/held"


@pytest.mark.parametrize("worker", WORKERS)
def test_with_none_idle_who_connects_waits_until_one_becomes_idle(worker: str) -> None:
    """The web server keeps its connections open, and never closes one."""
    app = Door()
    with logged() as log, running(app, max_connections=1, worker=worker) as server:
        busy = server.connect()
        busy.ask(1, "/held")
        assert app.begun.wait(10)
        waiting = server.connect()
        waiting.ask(1, "/waited")
        log.wait_for("1 connections are open and none is idle")
        app.free.set()
        assert busy.answer(1).body == b"/held"
        assert waiting.answer(1).body == b"/waited"


@pytest.mark.parametrize(("silence", "often"), [(3600.0, False), (0.0, True)])
def test_that_none_is_idle_is_not_said_each_time(
    silence: float, often: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The minimum time between two such messages is not a setting.
    monkeypatch.setattr(accepting, "_SILENCE", silence)
    app = Door()
    with logged() as log, running(app, max_connections=1) as server:
        # From outside, a pause in accepting looks like a slow accept.
        (door,) = server.server._acceptors
        for number in range(3):
            app.begun.clear()
            app.free.clear()
            busy = server.connect()
            busy.ask(1, "/held", keep_conn=False)
            assert app.begun.wait(10)
            waiting = server.connect()
            waiting.ask(1, f"/{number}", keep_conn=False)
            wait_until(lambda: door._full)
            app.free.set()
            assert waiting.answer(1).body == b"/%d" % number
            assert busy.answer(1).body == b"/held"
            wait_until(lambda: not server.context.connections)
        server.server.stop(10)
        times = sum("none is idle" in line for line in log.lines)
        assert times >= 3 if often else times == 1


def test_many_more_clients_than_connections_are_all_served() -> None:
    """Connections change hands; who is cut off before an answer asks again, as web servers do."""
    served: list[bytes] = []

    def ask(address: Address, path: str) -> None:
        for _ in range(50):
            with Client(address) as client, contextlib.suppress(AssertionError, OSError):
                served.append(client.get(path).body)
                client.read_to_end()
                return

    with running(hello, max_connections=4, threads=2) as server:
        threads = [
            threading.Thread(target=ask, args=(server.address, f"/{n}"), daemon=True)
            for n in range(40)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(served) == 40, lambda: f"{len(served)} of 40 were served")
        assert sorted(served) == sorted(b"/%d" % n for n in range(40))
        assert len(server.context.connections) <= 4
        server.server.stop(10)
        for thread in threads:
            thread.join(10)


@pytest.mark.process
def test_without_descriptors_accepting_pauses_and_goes_on() -> None:
    script = """
import contextlib, os, resource
from support.server import hello, logged, running

hard = 64
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
with logged() as log, running(hello, threads=1, accept_backoff=0.05) as server:
    first = server.connect()
    first.get("/first")
    held = []
    second = server.connect()  # uses the last descriptor, so the server gets none
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    # Two connections wait, or one was accepted before the last descriptor was gone.
    third = None
    while third is None:
        os.close(held.pop())
        # The server may use this descriptor for the second connection.
        with contextlib.suppress(OSError):
            third = server.connect()
    log.wait_for("trying again in 0.05 s")
    assert first.get("/meanwhile").body == b"/meanwhile"
    while held:
        os.close(held.pop())
    assert third.get("/third").body == b"/third"
    assert second.get("/second").body == b"/second"
    assert sum("cannot accept" in line for line in log.lines) < 1000
print("served")
"""
    assert run_script(script) == "served\n"


@pytest.mark.process
def test_every_pause_is_as_long_as_the_first() -> None:
    """A libev timer that is merely started again has no time left: it would never pause."""
    script = """
import os, resource, time
from support.server import hello, logged, running, wait_until
from vsgi_fcgi.transport import acceptor as accepting

accepting._SILENCE = 0  # each pause has a line of its own
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with logged() as log, running(hello, threads=1, accept_backoff=0.1) as server:
    def pauses():
        return sum("trying again" in line for line in log.lines)
    held = []
    waiting = server.connect()
    waiting.get("/taken")
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        os.close(held.pop())
    second = server.connect()
    wait_until(lambda: pauses() >= 1)
    begun = time.monotonic()
    wait_until(lambda: pauses() >= 4)
    print(time.monotonic() - begun)
    while held:
        os.close(held.pop())
    second.get("/second")
"""
    # Three pauses; the first may have begun before the clock was read.
    assert float(run_script(script)) > 0.19


@pytest.mark.process
def test_the_soft_limit_of_descriptors_is_raised_at_start() -> None:
    script = """
import resource
from support.server import hello, running
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 2000))
with running(hello, max_connections=700, max_queued=100) as server:
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    assert int(run_script(script)) >= 900


def test_sixty_four_kept_connections_share_two_threads() -> None:
    with running(hello, threads=2) as server:
        clients = [server.connect() for _ in range(64)]
        for turn in range(3):
            for number, client in enumerate(clients):
                client.ask(1, f"/{turn}/{number}")
            for number, client in enumerate(clients):
                assert client.answer(1).body == b"/%d/%d" % (turn, number)
        assert len(server.context.connections) == 64


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR], ids=["rd", "rdwr"])
@pytest.mark.parametrize("bind", [None, "127.0.0.1:0"], ids=["unix", "tcp"])
def test_a_listening_socket_that_was_shut_down_is_paused(bind: str | None, how: int) -> None:
    """It stays readable: accepting at once again would keep the process busy for ever."""
    with logged() as log, running(hello, bind=bind) as server:
        # To shut down the very socket that it listens on.
        listener = server.server._listeners[0]
        waits = server.connect()
        server.in_context(lambda: listener.sock.shutdown(how))
        log.wait_for("trying again in")
        assert waits.get("/who-came-before").body == b"/who-came-before"


def test_a_stop_takes_its_own_shutdown_for_no_error() -> None:
    with logged() as log:
        with running(hello) as server:
            assert server.connect().get("/a").body == b"/a"
        log.wait_for("stopped")
    assert not log.has("cannot accept")


class Forbidding:
    """A listening socket on which the system allows no accept."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _accept(self) -> Any:
        self.asked += 1
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_refusal_by_the_system_that_stays_is_paused() -> None:
    """As of a seccomp filter: the connection stays where it is, and the socket readable."""
    with logged() as log, running(hello) as server:
        # A system call of the server must fail, and a test cannot install a seccomp filter.
        listener: Any = server.server._listeners[0]
        real, listener.sock = listener.sock, Forbidding(listener.sock)
        client = server.connect()
        log.wait_for("Operation not permitted; trying again in")
        asked = listener.sock.asked
        assert asked < 5
        listener.sock = real
        assert client.get("/a").body == b"/a"


def is_half_closed(server: Running, client: Client) -> None:
    client.get()
    client.sock.shutdown(socket.SHUT_WR)


def is_half_closed_in_a_request(server: Running, client: Client) -> None:
    client.start(1, length=5)
    client.sock.shutdown(socket.SHUT_WR)


def does_not_read(server: Running, client: Client) -> None:
    client.ask(1, "/large")
    wait_until(lambda: server.connection().writer.blocked)


def will_never_read(server: Running, client: Client) -> None:
    does_not_read(server, client)
    client.sock.shutdown(socket.SHUT_RD)


def is_not_read(server: Running, client: Client) -> None:
    client.get()
    server.in_context(server.connection().pause)
    client.ask(1)


def is_not_read_and_gone(server: Running, client: Client) -> None:
    is_not_read(server, client)
    client.close()


@pytest.mark.parametrize("bind", [None, "127.0.0.1:0"], ids=["unix", "tcp"])
@pytest.mark.parametrize(
    "peer",
    [
        is_half_closed,
        is_half_closed_in_a_request,
        does_not_read,
        will_never_read,
        is_not_read,
        is_not_read_and_gone,
    ],
)
def test_no_state_of_a_peer_keeps_the_loop_busy(
    peer: Callable[[Running, Client], None], bind: str | None
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, bytes(8 << 20 if environ["PATH_INFO"] == "/large" else 1))

    # The answer waits in memory: nothing is left to do with files meanwhile.
    with running(app, bind=bind, output_memory_bytes=16 << 20) as server:
        peer(server, server.connect(receive_buffer=4096))
        loop: Any = server.context.services.loop
        before = loop.iteration
        time.sleep(0.2)
        assert loop.iteration - before < 20
        for connection in [each for each in server.context.connections if each.paused]:
            server.in_context(connection.resume)
