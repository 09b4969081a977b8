"""Test ``examples/afcgi``: many slow requests through nginx and the relay."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest
from support.front_ends.servers import EXAMPLES, find, search_path
from support.http import connect
from support.processes import Process, ProcessGroup, free_port, wait_until

FOLDER = EXAMPLES / "afcgi"


def listens(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return False
    return True


def run(group: ProcessGroup, port: int, **env: str) -> Process:
    find("nginx")
    env |= {"PATH": search_path(group), "PORT": str(port), "STATE": str(group.folder)}
    process = group.start([str(FOLDER / "run.sh")], env=env)
    process.wait_for_log("relay.sock, for ")
    process.wait_for_log("app.sock\n")
    wait_until(lambda: listens(port), "nginx", log=process.log)
    wait_until((group.folder / "app.sock").exists, "the server", log=process.log)
    return process


def ask(port: int, *options: str) -> tuple[int, float, int]:
    """Run the script; returns the requests, the seconds that they took, and the connections."""
    argv = [sys.executable, str(FOLDER / "ask.py"), "--port", str(port), *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(
        r"requests: +(\d+), of .* s each\n"
        r"took: +([\d.]+) s\n"
        r"connections: (\d+), accepted by the server\n",
        done.stdout,
    )
    assert found is not None, done.stdout
    return int(found[1]), float(found[2]), int(found[3])


@pytest.mark.parametrize("connections", [1, 4])
def test_slow_requests_share_few_connections(processes: ProcessGroup, connections: int) -> None:
    port = free_port()
    env = {"WORKERS": "--threads 2", "CONNECTIONS": str(connections)}
    process = run(processes, port, **env)
    requests, seconds, accepted = ask(port, "--requests", "200", "--seconds", "0.3")
    assert requests == 200
    assert accepted == connections
    # With two threads that wait they would take 30 s.
    assert seconds < 5
    assert process.stop(signal.SIGINT) == 0
    wait_until(lambda: not processes.pids(), "the end of all processes")
    assert not list(processes.folder.glob("*.sock"))
    assert process.log().count("INFO stopped") == 2
