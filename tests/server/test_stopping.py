"""Test the graceful stop: requests that have arrived are answered, and the stop is quick."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from support.fcgi import records
from support.fcgi.peer import Client, several, whole_request
from support.server import (
    WORKERS,
    Running,
    hello,
    logged,
    respond,
    running,
    wait_in_app,
    wait_until,
)

from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


class Stopper:
    """Stops a server in a thread of its own."""

    def __init__(self, server: Running, timeout: float = 20) -> None:
        self.results: list[bool] = []
        self._thread = threading.Thread(
            target=lambda: self.results.append(server.server.stop(timeout))
        )
        context = server.context
        self._thread.start()
        wait_until(lambda: context.connections.stopping)

    def result(self) -> bool:
        self._thread.join(30)
        (result,) = self.results
        return result


class Door:
    def __init__(self) -> None:
        self.begun = threading.Event()
        self.free = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/held":
            self.begun.set()
            wait_in_app(environ, self.free)
        return respond(start_response, environ["PATH_INFO"].encode())


@pytest.mark.parametrize("worker", WORKERS)
def test_running_and_queued_requests_finish(worker: str) -> None:
    app = Door()
    with running(app, worker=worker, threads=1) as server:
        client = server.connect()
        client.ask(1, "/held")
        assert app.begun.wait(10)
        client.ask(2, "/queued")
        wait_until(lambda: server.context.dispatcher.waiting == 1)
        stopper = Stopper(server)
        app.free.set()
        assert client.answer(1).body == b"/held"
        assert client.answer(2).body == b"/queued"
        client.read_to_end()
        assert stopper.result()


@pytest.mark.parametrize("worker", WORKERS)
def test_idle_connections_are_closed_at_once_and_nobody_can_connect(worker: str) -> None:
    app = Door()
    with running(app, worker=worker) as server:
        address = server.address
        with several(address, 5) as idle:
            for client in idle:
                client.get("/once")
            busy = server.connect()
            busy.ask(1, "/held")
            assert app.begun.wait(10)
            stopper = Stopper(server)
            for client in idle:
                client.read_to_end()
            with pytest.raises(OSError, match=r"refused|No such file"):
                Client(address)
            assert stopper.results == []
            app.free.set()
            assert busy.answer(1).body == b"/held"
            assert stopper.result()


@pytest.mark.parametrize("worker", WORKERS)
def test_whoever_has_just_connected_is_heard(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection was accepted, and its request is still on the way."""
    # However slow this machine is just now.
    monkeypatch.setattr("vsgi_fcgi.transport.connections._FIRST_REQUEST", 20.0)
    with running(hello, worker=worker, graceful_timeout=60.0) as server:
        late = server.connect()
        wait_until(lambda: len(server.context.connections) == 1)
        stopper = Stopper(server)
        late.ask(1, "/late")
        assert late.answer(1).body == b"/late"
        late.read_to_end()
        assert stopper.result()


@pytest.mark.parametrize("worker", WORKERS)
def test_whoever_never_asks_is_not_waited_for(worker: str) -> None:
    with running(hello, worker=worker) as server:
        never = server.connect()
        wait_until(lambda: len(server.context.connections) == 1)
        stopper = Stopper(server)
        never.read_to_end(5)
        assert stopper.result()


@pytest.mark.parametrize("worker", WORKERS)
def test_a_request_that_was_readable_is_served(worker: str) -> None:
    """The main context is busy while requests arrive and the stop is requested."""
    with running(hello, worker=worker) as server:
        kept = [server.connect() for _ in range(5)]
        for client in kept:
            client.get("/once")
        busy, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            busy.set()
            assert go_on.wait(10)  # natively: the loop stands still

        holder = threading.Thread(target=server.in_context, args=(hold,))
        holder.start()
        assert busy.wait(10)
        fresh = [server.connect() for _ in range(5)]
        for number, client in enumerate([*kept, *fresh]):
            client.ask(1, f"/{number}")
        results: list[bool] = []
        stopper = threading.Thread(target=lambda: results.append(server.server.stop(20)))
        # That the stop has been posted, before the main context comes to it.
        posted = server.context.services.mailbox._items
        stopper.start()
        wait_until(lambda: posted is not server.context.services.mailbox._items or posted)
        go_on.set()
        for number, client in enumerate([*kept, *fresh]):
            assert client.answer(1).body == b"/%d" % number
            client.read_to_end()
        stopper.join(20)
        holder.join(20)
        assert results == [True]


