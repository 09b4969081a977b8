"""Processes for tests: each has a log, is ended by its id, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for what comes at once on an idle machine. No test asks how long it took."""

_MARK = "TEST_GROUP_OF_VSGI_FCGI"
"""The environment variable by which all processes of a group are known, orphans too."""


def wait_until(
    condition: Callable[[], T],
    what: str,
    within: float = PATIENCE,
    log: Callable[[], str] | None = None,
) -> T:
    """Ask again and again until the answer is true.

    Args:
        condition: the condition.
        what: a name for the condition, for the error message.
        within: seconds.
        log: returns the log that the error message shows.

    Returns:
        The answer.
    """
    deadline = time.monotonic() + within
    while not (answer := condition()):
        if time.monotonic() > deadline:
            shown = "" if log is None else f": {log()}"
            raise AssertionError(f"{what} did not come within {within:g} s{shown}")
        time.sleep(0.005)
    return answer


def _ports() -> Iterator[int]:
    """Yield ports that no other test of this run gets; parallel workers have parts of their own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = 12000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = 20000 + worker * count
    start = random.randrange(count)  # other runs of the suite may use this machine
    for number in itertools.count(start):
        yield first + number % count


_PORTS = _ports()


def free_port() -> int:
    """Return a free port on loopback, out of the range from which the kernel gives ports."""
    for port in _PORTS:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                return port
    raise AssertionError("the ports never end")


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process are."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def logging_to(file: str | Path) -> str:
    """A logging configuration, in TOML, that writes to a file and to stderr."""
    return f"""\
version = 1
[handlers.file]
class = "logging.FileHandler"
filename = "{file}"
[handlers.stderr]
class = "logging.StreamHandler"
[loggers.vsgi_fcgi]
level = "INFO"
handlers = ["file", "stderr"]
"""


def need_module(name: str) -> None:
    """Skip the test where a module is not installed, without importing it into this process.

    eventlet, for one, would warn at each fork of the tests that follow.
    """
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


class Process:
    """A process whose stdout and stderr go to a log file.

    Args:
        argv: the program and its arguments.
        log: the file.
        cwd: the folder to start it in.
        env: its environment.
        stdin: the socket to be its descriptor 0; /dev/null if None.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str],
        stdin: socket.socket | None = None,
    ) -> None:
        self.log_path = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL if stdin is None else stdin.fileno(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, text: str, within: float = PATIENCE) -> str:
        """Wait until the log holds a text, and return the log."""

        def found() -> bool:
            if text in self.log():
                return True
            assert self.running, f"ended with {self._popen.returncode}: {self.log()}"
            return False

        wait_until(found, f"{text!r} in the log", within, log=self.log)
        return self.log()

    def send_signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self, within: float = PATIENCE) -> int:
        """Wait for its end and return its exit status."""
        try:
            return self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within:g} s: {self.log()}") from None

    def stop(self, number: int = signal.SIGTERM, within: float = PATIENCE) -> int:
        """Send a signal and return the exit status."""
        self.send_signal(number)
        return self.wait(within)


class ProcessGroup:
    """All that a test starts. At its end every process must be gone or go at SIGTERM.

    Args:
        folder: where the logs are.

    Attributes:
        measured: coverage measures its processes, where it measures the tests.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.measured = True
        self._mark = uuid.uuid4().hex
        self._processes: list[Process] = []

    def environ(self, **more: str) -> dict[str, str]:
        """The environment for a process of this group."""
        return {**(os.environ if self.measured else unmeasured()), **self.mark(), **more}

    def mark(self) -> dict[str, str]:
        """The variable by which a process is known as one of this group."""
        return {_MARK: self._mark}

    def start(
        self,
        argv: Sequence[str],
        *,
        name: str | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: socket.socket | None = None,
    ) -> Process:
        """Start a process; its log is ``NAME.log`` in the group's folder."""
        log = self.folder / f"{name or Path(argv[0]).name}.log"
        environ = self.environ(**(env or {}))
        process = Process(argv, log=log, cwd=cwd or self.folder, env=environ, stdin=stdin)
        self._processes.append(process)
        return process

    def pids(self) -> list[int]:
        """The processes of this group that are alive, and those that they have started."""
        return list(self._alive())

    def owns(self, pid: int) -> bool:
        """Whether a process is alive and of this group."""
        with contextlib.suppress(OSError):
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            return f"{_MARK}={self._mark}".encode() in environ.split(b"\0")
        return False

    def _alive(self) -> Iterator[int]:
        for name in os.listdir("/proc"):
            if name.isdigit() and self.owns(int(name)):
                yield int(name)

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End running processes, and check that none is left."""
        problems = []
        # The web servers were started last, and take down what they have spawned.
        for process in reversed(self._processes):
            if process.running:
                try:
                    process.stop()
                except AssertionError as failure:
                    problems.append(str(failure))
                    process.stop(signal.SIGKILL)
        try:
            wait_until(lambda: not self.pids(), "the end of all processes", 5.0)
        except AssertionError as failure:
            problems.append(str(failure))
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert not problems, problems


def unmeasured() -> dict[str, str]:
    """The environment without what makes coverage measure a child process.

    It imports gevent in every process that it measures: no child could show that it has not.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
