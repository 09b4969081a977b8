"""Start the measured servers on a UNIX socket, pin them, and read their CPU time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class Measured:
    """A server process.

    Args:
        name: the row's name.
        command: the command line; ``{socket}`` is replaced by the path of its socket.
        cpus: the processors that it may use.
        env: its environment variables, by default those of this process.
        wait: return only when the socket exists; otherwise call `wait_until_ready` later.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        cpus: set[int],
        *,
        env: dict[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.socket = str(Path(self._folder.name, "s"))
        self._log = Path(self._folder.name, "log")
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [part.replace("{socket}", self.socket) for part in command],
                cwd=HERE,
                env=env,
                stdout=output,
                stderr=output,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self, seconds: float = 20) -> None:
        """Wait until the server has created its socket.

        Raises:
            SystemExit: if the server exited, or was not ready in time.
        """
        deadline = time.monotonic() + seconds
        while not os.path.exists(self.socket):
            if self.exited or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} did not start:\n{self.log()}")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    @property
    def exited(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def log(self) -> str:
        """Return what the process has written."""
        return self._log.read_text(errors="replace")

    def pin(self, cpus: set[int]) -> None:
        """Move all threads of the process tree to these processors."""
        for pid in _tree(self.pid):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(ProcessLookupError):  # The thread has ended.
                    os.sched_setaffinity(int(task.name), cpus)

    def cpu_seconds(self) -> float:
        """Return the CPU time of its threads and of its children."""
        return tree_cpu_seconds(self.pid)

    def rss(self) -> int:
        """Return the resident memory of the process tree, in bytes."""
        pages = 0
        for pid in _tree(self._process.pid):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """Stop the server."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, with threads that have ended, in nanosecond resolution."""
    # The number of a process's CPU clock, as the C library's clock_getcpuclockid makes it.
    return time.clock_gettime(~pid << 3 | 2)


def tree_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of its children."""
    return sum(map(cpu_seconds, _tree(pid)))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # The thread has ended.
            for child in (task / "children").read_text().split():
                found += _tree(int(child))
    return found


def vsgi(name: str, app: str, cpus: set[int], *options: str) -> Measured:
    """Start vsgi_fcgi with an app of ``hello.py``."""
    command = [sys.executable, "-m", "vsgi_fcgi", f"hello:{app}", "-b", "unix:{socket}"]
    return Measured(name, [*command, "--log-level", "warning", *options], cpus)


def reference(name: str, path: str, mode: str, cpus: set[int]) -> Measured:
    """Start the minimal responder for comparison, if its path was given."""
    return Measured(name, [sys.executable, path, mode, "{socket}", "hello:app"], cpus)


def load(
    server: Measured, cpu: int | None, *, spin: bool = False, **options: int
) -> dict[str, Any]:
    """Run the load generator against a server, and add the server's CPU time per request."""
    command = [sys.executable, str(HERE / "load.py"), f"unix:{server.socket}"]
    command += ["--pid", str(server.pid)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    if cpu is not None:
        command += ["--cpu", str(cpu)]
        if spin:
            command.append("--spin")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{server.name}: {done.stderr or done.stdout}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
