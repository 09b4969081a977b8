"""Test when an app learns that its client has gone, behind each web server.

The page ``docs/howto/disconnect.md`` has a table of this. A test checks that both agree.
"""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path

import pytest
from support.fcgi.peer import Client as FastCGIClient
from support.front_ends.every import FRONTS
from support.front_ends.servers import AppServer
from support.http import connect
from support.pages import DOCS
from support.processes import ProcessGroup, wait_until

APP = "apps.gone:app"
OPTIONS = ("--threads", "8")

SILENT, BEGUN, BEATS = KINDS = ("silent", "begun", "beats")
"""What the app has sent before: nothing; something, and then nothing; something every 100 ms."""

LIMIT = 1.0
"""Seconds in which an app must learn of it, if its web server gives a signal."""


TELLS = {
    "nginx": KINDS,
    "nginx, then the relay": KINDS,
    "`--http`": KINDS,
    "lighttpd": (BEATS,),
    "Apache with mod_proxy_fcgi": (BEATS,),
    "Caddy": (BEATS,),
    "h2o": (BEATS,),
    "HAProxy, a connection for each request": (BEATS,),
    "HAProxy, shared connections": (),
}
"""The kinds of requests that learn of a client that has gone, for each of `FRONTS`."""


def has_passed(moment: float) -> bool:
    return time.monotonic() > moment


class Clients:
    """One client for each kind of request, each of which leaves when its request has begun.

    Args:
        port: the web server's port.
        prefix: where the app is.
        folder: a new folder for the reports of the app.

    Attributes:
        closed: the time when the client of each kind left.
    """

    def __init__(self, port: int, prefix: str, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.closed: dict[str, float] = {}
        for kind in KINDS:
            with connect(port) as sock:
                path = f"{prefix}/{kind}?report={folder / kind}"
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                self.wait_for("begun", kind)
                if kind != SILENT:
                    assert sock.recv(65536)
            self.closed[kind] = time.monotonic()

    def wait_for(self, what: str, kind: str) -> None:
        """Wait for a report."""
        wait_until((self._folder / f"{kind}.{what}").exists, f"{kind}.{what}")

    def seconds(self, kind: str) -> float | None:
        """Return how long it took until the app learned of it; None if it has not."""
        path = self._folder / f"{kind}.gone"
        return float(path.read_text()) - self.closed[kind] if path.exists() else None

    def stop(self) -> None:
        """End the requests that have learned nothing."""
        (self._folder / "stop").touch()


@pytest.mark.parametrize("name", FRONTS)
def test_a_client_that_closes_its_connection(
    name: str, behind: ProcessGroup, processes: ProcessGroup, tmp_path: Path
) -> None:
    front = FRONTS[name]
    port = front.start(processes, behind, APP, OPTIONS)
    for prefix in front.prefixes:
        clients = Clients(port, prefix, tmp_path / f"reports{prefix.replace('/', '-')}")
        try:
            for kind in TELLS[name]:
                clients.wait_for("closed", kind)
                seconds = clients.seconds(kind)
                assert seconds is not None
                assert seconds <= LIMIT
            last = max(clients.closed.values())
            wait_until(partial(has_passed, last + LIMIT), "the limit")
            told = [kind for kind in KINDS if clients.seconds(kind) is not None]
            assert told == list(TELLS[name])
        finally:
            clients.stop()
        for kind in KINDS:
            clients.wait_for("closed", kind)


def test_a_stop_that_waits_no_longer(processes: ProcessGroup, tmp_path: Path) -> None:
    """The app has 1.5 seconds to clean up, and then the process exits."""
    server = AppServer(processes, APP, *OPTIONS, "--graceful-timeout", "4")
    with FastCGIClient(str(server.socket)) as client:
        for id, kind in enumerate(KINDS, 1):
            client.ask(id, f"/{kind}?report={tmp_path / kind}")
            wait_until((tmp_path / f"{kind}.begun").exists, f"{kind} to begin")
        assert server.process.stop() == 1
    # Before the process has exited.
    assert all((tmp_path / f"{kind}.closed").exists() for kind in KINDS)
    log = server.process.log()
    assert "connections that still had requests are cut off: 1" in log
    assert "the graceful timeout" not in log
    assert "threads of the app" not in log


def test_the_page_has_a_row_for_each_web_server() -> None:
    page = (DOCS / "howto" / "disconnect.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| .*$", page, re.MULTILINE)
    ]
    table = {row[0]: tuple(row[1:4]) for row in rows if row[0] in FRONTS}
    assert table == {
        name: tuple("yes" if kind in TELLS[name] else "no" for kind in KINDS) for name in FRONTS
    }
