"""Processes share the connections that a web server opens at a time."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from support.processes import ProcessGroup, wait_until
from support.project import Project
from support.supervised import Supervised, pids_app

from vsgi_fcgi.listen.sharing import SLOTS, Sharing, make_table

pytestmark = pytest.mark.process


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.save("app.py", pids_app())
    return project


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_each_process_gets_its_share(
    processes: ProcessGroup, project: Project, options: tuple[str, ...]
) -> None:
    server = Supervised(processes, project, "2", *options)
    server.ready()
    clients = []
    counts: Counter[bytes] = Counter()

    def shared() -> bool:
        clients.append(server.connect())
        counts[clients[-1].get().body] += 1
        return len(counts) == 2 and max(counts.values()) <= 2 * min(counts.values()) >= 10

    # If one process gets no CPU time for a while, the other one takes more.
    wait_until(shared, f"equal shares: {counts}")
    for client in clients:
        client.close()
    assert server.process.stop() == 0


def test_a_process_that_is_stuck_keeps_no_connection_from_the_others(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project)
    server.ready()
    stuck, other = server.children()
    os.kill(stuck, signal.SIGSTOP)
    clients = [server.connect() for _ in range(10)]
    for client in clients:
        assert client.get().body.startswith(b"(%d," % other)
    os.kill(stuck, signal.SIGCONT)
    for client in clients:
        client.close()
    assert server.process.stop() == 0


def test_the_slot_of_a_process_that_has_ended_is_free(
    processes: ProcessGroup, project: Project
) -> None:
    """Otherwise the others would leave connections to it for ever."""
    server = Supervised(processes, project)
    server.ready()
    os.kill(server.children()[0], signal.SIGKILL)
    server.ready(3)
    server.wait_for_answers(lambda found: len(found) == 2)
    wait_until(lambda: len(server.children()) == 2, "both processes")


def test_a_table() -> None:
    fd = make_table()
    first, second, none = (Sharing(os.dup(fd), slot) for slot in (0, SLOTS - 1, -1))
    os.close(fd)
    assert not first.fewer()
    first.set(3)
    second.set(2)
    none.set(0)
    assert first.fewer()
    assert not second.fewer()
    assert not none.fewer()
    second.free()
    assert not first.fewer()
    second.set(0)
    assert not first.fewer()
    none.free(0)
    second.slot = 1
    second.set(5)
    assert not second.fewer()
