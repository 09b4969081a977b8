"""Test ``--reload`` behind web servers: it serves each edit, and loses no request."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest
from support.clients import Clients
from support.front_ends.servers import AppServer, Lighttpd, Nginx
from support.http import Client
from support.processes import ProcessGroup, wait_until
from support.project import Project

# Some requests run for longer than a restart takes.
APP = """\
import time

def app(environ, start_response):
    time.sleep(0.3 if environ["PATH_INFO"] == "/slow" else 0.001)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"version {0}\\n"]
"""


class Readers(Clients):
    """They note what they get.

    Args:
        port: the web server's port.
        paths: what each of them asks for.
    """

    def __init__(self, port: int, *paths: str) -> None:
        super().__init__(port, len(paths))
        self._paths = paths
        self.answers: list[tuple[int, str]] = []
        self.failures: list[str] = []

    def ask(self, client: Client, number: int) -> None:
        try:
            answer = client.request("GET", self._paths[number])
        except (OSError, HTTPException) as error:
            self.failures.append(repr(error))
        else:
            self.answers.append((answer.status, answer.text))

    def has_seen(self, text: str, count: int) -> bool:
        return self.answers.count((200, text)) >= count


def _edit_under_load(project: Project, port: int, prefix: str, log: Callable[[], str]) -> None:
    """Edit again and again while clients ask; each of their requests is to succeed."""
    paths = [f"{prefix}/quick"] * 6 + [f"{prefix}/slow"] * 2
    with Readers(port, *paths) as readers:
        for number in range(1, 5):
            if number > 1:
                project.save("app.py", APP.format(number))
            enough = partial(readers.has_seen, f"version {number}\n", 50)
            wait_until(enough, f"version {number}", 20, log=log)
    assert readers.failures == []
    assert {status for status, _ in readers.answers} == {200}
    # Each answer is of one of the versions, whole, and none of them was skipped.
    assert {text for _, text in readers.answers} == {f"version {n}\n" for n in range(1, 5)}
    assert log().count("app.py changed; restarting the app") == 3
    assert len(readers.answers) >= 200


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.save("app.py", APP.format(1))
    return project


def test_edits_behind_lighttpd_lose_no_request(processes: ProcessGroup, project: Project) -> None:
    lighttpd = Lighttpd(processes, "--reload app", folder=project.folder)
    _edit_under_load(project, lighttpd.port, "", lighttpd.server_log)
    assert lighttpd.process.stop() in (0, 1)
    wait_until(lambda: not processes.pids(), "the end of parent and children", 5)
    assert list(lighttpd.state.iterdir()) == []


@pytest.mark.parametrize("prefix", ["", "/tcp", "/unbuffered"])
def test_edits_behind_nginx_lose_no_request(
    processes: ProcessGroup, project: Project, prefix: str
) -> None:
    server = AppServer(processes, "app", "--reload", folder=project.folder)
    nginx = Nginx(processes, server)
    _edit_under_load(project, nginx.port, prefix, nginx.server_log)
    assert server.process.stop() == 0
    assert not server.socket.exists()


def test_a_mistake_behind_lighttpd_is_a_page(processes: ProcessGroup, project: Project) -> None:
    lighttpd = Lighttpd(processes, "--reload app", folder=project.folder)

    def answer(text: str) -> int:
        with Client(lighttpd.port) as client:
            found = client.request("GET", "/some/path")
        return found.status if text in found.text else 0

    assert answer("version 1") == 200
    project.save("app.py", "import nothing_of_the_kind\n")
    assert wait_until(lambda: answer("No module named"), "the page") == 500
    project.save("app.py", APP.format(2))
    assert wait_until(lambda: answer("version 2"), "the new version") == 200
