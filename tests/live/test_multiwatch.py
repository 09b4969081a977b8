"""Test multiwatch, which keeps several processes on one socket: ``examples/multiwatch.sh``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from support.fcgi.peer import Client
from support.front_ends.servers import APPS, EXAMPLES, find, search_path
from support.gates import Gate
from support.processes import Process, ProcessGroup, wait_until

APP = f"--chdir {APPS} --threads 1 apps.routes:app"


def start(group: ProcessGroup, *, app: str = APP, procs: int = 3) -> Process:
    for program in ("spawn-fcgi", "multiwatch"):
        find(program)
    argv = [str(EXAMPLES / "multiwatch.sh"), "-n", "-s", str(group.folder / "app.sock")]
    env = {"PATH": search_path(group), "APP": app, "PROCS": str(procs)}
    return group.start(argv, name="multiwatch", env=env)


def wait_for_servers(group: ProcessGroup, watch: Process, count: int) -> set[int]:
    """Wait until so many processes have begun to listen, dead ones too; the live ones' ids."""
    sign = "INFO listening on fcgi+fd://0/"
    wait_until(lambda: watch.log().count(sign) == count, f"{count} processes", log=watch.log)
    return set(group.pids()) - {watch.pid}


def ask(group: ProcessGroup) -> int:
    with Client(str(group.folder / "app.sock")) as client:
        return client.get("/echo").status


def test_each_process_serves_and_is_started_again(processes: ProcessGroup) -> None:
    watch = start(processes)
    first = wait_for_servers(processes, watch, 3)
    assert len(first) == 3
    for pid in first:
        # The others cannot: it is this one that answers.
        for other in first - {pid}:
            os.kill(other, signal.SIGSTOP)
        assert ask(processes) == 200
        for other in first - {pid}:
            os.kill(other, signal.SIGCONT)
    killed = first.pop()
    os.kill(killed, signal.SIGKILL)
    assert ask(processes) == 200
    second = wait_for_servers(processes, watch, 4)
    assert len(second) == 3
    assert second > first
    for pid in first:
        os.kill(pid, signal.SIGSTOP)
    # The new one.
    assert ask(processes) == 200
    for pid in first:
        os.kill(pid, signal.SIGCONT)
    assert watch.stop() == 0
    assert processes.pids() == []


def test_a_request_that_runs_ends_well(processes: ProcessGroup) -> None:
    watch = start(processes, procs=2)
    wait_for_servers(processes, watch, 2)
    with Gate(processes.folder) as gate, Client(str(processes.folder / "app.sock")) as client:
        client.ask(1, gate.url)
        gate.wait_for_app()
        watch.send_signal(signal.SIGTERM)
        wait_until(lambda: watch.log().count("INFO stopped") == 1, "the end of the idle one")
        assert watch.running
        gate.open()
        assert client.answer(1).body == b"before\nafter\n"
    assert watch.wait() == 0
    assert watch.log().count("stopping") == watch.log().count("INFO stopped") == 2
    assert processes.pids() == []


def test_a_stop_during_the_import_is_no_failure(processes: ProcessGroup) -> None:
    (processes.folder / "slow.py").write_text("open('gate').read()\napp = print\n")
    watch = start(processes, app=f"--chdir {processes.folder} slow", procs=1)
    with Gate(processes.folder) as gate:
        gate.wait_for_app()
        assert watch.stop() == 0
    assert "SIGUSR1: stopped before the server ran" in watch.log()
    assert processes.pids() == []


def test_an_app_that_cannot_be_loaded_is_given_up(processes: ProcessGroup) -> None:
    watch = start(processes, app=f"--chdir {APPS} apps.nothing:app", procs=1)
    # It takes no failure for one.
    assert watch.wait() == 0
    assert watch.log().count("there is no module apps.nothing") == 4
    assert "not forking again" in watch.log()
    assert Path(processes.folder / "app.sock").exists()
