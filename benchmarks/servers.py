"""Servers under measurement: started on a UNIX socket, pinned, their CPU time and memory read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class Measured:
    """A server process.

    Args:
        name: the row's name.
        command: what starts it; ``{socket}`` stands for its socket's path.
        cpus: the processors that it may use.
    """

    def __init__(self, name: str, command: Sequence[str], cpus: set[int]) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.socket = str(Path(self._folder.name, "s"))
        log = Path(self._folder.name, "log")
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [part.replace("{socket}", self.socket) for part in command],
                cwd=HERE,
                stdout=output,
                stderr=output,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )
        deadline = time.monotonic() + 20
        while not os.path.exists(self.socket):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start:\n{log.read_text()}")
            time.sleep(0.02)

    def cpu_seconds(self) -> float:
        """CPU time of all its threads, and of its children."""
        return sum(map(cpu_seconds, _tree(self._process.pid)))

    def rss(self) -> int:
        """Resident memory of the process tree, in bytes."""
        pages = 0
        for pid in _tree(self._process.pid):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, from the scheduler's own account."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _tree(int(child))
    return found


def vsgi(name: str, app: str, cpus: set[int], *options: str) -> Measured:
    """Our server with an app of ``hello.py``."""
    command = [sys.executable, "-m", "vsgi_fcgi", f"hello:{app}", "-b", "unix:{socket}"]
    return Measured(name, [*command, "--log-level", "warning", *options], cpus)


def reference(name: str, path: str, mode: str, cpus: set[int]) -> Measured:
    """The bare responder that is the ruler, if its path was given."""
    return Measured(name, [sys.executable, path, mode, "{socket}", "hello:app"], cpus)


def load(
    server: Measured, cpu: int | None, *, spin: bool = False, **options: int
) -> dict[str, Any]:
    """Run the load generator against a server; adds the server's CPU time per request."""
    command = [sys.executable, str(HERE / "load.py"), f"unix:{server.socket}"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    if cpu is not None:
        command += ["--cpu", str(cpu)]
        if spin:
            command.append("--spin")
    before = server.cpu_seconds()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    spent = server.cpu_seconds() - before
    if done.returncode:
        raise SystemExit(f"{server.name}: {done.stderr or done.stdout}")
    result: dict[str, Any] = json.loads(done.stdout)
    result["cpu_us"] = spent / result["requests"] * 1e6
    return result
