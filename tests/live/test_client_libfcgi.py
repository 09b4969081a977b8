"""Test the client with applications that serve one request at a time: fcgiwrap and PHP."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gevent
import pytest
from support.asking import asking, only, together
from support.flup import connects
from support.front_ends.servers import find
from support.processes import ProcessGroup, wait_until

from vsgi_fcgi.client import FastCGIClient
from vsgi_fcgi.client.client import Response

PROCESSES = 2
"""How many requests an application serves at a time."""

SHELL = """#!/bin/sh
case "$QUERY_STRING" in
    status) printf 'Status: 418 Teapot\\r\\n\\r\\n'; exit;;
    slow) sleep 0.1;;
    endless) printf 'Content-Type: text/plain\\r\\n\\r\\n'; exec yes;;
esac
printf 'Content-Type: text/plain\\r\\n\\r\\n'
printf '%s %s ' "$REQUEST_METHOD" "$QUERY_STRING"
exec sha256sum
"""

PHP = """<?php
$query = $_SERVER["QUERY_STRING"];
if ($query == "status") {
    http_response_code(418);
    file_put_contents("php://stderr", "complaint\\n");
    exit;
}
if ($query == "slow") usleep(100000);
header("Content-Type: text/plain");
if ($query == "endless") while (true) echo str_repeat("y", 4096);
$body = file_get_contents("php://input");
printf("%s %s %s  -\\n", $_SERVER["REQUEST_METHOD"], $query, hash("sha256", $body));
"""


@dataclass
class App:
    """An application.

    Attributes:
        address: where it listens.
        script: the file that answers.
    """

    address: str
    script: Path

    def ask(self, client: FastCGIClient, query: str = "", body: bytes | None = None) -> Response:
        """Run the script."""
        params = {"SCRIPT_FILENAME": str(self.script), "REDIRECT_STATUS": "200"}
        method = "GET" if body is None else "POST"
        headers = {} if body is None else {"Content-Type": "application/octet-stream"}
        target = f"/{self.script.name}?{query}"
        return client.request(method, target, headers=headers, body=body or b"", params=params)


def fcgiwrap(group: ProcessGroup) -> App:
    script = group.folder / "script.sh"
    script.write_text(SHELL)
    script.chmod(0o755)
    path = group.folder / "wrap.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(100)
        for number in range(PROCESSES):
            group.start([find("fcgiwrap")], name=f"fcgiwrap{number}", stdin=sock)
    return App(f"unix:{path}", script)


def php(group: ProcessGroup) -> App:
    script = group.folder / "script.php"
    script.write_text(PHP)
    path = group.folder / "php.sock"
    environ = {"PHP_FCGI_CHILDREN": str(PROCESSES)}
    settings = ["-n", "-d", "post_max_size=100M"]
    group.start([find("php-cgi"), *settings, "-b", str(path)], env=environ)
    wait_until(lambda: connects(path), "PHP to accept")
    return App(f"unix:{path}", script)


@pytest.fixture(params=[fcgiwrap, php])
def app(request: pytest.FixtureRequest, processes: ProcessGroup) -> App:
    make: Callable[[ProcessGroup], App] = request.param
    return make(processes)


def line(method: str, query: str, body: bytes) -> bytes:
    return f"{method} {query} {hashlib.sha256(body).hexdigest()}  -\n".encode()


def test_one_after_the_other(app: App) -> None:
    with asking(app.address) as client:
        assert app.ask(client, "a").read() == line("GET", "a", b"")
        assert only(client).multiplexes is False
        body = bytes(range(256)) * 4000
        assert app.ask(client, "b", body).read() == line("POST", "b", body)
        for number in range(10):
            assert app.ask(client, str(number)).read() == line("GET", str(number), b"")


def test_more_at_once_than_it_has_processes(app: App) -> None:
    """None waits for a connection that is kept without a use."""
    with asking(app.address) as client, gevent.Timeout(20):
        bodies = together([lambda: app.ask(client, "slow", b"x").read()] * (4 * PROCESSES))
        assert bodies == [line("POST", "slow", b"x")] * (4 * PROCESSES)


def test_a_status(app: App) -> None:
    with asking(app.address) as client:
        response = app.ask(client, "status")
        assert (response.status, response.read()) == (418, b"")


def test_a_large_upload_from_an_iterator(app: App) -> None:
    size = 20_000_000

    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            yield bytes(size // 200)

    with asking(app.address) as client:
        params = {"SCRIPT_FILENAME": str(app.script), "REDIRECT_STATUS": "200"}
        params["CONTENT_LENGTH"] = str(size)
        response = client.request("POST", "/?up", body=pieces(), params=params)
        assert response.read() == line("POST", "up", bytes(size))


def test_what_is_given_up_frees_the_process(app: App) -> None:
    with asking(app.address) as client, gevent.Timeout(20):
        for _ in range(2 * PROCESSES):
            with app.ask(client, "endless") as response:
                assert len(response.read(100_000)) == 100_000
        assert app.ask(client, "a").read() == line("GET", "a", b"")
