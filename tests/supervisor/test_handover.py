"""A reload closes no connection: those that are kept move to the new processes."""

from __future__ import annotations

import os
import resource
import signal
from functools import partial
from pathlib import Path

import pytest
from support.fcgi import records
from support.fcgi.peer import Client, whole_request
from support.gates import Gate
from support.processes import ProcessGroup, wait_until
from support.project import Project
from support.supervised import Supervised

pytestmark = pytest.mark.process

# Answers the process id and the length of the body; waits at a FIFO if the path says so.
APP = """
import os
from pathlib import Path

def app(environ, start_response):
    length = len(environ["wsgi.input"].read())
    if environ["PATH_INFO"] == "/gate":
        Path(environ["QUERY_STRING"][3:].replace("%2F", "/")).read_bytes()
    start_response("200 OK", [])
    return [repr((os.getpid(), length)).encode()]
"""
VALUES = records.record(
    records.GET_VALUES, 0, records.pairs({"FCGI_MPXS_CONNS": ""}), padding=b"12345"
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.save("app.py", APP)
    return project


@pytest.fixture
def server(processes: ProcessGroup, project: Project) -> Supervised:
    server = Supervised(processes, project, "2")
    server.ready()
    return server


@pytest.fixture
def single(processes: ProcessGroup, project: Project) -> Supervised:
    """A server with one process."""
    server = Supervised(processes, project, "1")
    server.ready(1)
    return server


def pid(client: Client, id: int = 1) -> int:
    """The process that has answered."""
    return int(client.answer(id).body[1:].partition(b",")[0])


def _have_ended(server: Supervised, pids: set[int]) -> bool:
    return not pids & set(server.children())


def test_kept_connections_move_at_a_reload(server: Supervised) -> None:
    clients = [server.connect() for _ in range(10)]
    silent = server.connect()
    before = set(server.children())
    for client in clients:
        client.ask(1, "/")
        assert pid(client) in before
    server.reload()
    wait_until(lambda: not before & set(server.children()), "the end of the old processes")
    answered = set()
    for client in [*clients, silent]:
        client.ask(1, "/")
        answered.add(pid(client))
        client.close()
    # They are spread over the new processes.
    assert answered == set(server.children())
    assert server.process.stop() == 0


def test_a_connection_moves_again_and_again(single: Supervised) -> None:
    with single.connect() as client:
        for _ in range(3):
            before = set(single.children())
            single.reload()
            wait_until(partial(_have_ended, single, before), "the end of the old processes")
            client.ask(1, "/")
            assert pid(client) in single.children()


def test_the_start_of_a_record_moves_with_its_connection(server: Supervised) -> None:
    request = whole_request(1, "/")
    before = set(server.children())
    clients = {cut: server.connect() for cut in (1, 7, 8, 11)}
    for cut, client in clients.items():
        client.ask(1, "/")
        assert pid(client) in before
        client.send(request[:cut])
    server.reload()
    # Of both: a connection may move to the other old process first.
    wait_until(partial(_have_ended, server, before), "the end of the old", log=server.log)
    for cut, client in clients.items():
        client.send(request[cut:])
        assert pid(client) in server.children(), cut
        client.close()


def test_a_request_of_which_a_part_has_come_is_read_where_it_began(single: Supervised) -> None:
    request = whole_request(1, "/", b"x" * 100)
    clients = {part: single.connect() for part in (20, 40, -30, -4)}
    old = {}
    for part, client in clients.items():
        client.ask(1, "/")
        old[part] = pid(client)
        client.send(request[:part])
        # Later than the bytes before: one process reads from one connection in order.
        with single.connect() as other:
            other.get("/")
    single.reload()
    for part, client in clients.items():
        client.send(request[part:])
        assert client.answer(1).body == repr((old[part], 100)).encode(), part

    def moved(part: int) -> bool:
        clients[part].ask(2, "/")
        return pid(clients[part], 2) != old[part]

    for part, client in clients.items():
        wait_until(partial(moved, part), f"another process for {part}")
        client.close()


def test_a_busy_multiplexed_connection_moves_when_what_runs_has_ended(
    processes: ProcessGroup, single: Supervised
) -> None:
    with Gate(processes.folder) as gate, single.connect() as client:
        client.send(VALUES)
        client.collect_until(lambda: bool(client.management))
        client.ask(1, gate.url)
        gate.wait_for_app()
        client.ask(2, "/")
        old = pid(client, 2)
        single.reload()
        # All but the first few are for the next process, also while the first one still runs.
        for id in range(3, 40):
            client.ask(id, "/", b"x" * id)
        gate.open()
        assert pid(client, 1) == old
        answered = [pid(client, id) for id in range(3, 40)]
        # On a busy machine, the old process may learn later than this that it retires.
        while answered[-1] == old:
            client.ask(1, "/")
            answered.append(pid(client, 1))
        # From then on, none is for the old one.
        assert len(set(answered)) <= 2
        assert old not in answered[answered.count(old) :]
        client.management.clear()
        client.send(VALUES)
        client.collect_until(lambda: bool(client.management))
    wait_until(lambda: old not in single.children(), "the end of the old process")
    assert single.process.stop() == 0


def test_connections_of_a_process_that_gets_a_signal_move(server: Supervised) -> None:
    with server.connect() as client:
        client.ask(1, "/")
        old = pid(client)
        os.kill(old, signal.SIGTERM)
        wait_until(lambda: old not in server.children(), "its end")
        client.ask(1, "/")
        assert pid(client) in server.children()


def test_a_request_that_takes_longer_than_the_grace(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project, "1", "--graceful-timeout", "0.5")
    server.ready(1)
    with Gate(processes.folder) as gate, server.connect() as client, server.connect() as other:
        other.get("/")
        client.ask(1, gate.url)
        gate.wait_for_app()
        server.reload()
        client.read_to_end()
        assert other.get("/").status == 200
    server.process.wait_for_log("connections that still had requests are cut off: 1")


def test_connections_close_when_the_supervisor_has_gone(
    processes: ProcessGroup, single: Supervised
) -> None:
    with Gate(processes.folder) as gate, single.connect() as client, single.connect() as other:
        other.get("/")
        client.ask(1, gate.url)
        gate.wait_for_app()
        single.process.stop(signal.SIGKILL)
        other.read_to_end()
        gate.open()
        assert client.answer(1).status == 200
        client.read_to_end()
    wait_until(lambda: processes.pids() == [], "the end of the processes")


def test_a_stop_while_processes_retire(processes: ProcessGroup, single: Supervised) -> None:
    with Gate(processes.folder) as gate, single.connect() as client:
        client.send(VALUES)
        client.ask(1, gate.url)
        gate.wait_for_app()
        single.reload()
        single.process.send_signal(signal.SIGTERM)
        single.process.wait_for_log("SIGTERM: stopping")
        gate.open()
        assert client.answer(1).status == 200
        client.read_to_end()
    assert single.process.wait() == 0


def test_many_connections_move(single: Supervised) -> None:
    """More than fit into the supervisor at a time."""
    clients = [single.connect() for _ in range(400)]
    for client in clients:
        client.ask(1, "/")
    before = set(single.children())
    for client in clients:
        pid(client)
    single.reload()
    wait_until(lambda: not before & set(single.children()), "the end of the old processes", 20)
    for client in clients:
        client.ask(1, "/")
    for client in clients:
        assert pid(client) in single.children()
        client.close()


def test_a_process_that_can_open_no_more_files_serves_on(
    processes: ProcessGroup, project: Project
) -> None:
    """It gets a connection without its descriptor."""
    server = Supervised(processes, project, "2", "--graceful-timeout", "5")
    server.ready()
    old, other = server.children()
    clients = [server.connect() for _ in range(10)]
    for client in clients:
        client.ask(1, "/")
    at_old = [client for client in clients if pid(client) == old]
    assert at_old
    used = len(os.listdir(f"/proc/{other}/fd"))
    limits = resource.prlimit(other, resource.RLIMIT_NOFILE)
    resource.prlimit(other, resource.RLIMIT_NOFILE, (used, limits[1]))
    os.kill(old, signal.SIGTERM)
    server.process.wait_for_log("a connection was lost: ")
    resource.prlimit(other, resource.RLIMIT_NOFILE, limits)
    wait_until(partial(_have_ended, server, {old}), "the end of the old process")
    assert other in server.children()
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.close()
    assert server.process.wait() == 0
    assert "does not stop" not in server.log()
