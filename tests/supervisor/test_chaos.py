"""Processes are killed, leak, fork and block under load: no other process loses a request."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.processes import ProcessGroup, wait_until
from support.project import Project
from support.supervised import Supervised

pytestmark = pytest.mark.process

APP = """
import ctypes, os

kept = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/leak"):
        kept.append(b"x" * (10 << 20))
    elif path.startswith("/fork"):
        if os.fork() == 0:
            # A daemon, as some libraries start one: its parent ends first.
            if os.fork() or path == "/fork":
                os._exit(0)
            # It returns to the server, which ends it.
        else:
            os.wait()
    elif path == "/block":
        ctypes.CDLL(None).sleep(1000)
    start_response("200 OK", [])
    return [f"{os.getpid()} {path}".encode()]
"""
CLIENTS = 4


class Load:
    """Clients that ask again and again, each on a connection that it keeps.

    They pause for a moment, because processes that start need the CPU too.

    Args:
        server: the server.
        *paths: what they ask for, in turn.
        pause: seconds between two rounds of these requests.

    Attributes:
        answered: the number of requests that were answered.
        pids: the processes that have answered.
        lost: for each connection that ended before an answer, the process that had answered on it;
            0 if none had.
        wrong: answers that are not those of the app.
    """

    def __init__(self, server: Supervised, *paths: str, pause: float = 0.02) -> None:
        self.answered = 0
        self.pids: set[int] = set()
        self.lost: list[int] = []
        self.wrong: list[str] = []
        self._server = server
        self._paths = paths
        self._pause = pause
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for_more(self) -> None:
        """Wait until some more requests were answered."""
        before = self.answered
        wait_until(lambda: self.answered >= before + 20, "more answers", log=self._server.log)

    def _ask(self) -> None:
        while not self._end.is_set():
            pid = 0
            with self._server.connect() as client:
                try:
                    while not self._end.is_set():
                        for path in self._paths:
                            pid = self._take(client, path)
                        self._end.wait(self._pause)
                except (AssertionError, OSError):
                    self.lost.append(pid)

    def _take(self, client: Client, path: str) -> int:
        answer = client.get(path)
        pid, _, found = answer.body.decode().partition(" ")
        if answer.status != 200 or found != path:
            self.wrong.append(f"{path}: {answer.status} {answer.body!r}")
            return 0
        self.pids.add(int(pid))
        self.answered += 1
        return int(pid)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.save("app.py", APP)
    return project


@pytest.fixture
def processes(processes: ProcessGroup) -> ProcessGroup:
    # Coverage makes each start several times slower, and spins at asynchronous exceptions.
    processes.measured = False
    return processes


def zombies(server: Supervised) -> int:
    """How many processes have ended that their parent has not noticed."""
    found = 0
    for parent in (server.process.pid, *server.children()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
                found += _state(child) == "Z"
    return found


def _state(pid: str) -> str:
    """The state of a process; empty if it does not exist any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_processes_that_are_killed_again_and_again(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project)
    server.ready()
    killed: set[int] = set()
    with Load(server, "/quick") as load:
        for number in range(4):
            load.wait_for_more()
            if number % 2:
                server.process.send_signal(signal.SIGSTOP)
            # The older one, which has served for longest.
            victim = min(server.children(), key=_started)
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
            # The other one serves on, also while the supervisor cannot replace this one.
            load.wait_for_more()
            server.process.send_signal(signal.SIGCONT)
            server.ready(3 + number)
    assert set(load.lost) <= killed | {0}
    # Each client has one request at a time.
    assert len(load.lost) <= len(killed) * CLIENTS
    assert load.wrong == []
    assert server.log().count("has ended unexpectedly (SIGKILL)") == len(killed) == 4
    assert len(server.children()) == 2
    assert server.process.stop() == 0


def _started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_an_app_that_leaks_under_load(processes: ProcessGroup, project: Project) -> None:
    server = Supervised(processes, project, "2", "--max-memory", "120M")
    server.ready()
    with Load(server, "/leak") as load:
        wait_until(lambda: len(load.pids) >= 4, "four processes", 20, log=server.log)
    assert (load.lost, load.wrong) == ([], [])
    assert server.process.stop() == 0


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_an_app_that_forks_under_load(
    processes: ProcessGroup, project: Project, options: tuple[str, ...]
) -> None:
    server = Supervised(processes, project, "2", *options)
    server.ready()
    before = server.children()
    with Load(server, "/fork", "/fork/server", pause=0.1) as load:
        load.wait_for_more()
        server.reload()
        load.wait_for_more()
    assert (load.lost, load.wrong) == ([], [])
    wait_until(lambda: not set(before) & set(server.children()), "the end of the old processes")
    wait_until(lambda: zombies(server) == 0, "the end of all children")
    assert "unexpectedly" not in server.log()
    assert server.process.stop() == 0


def test_an_app_that_blocks_in_c(processes: ProcessGroup, project: Project) -> None:
    limits = ["--threads", "2", "--request-timeout", "0.5", "--graceful-timeout", "1"]
    server = Supervised(processes, project, "2", *limits)
    server.ready()
    blocked = set()
    with Load(server, "/quick") as load:
        for _ in range(2):
            with server.connect() as client:
                pid = int(client.get("/quick").body.split()[0])
                blocked.add(pid)
                assert client.get("/block").status == 504
            server.process.wait_for_log(f"process {pid} is replaced: ")
            load.wait_for_more()
        # A thread in C cannot be ended, so its process is.
        wait_until(lambda: not blocked & set(server.children()), "their end", log=server.log)
        load.wait_for_more()
    assert (load.lost, load.wrong) == ([], [])
    assert len(server.children()) == 2
    assert server.process.stop() == 0
