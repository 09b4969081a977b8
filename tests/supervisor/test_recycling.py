"""Processes that are replaced after many requests or at much memory, or end when they are idle."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.front_ends.servers import command
from support.processes import ProcessGroup, wait_until
from support.project import Project, Reloading
from support.supervised import Supervised, pids_app
from support.systemd import activate

from vsgi_fcgi.supervisor.process import AppProcess
from vsgi_fcgi.supervisor.supervisor import Supervisor

pytestmark = pytest.mark.process

# Keeps 10 MiB more with each request.
LEAKS = "import os\nkept = []\n" + pids_app("kept.append(os.urandom(10 << 20))")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.save("app.py", pids_app())
    return project


def pid(client: Client) -> int:
    return int(client.get().body[1:].partition(b",")[0])


def test_a_process_is_replaced_after_many_requests(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project, "2", "--max-requests", "20")
    server.ready()
    with server.connect() as client:
        first = pid(client)
        # Over one connection, which stays open.
        wait_until(lambda: pid(client) != first, "another process", log=server.log)
    found = re.search(r"is replaced: its number of requests is (\d+)", server.log())
    assert found is not None
    assert 20 <= int(found[1]) <= 22
    assert server.process.stop() == 0


def test_an_app_that_leaks(processes: ProcessGroup, project: Project) -> None:
    project.save("app.py", LEAKS)
    server = Supervised(processes, project, "1", "--max-memory", "150M")
    server.ready(1)
    with server.connect() as client:
        first = pid(client)
        for _ in range(20):
            client.get()
        wait_until(lambda: pid(client) != first, "another process", 20, log=server.log)
    assert re.search(r"is replaced: its memory of \d+ MiB exceeds 150 MiB", server.log())
    assert server.process.stop() == 0


def test_a_process_that_is_replaced_young_again_and_again(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project, "1", "--max-memory", "1M")
    server.process.wait_for_log("WARNING process ")
    assert server.get().status == 200
    assert server.process.stop() == 0
    assert re.search(r"WARNING process \d+ is replaced: its memory .* \(after", server.log())


@pytest.mark.parametrize(("age", "pauses"), [(0, True), (100, False)])
def test_the_pauses_between_such_processes(age: float, pauses: bool) -> None:
    receiving, sending = socket.socketpair()
    with (
        receiving,
        sending,
        contextlib.closing(Supervisor([], receiving, count=1, grace=1, folder=None)) as supervisor,
    ):
        for _ in range(3):
            process = AppProcess(0, -1)
            process.start(["true"], None, {}, ())
            os.waitpid(process.pid, 0)
            process.ended(0)
            process.served = time.monotonic() - age
            supervisor.asked_to_leave(process, "its memory")
            process.close()
        # It has to wake up for the next start.
        assert (supervisor.select_timeout() is not None) == pauses


def test_without_a_supervisor_the_process_stops(processes: ProcessGroup, project: Project) -> None:
    server = Reloading(processes, project, "--max-requests", "5", reload=False)
    for _ in range(5):
        assert server.get().status == 200
    assert server.process.wait() == 0
    assert "stopping: its number of requests is 5" in server.log()
    assert not server.socket.exists()


@pytest.mark.parametrize("options", [(), ("--processes", "2")])
def test_a_server_that_has_nothing_to_do_ends(
    processes: ProcessGroup, project: Project, options: tuple[str, ...]
) -> None:
    server = Reloading(processes, project, "--idle-exit", "0.5", *options, reload=False)
    with server.connect() as client:
        # A connection that is kept does not count.
        assert client.get().status == 200
        assert server.process.wait() == 0
        client.read_to_end()
    assert "stopping: " in server.log()
    assert processes.pids() == []


def test_a_request_that_runs_keeps_the_server(processes: ProcessGroup, project: Project) -> None:
    text = "environ['PATH_INFO'] == '/slow' and __import__('time').sleep(0.9)"
    project.save("app.py", pids_app(text))
    server = Reloading(processes, project, "--idle-exit", "0.3", reload=False)
    with server.connect() as client:
        assert client.get("/slow").status == 200
    assert server.process.wait() == 0


def test_a_socket_of_systemd_stays(processes: ProcessGroup, project: Project) -> None:
    path = f"{processes.folder}/app.sock"
    argv = [str(command(processes)), "--chdir", str(project.folder), "--idle-exit", "0.3", "app"]
    server = activate(processes, argv, path)
    with Client(path) as client:
        assert client.get().status == 200
    assert server.wait() == 0
    assert Path(path).exists()
