"""Test the relay behind nginx, lighttpd and HAProxy: it changes no result."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from http.client import IncompleteRead, RemoteDisconnected
from pathlib import Path
from types import SimpleNamespace

import pytest
from live import frameworks
from live.test_responses import (
    test_a_client_that_leaves_in_a_download,
    test_a_client_that_leaves_in_an_upload,
    test_an_answer_with_much_of_stderr_ahead_of_it,
    test_an_app_that_fails_at_once,
    test_an_upload_arrives_whole,
    test_an_upload_in_chunks_arrives_whole,
    test_answers_of_many_sizes,
    test_answers_without_a_body,
    test_head_has_the_headers_and_no_body,
    test_the_environ_says_what_was_asked_for,
    test_wsgi_errors_are_in_both_logs,
)
from support.fcgi import records
from support.fcgi.scripted import HEAD, Peer, end_request, scripted, stdout
from support.front_ends.places import PLACES, Place
from support.front_ends.servers import AppServer, HAProxy, Nginx, WebServer
from support.gates import Gate
from support.http import Answer, connect, request
from support.processes import ProcessGroup, wait_until
from support.relay_server import LighttpdBeforeRelay, RelayServer

# The imported names are tests; each runs in all the places below.
__all__ = [
    "test_a_client_that_leaves_in_a_download",
    "test_a_client_that_leaves_in_an_upload",
    "test_an_answer_with_much_of_stderr_ahead_of_it",
    "test_an_app_that_fails_at_once",
    "test_an_upload_arrives_whole",
    "test_an_upload_in_chunks_arrives_whole",
    "test_answers_of_many_sizes",
    "test_answers_without_a_body",
    "test_head_has_the_headers_and_no_body",
    "test_the_environ_says_what_was_asked_for",
    "test_wsgi_errors_are_in_both_logs",
]

FRONTS: dict[str, Callable[[ProcessGroup, RelayServer], WebServer]] = {
    "lighttpd": LighttpdBeforeRelay,
    "nginx": Nginx,
    "haproxy": HAProxy,
}


class Chains:
    """Web server, relay and server for an app, each of which is started when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._webs: dict[tuple[str, str], WebServer] = {}
        self._relays: dict[str, RelayServer] = {}
        self.groups: list[ProcessGroup] = []

    def _group(self, name: str) -> ProcessGroup:
        folder = self._folder / name
        folder.mkdir()
        self.groups.append(ProcessGroup(folder))
        return self.groups[-1]

    def relay(self, app: str) -> RelayServer:
        if app not in self._relays:
            name = app.partition(":")[0]
            behind = AppServer(self._group(f"{name}-server"), app)
            self._relays[app] = RelayServer(
                self._group(f"{name}-relay"), behind, "--fail-on-app-status"
            )
        return self._relays[app]

    def web(self, front: str, app: str) -> WebServer:
        if (front, app) not in self._webs:
            group = self._group(f"{app.partition(':')[0]}-{front}")
            relay = self.relay(app)
            # The web server finds it in its own folder.
            (group.folder / "app.sock").symlink_to(relay.socket)
            web = self._webs[front, app] = FRONTS[front](group, relay)
            # What the app says is in the log of the server behind.
            web.server_log = relay.behind.process.log  # type: ignore[method-assign]
        return self._webs[front, app]

    def logs(self) -> str:
        relays = self._relays.values()
        return "".join(relay.process.log() + relay.behind.process.log() for relay in relays)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chains]:
    chains = Chains(tmp_path_factory.mktemp("relay"))
    try:
        yield chains
        connections = {name: relay.behind.sockets() for name, relay in chains._relays.items()}
    finally:
        for group in reversed(chains.groups):
            group.close()
    assert "a bug in" not in chains.logs(), chains.logs()
    # Two listeners, a few of its own, and one connection.
    assert all(len(sockets) < 8 for sockets in connections.values()), connections


def the_place(chains: Chains, name: str, app: str) -> Place:
    return Place(chains.web(name.partition("-")[0], app), PLACES[name], "thread")


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, chains: Chains) -> Place:
    return the_place(chains, request.param, "apps.routes:app")


@pytest.fixture(params=PLACES)
def flask(request: pytest.FixtureRequest, chains: Chains) -> Place:
    return the_place(chains, request.param, "apps.flask_site:app")


