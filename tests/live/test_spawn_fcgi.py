"""Test spawn-fcgi, which opens the socket on descriptor 0: ``examples/spawn-fcgi.sh``."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from support.fcgi.peer import Client
from support.front_ends.servers import APPS, EXAMPLES, find, search_path
from support.processes import Process, ProcessGroup, free_port, wait_until

SCRIPT = str(EXAMPLES / "spawn-fcgi.sh")


def spawn(group: ProcessGroup, *options: str, app: str | None = None) -> Process:
    find("spawn-fcgi")
    env = {"PATH": search_path(group)}
    if app is not None:
        env["APP"] = app
    return group.start([SCRIPT, *options], env=env)


def ask(address: str | tuple[str, int]) -> str:
    with Client(address) as client:
        return client.get("/path").body.decode()


def test_a_unix_socket_in_the_foreground(processes: ProcessGroup) -> None:
    path = str(processes.folder / "app.sock")
    process = spawn(processes, "-n", "-s", path)
    process.wait_for_log("listening on fcgi+fd://0/")
    assert "You asked for: GET /path\n" in ask(path)
    assert process.stop() == 0
    assert process.log().rstrip().endswith("INFO stopped")
    # It is spawn-fcgi's socket, and not ours to remove.
    assert Path(path).exists()


def test_tcp_in_the_background(processes: ProcessGroup) -> None:
    port, pids = free_port(), processes.folder / "pids"
    process = spawn(processes, "-a", "127.0.0.1", "-p", str(port), "-P", str(pids))
    assert process.wait() == 0
    assert "You asked for: GET /path\n" in ask(("127.0.0.1", port))
    assert processes.pids() == [int(pids.read_text())]
    os.kill(int(pids.read_text()), signal.SIGTERM)
    wait_until(lambda: not processes.pids(), "the server's end")


def test_two_processes_share_a_socket(processes: ProcessGroup) -> None:
    path, pids = str(processes.folder / "app.sock"), processes.folder / "pids"
    app = f"--chdir {APPS} --threads 2 apps.routes:app"
    process = spawn(processes, "-s", path, "-F", "2", "-P", str(pids), app=app)
    assert process.wait() == 0
    first, second = (int(pid) for pid in pids.read_text().split())
    assert sorted(processes.pids()) == sorted([first, second])

    def asked() -> bool:
        with Client(path) as client:
            return client.get("/echo").status == 200

    assert all(asked() for _ in range(20))
    # One stops and leaves the socket to the other, which goes on alone.
    os.kill(first, signal.SIGTERM)
    wait_until(lambda: processes.pids() == [second], "the end of one process")
    assert all(asked() for _ in range(20))
    os.kill(second, signal.SIGTERM)
    wait_until(lambda: not processes.pids(), "the end of the other")


def test_a_connection_that_waits_is_left_to_the_next_process(processes: ProcessGroup) -> None:
    """The socket outlives the server: what it has not accepted is not lost."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        argv = [str(search_path(processes).split(":")[0]) + "/vsgi-fcgi", "--chdir", str(EXAMPLES)]
        first = processes.start([*argv, "hello:app"], name="first", stdin=listener)
        first.wait_for_log("listening on")
        assert first.stop() == 0
        with Client(address) as waiting:
            waiting.ask(1, "/path")
            second = processes.start([*argv, "hello:app"], name="second", stdin=listener)
            assert b"You asked for: GET /path\n" in waiting.answer(1).body
        assert second.stop() == 0
