"""Test held requests behind each web server."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.front_ends.every import FRONTS
from support.front_ends.servers import AppServer
from support.http import connect, read_until, request
from support.processes import ProcessGroup, wait_until

APP = "apps.held:app"
OPTIONS = ("--push", "--threads", "1")


def ask(port: int, path: str) -> socket.socket:
    sock = connect(port)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return sock


@pytest.mark.parametrize("name", FRONTS)
def test_streams_and_long_polls(name: str, behind: ProcessGroup, processes: ProcessGroup) -> None:
    front = FRONTS[name]
    port = front.start(processes, behind, APP, OPTIONS)
    for prefix in front.prefixes:

        def send(path: str, body: bytes, prefix: str = prefix) -> None:
            assert request(port, f"{prefix}/{path}", method="POST", body=body).status == 204

        with ask(port, f"{prefix}/stream") as stream, ask(port, f"{prefix}/poll") as poll:
            assert b"grip" not in read_until(stream, b"begun").lower()
            # A beat comes without a reason, so that the web server buffers nothing.
            read_until(stream, b"beat")
            send("publish", b"first")
            read_until(stream, b"first")
            assert read_until(poll, b"first").startswith(b"HTTP/1.1 200 ")
            send("publish", b"second")
            read_until(stream, b"second")
            send("close", b"")
            while stream.recv(65536):
                pass


@pytest.mark.parametrize("name", [name for name in FRONTS if name != "HAProxy, shared connections"])
def test_a_beat_finds_a_client_that_has_gone(
    name: str, behind: ProcessGroup, processes: ProcessGroup, tmp_path: Path
) -> None:
    front = FRONTS[name]
    port = front.start(processes, behind, APP, OPTIONS)
    told = tmp_path / "told"
    with ask(port, f"{front.prefixes[0]}/stream?{told}") as stream:
        read_until(stream, b"begun")
    wait_until(told.exists, "the app to be told")


@pytest.mark.parametrize(
    ("factory", "package"), [("flask", "flask"), ("pyramid", "pyramid"), ("linted", "webtest")]
)
def test_frameworks_and_checkers(factory: str, package: str, processes: ProcessGroup) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    server = AppServer(processes, f"apps.held_frameworks:{factory}()", *OPTIONS)
    with Client(str(server.socket)) as client:
        client.ask(1, "/stream")
        client.collect_until(lambda: 1 in client.answers and client.answers[1].body == b"begun")
        assert client.get("/publish", id=2).body == b"sent"
        client.collect_until(lambda: client.answers[1].body == b"begunpublished")
        assert not [name for name in client.answers[1].headers if name.startswith("grip-")]
    assert server.process.stop() == 0