def test_a_flask_app(flask: Place) -> None:
    frameworks.check_urls(flask)
    frameworks.check_form(flask)
    frameworks.check_uploads(flask)
    frameworks.check_cookies(flask)
    frameworks.check_stream(flask)
    frameworks.check_login(flask)
    frameworks.check_errors(flask)


def test_a_streamed_answer_passes_as_it_comes(chains: Chains, tmp_path: Path) -> None:
    port = chains.web("nginx", "apps.routes:app").port
    with Gate(tmp_path) as gate, connect(port) as sock:
        sock.sendall(f"GET /unbuffered{gate.url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = b""
        while b"before\n" not in received:
            received += sock.recv(65536)
        assert b"after" not in received
        gate.wait_for_app()
        gate.open()
        while not received.endswith(b"0\r\n\r\n"):
            received += sock.recv(65536)
        assert b"after\n" in received


def test_many_web_servers_share_one_connection(chains: Chains) -> None:
    """Each request of nginx and lighttpd is a connection to the relay, and none to the server."""
    behind = chains.relay("apps.routes:app").behind
    ports = [chains.web(name, "apps.routes:app").port for name in FRONTS]
    assert request(ports[0]).status == 200
    before = behind.sockets()
    failures: list[int] = []

    def ask(port: int) -> None:
        for _ in range(30):
            answer = request(port, "/upload", method="POST", body=b"x" * 10_000)
            if not answer.text.startswith("10000 "):
                failures.append(answer.status)

    threads = [threading.Thread(target=ask, args=(port,)) for port in ports * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert behind.sockets() == before


def test_an_answer_that_breaks_off_is_broken_or_a_502(place: Place) -> None:
    if isinstance(place.web, HAProxy) and not place.prefix:
        pytest.skip("it multiplexes: test_broken_answers.py has what its client sees")
    with pytest.raises((IncompleteRead, RemoteDisconnected, ConnectionResetError)):
        place.request("/fail_midway?pieces=30")
    # Nothing of a small answer was sent when the relay learns that it is broken.
    assert place.request("/short").status == 502
    assert place.request("/echo").status == 200


def test_stopped_and_started_anew_it_loses_nothing(processes: ProcessGroup, tmp_path: Path) -> None:
    """SIGTERM: what runs ends, who comes then finds the next one; status 0."""
    behind_folder, front = tmp_path / "behind", tmp_path / "front"
    behind_folder.mkdir()
    front.mkdir()
    with ProcessGroup(behind_folder) as group, ProcessGroup(front) as web_group:
        behind = AppServer(group, "apps.routes:app")
        relay = RelayServer(processes, behind)
        (front / "app.sock").symlink_to(relay.socket)
        nginx = Nginx(web_group, relay)
        answers: list[Answer] = []
        with Gate(tmp_path) as gate:
            path = f"/unbuffered{gate.url}"
            thread = threading.Thread(target=lambda: answers.append(request(nginx.port, path)))
            thread.start()
            gate.wait_for_app()
            relay.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not relay.socket.exists(), "the socket to be removed")
            gate.open()
            thread.join()
        assert answers[0].text == "before\nafter\n"
        assert relay.process.wait() == 0
        assert request(nginx.port).status == 502
        RelayServer(processes, behind)
        wait_until(lambda: request(nginx.port).status == 200, "the next relay")


@pytest.mark.parametrize("front", FRONTS)
def test_interim_answers_of_an_upstream_reach_no_client(
    front: str, processes: ProcessGroup
) -> None:
    """A web server takes the first header block for the answer, and its client waits on."""

    def script(peer: Peer) -> None:
        peer.say_values()
        while (record := peer.read()) is not None:
            if record.kind == records.STDIN and not record.content:
                final = b"" if b"/never" in peer.asked[record.id].block else HEAD + b"body"
                interim = b"Status: 102 Processing\r\n\r\n"
                peer.send(stdout(record.id, interim + final) + end_request(record.id))

    with scripted(script) as app:
        behind = SimpleNamespace(socket=app.address.removeprefix("unix:"))
        relay = RelayServer(processes, behind)  # type: ignore[arg-type]
        web = FRONTS[front](processes, relay)
        answers = [request(web.port, path) for path in ("/", "/never", "/")]
        assert [answer.status for answer in answers] == [200, 502, 200]
        assert [answers[0].body, answers[2].body] == [b"body", b"body"]
        relay.process.wait_for_log("ended before the end of the headers")
        processes.close()