@pytest.mark.parametrize("worker", WORKERS)
def test_a_backlog_that_fills_the_queue_is_served_after_the_first_steps(worker: str) -> None:
    """Those of `before_stop` are in a greenlet, in which no worker of the loop may begin."""
    clients: list[Client] = []

    def connect(_: float) -> None:
        for _ in range(5):
            client = server.connect()
            client.ask(1, "/path")
            clients.append(client)

    with running(hello, worker=worker, max_queued=1) as server:
        server.server.before_stop.append(connect)
        stopper = Stopper(server)
        assert stopper.result()
        assert {client.answer(1).status for client in clients} <= {200, 503}
        assert len(clients) == 5


def test_several_threads_may_stop_a_server() -> None:
    app = Door()
    with running(app) as server:
        client = server.connect()
        client.ask(1, "/held")
        assert app.begun.wait(10)
        stoppers = [Stopper(server) for _ in range(3)]
        app.free.set()
        assert [stopper.result() for stopper in stoppers] == [True] * 3


def test_a_first_step_that_fails_does_not_keep_the_server_running() -> None:
    def fail(_: float) -> None:
        raise RuntimeError("the step")

    steps: list[float] = []
    with running(hello) as server, logged() as log:
        server.server.before_stop += [fail, steps.append]
        assert Stopper(server, 15).result()
        log.wait_for("RuntimeError: the step")
    (seconds,) = steps
    assert 0 < seconds <= 15


def test_requests_that_follow_on_a_connection_at_work_are_served_too() -> None:
    app = Door()
    with running(app) as server:
        client = server.connect()
        client.ask(1, "/held")
        assert app.begun.wait(10)
        stopper = Stopper(server)
        client.ask(2, "/followed")
        assert client.answer(2).body == b"/followed"
        app.free.set()
        assert client.answer(1).body == b"/held"
        assert stopper.result()


def _multiplex(client: Client) -> None:
    """Ask what a web server asks that multiplexes."""
    client.send(records.get_values("FCGI_MPXS_CONNS"))
    answer = client.read_record()
    assert answer is not None
    assert answer.kind == records.GET_VALUES_RESULT


