"""Attach what the server has recorded to the report of a live test that fails."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from support.processes import Process, wait_until
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.recording.file import read_recording
from vsgi_fcgi.recording.replay import replay

_WAIT = 2.0
"""Seconds in which a server writes what is open when a test fails."""
_MAX_FILES = 3
_MAX_LINES = 100
"""The last recordings of each server, and the last lines of each, that a report has."""

_servers: list[tuple[Process, Path]] = []


def record(folder: Path) -> list[str]:
    """Return options with which a server records in a folder."""
    # The server may become another user.
    folder.mkdir(exist_ok=True)
    folder.chmod(0o1777)
    return ["--record", str(folder)]


def watch(process: Process, folder: Path) -> None:
    """Attach the recordings of a server to the reports of tests that fail while it runs."""
    _servers[:] = [each for each in _servers if each[0].running]
    _servers.append((process, folder))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the recordings that servers have written since the test began, and write others."""
    report = yield
    if report.failed and call.when == "call":
        for process, folder in _servers:
            text = "\n".join(_recorded(process, folder, call.start))
            if text:
                report.sections.append((f"recordings of process {process.pid}", text))
    return report


def _recorded(process: Process, folder: Path, since: float) -> Iterator[str]:
    def found() -> list[Path]:
        files = sorted(folder.glob("*.recording")) if folder.is_dir() else []
        return [path for path in files if path.stat().st_mtime >= since]

    if process.running:
        # For requests that hang. Those that have failed just now are written meanwhile, too.
        before = len(process.log())
        process.send_signal(signal.SIGUSR2)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: "SIGUSR2: writing" in process.log()[before:], "an answer", _WAIT)
            count = process.log()[before:].count(": recorded in ")
            wait_until(lambda: len(found()) > count, "a recording", _WAIT / 4)
    for path in found()[-_MAX_FILES:]:
        with contextlib.suppress(UsageError):
            about, records = read_recording(str(path))
            yield f"{path}: {'; '.join(about.reasons) or 'open when the test failed'}"
            yield from list(replay(about, records))[-_MAX_LINES:]
