"""How many connections there may be, and what happens to those over the number."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

import pytest
from support.fcgi import Address, Client
from support.server import (
    WORKERS,
    hello,
    logged,
    respond,
    run_script,
    running,
    wait_in_app,
    wait_until,
)

from vsgi_fcgi import accepting
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.runner import StartResponse


class Door:
    """An app of which requests for ``/held`` wait until they are let go."""

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
        assert len(server.context.channels) == 3
        log.wait_for("the longest idle of all")


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
        assert len(server.context.channels) == 1
        app.free.set()
        assert waiting.answer(1).body == b"/waited"
        assert busy.answer(1).body == b"/held"


@pytest.mark.parametrize("worker", WORKERS)
def test_with_none_idle_who_connects_waits_until_one_becomes_idle(worker: str) -> None:
    """The web server keeps its connections open, so that none is ever closed by itself."""
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
    monkeypatch.setattr(accepting, "_SILENCE", silence)
    app = Door()
    with logged() as log, running(app, max_connections=1) as server:
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
            wait_until(lambda: not server.context.channels)
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
        assert len(server.context.channels) <= 4
        server.server.stop(10)
        for thread in threads:
            thread.join(10)


def test_without_descriptors_accepting_pauses_and_goes_on() -> None:
    script = """
import os, resource, time
from support.server import hello, logged, running
from vsgi_fcgi.server import server as module

hard = 64
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
with logged() as log, running(hello, threads=1, accept_pause=0.05) as server:
    first = server.connect()
    first.get("/first")
    held = []
    second = server.connect()  # its descriptor is taken now, the server's is not to be had
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    # Two connections wait, or one was accepted before the last descriptor was gone.
    os.close(held.pop())
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


def test_every_pause_is_as_long_as_the_first() -> None:
    """A libev timer that is merely started again has no time left: it would never pause."""
    script = """
import os, resource, time
from support.server import hello, logged, running, wait_until

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with logged() as log, running(hello, threads=1, accept_pause=0.1) as server:
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
        assert len(server.context.channels) == 64
