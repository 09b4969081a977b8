"""Test that many small records through the relay need no more memory than the limits allow."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fcgi import records
from support.fcgi.peer import Client
from support.fcgi.scripted import HEAD, Peer, Script, answer, scripted, stdout
from support.memory import Measured, wait_until_read
from support.processes import ProcessGroup

pytestmark = pytest.mark.process

Relay = Callable[..., Measured]


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Callable[[Script], Measured]]:
    # The applications go when the relay has closed its connections.
    with contextlib.ExitStack() as apps, ProcessGroup(tmp_path) as group:

        def start(script: Script, *options: str) -> Measured:
            address = apps.enter_context(scripted(script)).address
            argv = [sys.executable, "-m", "vsgi_fcgi", "relay", "--socket", "app.sock"]
            argv += ["--upstream", address, *options]
            relay = Measured(group, argv, tmp_path / "app.sock")
            with Client(relay.path) as client:
                assert client.get("/").body == b"first"
            relay.begin()
            return relay

        yield start


@pytest.fixture
def connections() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def answer_first(peer: Peer) -> None:
    peer.say_values()
    peer.request()
    peer.send(answer(1, b"first"))


@pytest.mark.parametrize("kind", [records.STDOUT, records.STDERR])
def test_answers_in_tiny_records(
    relay: Callable[[Script], Measured], connections: contextlib.ExitStack, kind: int
) -> None:
    def script(peer: Peer) -> None:
        answer_first(peer)
        for id in range(1, 11):
            peer.request(id)
        for id in range(1, 11):
            tiny = records.stream(kind, id, bytes(60_000), size=2, end=False)
            peer.send(stdout(id, HEAD, end=False) + tiny)
        peer.request(11)
        peer.send(answer(11, b"last"))
        peer.until_closed()

    measured = relay(script)
    for _ in range(10):
        client = connections.enter_context(Client(measured.path, receive_buffer=4096))
        client.ask(1)
        wait_until_read(client.sock)
    with Client(measured.path) as client:
        assert client.get("/").body == b"last"
    assert measured.grown < 5


def test_bodies_in_tiny_records(
    relay: Callable[[Script], Measured], connections: contextlib.ExitStack
) -> None:
    free = threading.Event()

    def script(peer: Peer) -> None:
        answer_first(peer)
        free.wait()
        # If it closed the connection, the relay would send the requests again on another one,
        # on which `answer_first` waits for the rest of a body that never comes.
        peer.until_closed()

    measured = relay(script)
    connections.callback(free.set)
    tiny = records.stdin(1, bytes(60_000), size=2, end=False)
    for _ in range(10):
        client = connections.enter_context(Client(measured.path))
        client.start(1, length=70_000, method="POST")
        client.send(tiny)
        wait_until_read(client.sock)
    free.set()
    assert measured.grown < 5


def test_params_of_requests_in_progress(
    relay: Callable[..., Measured], connections: contextlib.ExitStack
) -> None:
    def script(peer: Peer) -> None:
        answer_first(peer)
        peer.until_closed()

    measured = relay(script, "--total-params-bytes", "4000000")
    for _ in range(10):
        client = connections.enter_context(Client(measured.path))
        client.start(1, length=5, method="POST", more={"LARGE": "x" * 100_000})
        for id in range(2, 52):
            client.start(id, length=5, method="POST", more={"LARGE": "x" * 100_000})
        wait_until_read(client.sock)
    assert measured.grown < 16


def test_answers_that_nobody_reads(
    relay: Callable[..., Measured], connections: contextlib.ExitStack
) -> None:
    """Each is below its own limit."""
    count, body = 60, bytes(1_000_000)

    def script(peer: Peer) -> None:
        answer_first(peer)
        while (record := peer.read()) is not None:
            if record.kind == records.STDIN and not record.content:
                peer.send(answer(record.id, body))

    measured = relay(script, "--total-memory-bytes", "2000000")
    clients = []
    for _ in range(count):
        clients.append(connections.enter_context(Client(measured.path, receive_buffer=4096)))
        clients[-1].ask(1)
        wait_until_read(clients[-1].sock)
    with Client(measured.path) as client:
        assert client.get("/").body == body
    # It was 25.
    assert measured.grown < 12
    for client in clients:
        assert client.answer(1).body == body


def test_bodies_that_wait_for_their_application(
    relay: Callable[..., Measured], connections: contextlib.ExitStack
) -> None:
    count, size = 90, 200_000
    free = threading.Event()

    def script(peer: Peer) -> None:
        answer_first(peer)
        free.wait()
        while (record := peer.read()) is not None:
            if record.kind == records.STDIN and not record.content:
                assert len(peer.asked[record.id].stdin) == size
                peer.send(answer(record.id, b"read"))

    measured = relay(script, "--total-memory-bytes", "2000000")
    connections.callback(free.set)
    clients = []
    for _ in range(count):
        clients.append(connections.enter_context(Client(measured.path)))
        clients[-1].start(1, length=size, method="POST")
        # The kernel holds what the relay does not read.
        clients[-1].stdin(1, bytes(size))
    with Client(measured.path) as client:
        client.send(records.record(records.GET_VALUES, 0))
        # By then the others were looked at.
        assert client.collect() is not None
    # It was 10 to 13.
    assert measured.grown < 9
    free.set()
    for client in clients:
        assert client.answer(1).body == b"read"
