"""Test signals during the import of the app: the process leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.front_ends.servers import command
from support.gates import Gate
from support.processes import Process, ProcessGroup, wait_until

APP = """
import pathlib
gate = pathlib.Path("gate")
{wait}
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
"""

WAIT = "gate.read_bytes()"

CATCH = f"""
try:
    {WAIT}
except BaseException:
    pass
"""

IN_ANOTHER_THREAD = f"""
import signal, threading
def take_signal():
    pathlib.Path("trigger").read_bytes()
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
threading.Thread(target=take_signal, daemon=True).start()
{CATCH}
"""

STUCK = f"""{CATCH}
import hashlib
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
"""Catches what the first signal raises, and is then in C code for many minutes."""


@pytest.fixture
def gate(processes: ProcessGroup) -> Iterator[Gate]:
    with Gate(processes.folder) as gate:
        yield gate


def start(processes: ProcessGroup, *options: str, wait: str = WAIT) -> Process:
    (processes.folder / "slow.py").write_text(APP.format(wait=wait))
    argv = [str(command(processes)), "--socket", "app.sock", "--pid-file", "app.pid", *options]
    return processes.start([*argv, "slow"], name="server")


def left(folder: Path) -> list[str]:
    return [name for name in ("app.sock", "app.pid") if (folder / name).exists()]


@pytest.mark.parametrize("options", [(), ("--reload",)], ids=["", "reload"])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)]
)
def test_a_signal_during_the_import_leaves_nothing_behind(
    processes: ProcessGroup, gate: Gate, number: signal.Signals, status: int, options: list[str]
) -> None:
    process = start(processes, *options)
    gate.wait_for_app()
    assert left(processes.folder) == ["app.sock", "app.pid"]
    assert process.stop(number) == (0 if options else status)
    assert left(processes.folder) == []
    # It is SIGTERM that the parent of --reload sends to the app's process.
    said = f"{'SIGTERM' if options else number.name}: stopped before the server ran"
    # Who has pressed Ctrl-C knows.
    assert (said in process.log()) == (bool(options) or number != signal.SIGINT)


def test_a_connection_that_waited_is_not_forgotten(processes: ProcessGroup, gate: Gate) -> None:
    process = start(processes)
    gate.wait_for_app()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(processes.folder / "app.sock"))
        assert process.stop() == 1
        assert client.recv(1) == b""
    assert "waiting connections that were closed without a response: 1" in process.log()


def test_an_app_that_catches_everything_is_stopped_after_its_import(
    processes: ProcessGroup, gate: Gate
) -> None:
    process = start(processes, wait=CATCH)
    gate.wait_for_app()
    assert process.stop() == 0
    assert left(processes.folder) == []
    assert "SIGTERM: stopping" in process.log()


def test_a_signal_that_interrupts_no_system_call_is_sent_again(
    processes: ProcessGroup, gate: Gate
) -> None:
    trigger = processes.folder / "trigger"
    os.mkfifo(trigger)
    process = start(processes, wait=IN_ANOTHER_THREAD)
    gate.wait_for_app()
    trigger.write_bytes(b"now")
    assert process.wait() == 0
    assert "SIGTERM: stopping" in process.log()


@pytest.mark.parametrize("again", [False, True])
def test_an_import_that_runs_no_handler_is_ended(
    processes: ProcessGroup, gate: Gate, again: bool
) -> None:
    grace = "60" if again else "0.5"
    process = start(processes, "--graceful-timeout", grace, wait=STUCK)
    gate.wait_for_app()
    process.send_signal(signal.SIGTERM)

    def ended() -> bool:
        if again:
            process.send_signal(signal.SIGTERM)
        return not process.running

    wait_until(ended, "the end")
    assert process.wait() == 1
    assert left(processes.folder) == []


def test_sigusr1_during_the_import_stops_nothing(processes: ProcessGroup, gate: Gate) -> None:
    process = start(processes)
    gate.wait_for_app()
    process.send_signal(signal.SIGUSR1)
    gate.open()
    process.wait_for_log("listening on")
    with Client(str(processes.folder / "app.sock")) as client:
        assert client.get("/").body == b"served"
    assert process.stop() == 0


def test_a_child_that_the_import_forks_has_its_signals_back(
    processes: ProcessGroup, gate: Gate
) -> None:
    fork = "import os, signal\npid = os.fork()\nif not pid:\n    signal.pause()\n"
    told = "pathlib.Path('child').write_text(str(pid))"
    process = start(processes, wait=f"{fork}{told}\n{WAIT}")
    gate.wait_for_app()
    child = int((processes.folder / "child").read_text())
    os.kill(child, signal.SIGTERM)
    wait_until(lambda: Path(f"/proc/{child}/stat").read_text().split()[2] == "Z", "its end")
    assert left(processes.folder) == ["app.sock", "app.pid"]
    assert process.stop() == 0