def test_what_is_sent_after_the_input_is_shut_fails_visibly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A multiplexed connection that is never idle: complete requests are answered exactly once."""
    # The time is not a setting, and the test must not wait for all of it.
    monkeypatch.setattr("vsgi_fcgi.transport.connections._FIRST_REQUEST", 0.05)
    app = Door()
    with running(app) as server:
        client = server.connect()
        _multiplex(client)
        client.ask(1, "/held")
        assert app.begun.wait(10)
        stopper = Stopper(server)
        wait_until(lambda: all(connection.input_over for connection in server.context.connections))
        with pytest.raises(BrokenPipeError):
            client.ask(2, "/never")
        app.free.set()
        assert client.answer(1).body == b"/held"
        client.read_to_end()
        assert stopper.result()


def test_an_incomplete_request_is_refused_so_that_it_can_be_repeated() -> None:
    with running(hello) as server:
        client = server.connect()
        _multiplex(client)
        assert client.get("/", id=2).status == 200
        connection = server.connection()

        def begin() -> None:
            # What a client that is cut off in the middle of a request has sent.
            client.start(1, length=5, method="POST")
            client.stdin(1, b"he", end=False)
            connection.last_read()
            # The moment between the two steps of a stop, which is too short to hit.
            connection._shut_input()

        server.in_context(begin)
        answer = client.answer(1)
        assert (answer.body, answer.protocol_status) == (b"", records.OVERLOADED)
        client.read_to_end()


def test_a_request_that_crosses_the_end_of_a_tcp_connection_is_confessed() -> None:
    """It cannot be answered: the stop says so, with a log line and its result."""
    with running(hello, bind="127.0.0.1:0") as server:
        client = server.connect()
        _multiplex(client)
        assert client.get().status == 200
        stopper = Stopper(server)
        wait_until(
            lambda: all(connection.is_lingering for connection in server.context.connections)
        )
        client.ask(2)
        client.read_to_end()
        client.close()
        assert not stopper.result()


def test_a_body_that_is_coming_in_may_come_to_its_end() -> None:
    with running(hello) as server:
        client = server.connect()
        client.start(1, "/upload", length=8)
        client.stdin(1, b"half", end=False)
        wait_until(lambda: server.context.services.memory.used == 4)
        stopper = Stopper(server)
        client.stdin(1, b"half")
        assert client.answer(1).body == b"/upload"
        client.read_to_end()
        assert stopper.result()


@pytest.mark.parametrize("worker", WORKERS)
def test_a_large_answer_is_sent_to_its_end(worker: str) -> None:
    begun = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, body())

    def body() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 50_000
            begun.set()

    with running(app, worker=worker, output_memory_bytes=60_000, output_wait=0.001) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1)
        assert begun.wait(10)
        stopper = Stopper(server)
        assert len(client.answer(1).body) == 2_500_000
        client.read_to_end()
        assert stopper.result()


@pytest.mark.parametrize("worker", WORKERS)
def test_what_takes_too_long_is_cut_off_and_stop_says_so(worker: str) -> None:
    app = Door()
    with running(app, worker=worker) as server:
        client = server.connect()
        client.ask(1, "/held")
        assert app.begun.wait(10)
        assert not server.server.stop(0.05)
        client.read_to_end()
        assert 1 not in client.answers
        app.free.set()


def test_what_is_cut_off_leaves_nothing_behind() -> None:
    """A spooled body in an app's hands, output in a file, and a body that is half there."""
    app = Door()
    settings: dict[str, Any] = {
        "body_memory_bytes": 1000,
        "output_memory_bytes": 5000,
        "output_wait": 0.001,
    }

    def endless(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/endless":
            return respond(start_response, iter(lambda: b"x" * 1000, b""))
        return app(environ, start_response)

    with running(endless, threads=3, output_spool_bytes=50_000, **settings) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1, "/held", b"x" * 20_000)
        assert app.begun.wait(10)
        client.ask(2, "/endless")
        wait_until(lambda: server.context.services.spool.used >= 60_000)
        client.start(3, length=100_000)
        client.stdin(3, b"x" * 50_000, end=False)
        wait_until(lambda: server.context.services.spool.used >= 100_000)
        assert not server.server.stop(0.05)
        app.free.set()


def test_a_stop_under_load_loses_no_request_that_was_sent_before_an_answer() -> None:
    """Each client asks one after the other; the last one may find the connection closed."""
    with running(hello, threads=2) as server, several(server.address, 8) as clients:
        answered = [0] * len(clients)
        torn: list[BaseException] = []

        def ask(index: int) -> None:
            client = clients[index]
            try:
                while True:
                    try:
                        client.send(whole_request(1, "/x"))
                    except OSError:
                        return
                    record = client.collect()
                    if record is None:
                        return  # closed between two requests
                    while record is None or record.kind != records.END_REQUEST:
                        record = client.collect()
                        assert record is not None, "closed in the middle of an answer"
                    answered[index] += 1
            except BaseException as error:
                torn.append(error)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(clients))]
        for thread in threads:
            thread.start()
        wait_until(lambda: min(answered) > 20)
        assert server.server.stop(10)
        for thread in threads:
            thread.join(10)
        assert torn == []


@pytest.mark.process
def test_the_deadline_holds_if_the_handler_never_runs() -> None:
    """A signal that another thread gets does not wake an app that waits in the kernel."""
    script = """
import os, signal, socket, tempfile, threading
from vsgi_fcgi import Server

def app(environ, start_response):
    def interrupt():
        path = f"/proc/self/task/{os.getpid()}/stat"
        while open(path).read().rpartition(")")[2].split()[0] != "S":
            pass
        print("interrupted", flush=True)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    os.read(os.pipe()[0], 1)

def ask(path):
    from vsgi_fcgi.client import FastCGIClient
    FastCGIClient(path).request("GET", "/")

path = "unix:" + tempfile.mktemp()
server = Server(app, worker="main", graceful_timeout=0.2)
server.listen(path)
threading.Thread(target=ask, args=(path,), daemon=True).start()
server.run()
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 1, run.stderr
    assert run.stdout == "interrupted\n"
