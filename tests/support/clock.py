"""A clock that only some processes see, and that a test moves (libfaketime)."""

from __future__ import annotations

from pathlib import Path

import pytest


def find_library() -> Path | None:
    """Where libfaketime for processes with threads is; None if it is not installed."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


class Clock:
    """The time of day of some processes, as an administrator or NTP moves it.

    The monotonic clock goes on as before. Without libfaketime, the test is skipped.

    Args:
        path: the file with the offset.
        delay: seconds after which a process sees that the clock was moved, at most.

    Attributes:
        environ: variables for these processes.
    """

    def __init__(self, path: Path, *, delay: int = 0) -> None:
        library = find_library()
        if library is None:
            pytest.skip("libfaketime is not installed")
        self._path = path
        self.environ = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            **({"FAKETIME_CACHE_DURATION": str(delay)} if delay else {"FAKETIME_NO_CACHE": "1"}),
        }
        self.move(0)

    def move(self, seconds: int) -> None:
        """Let the clock be so many seconds ahead of that of the machine."""
        move_clock(self._path, seconds)


def move_clock(path: Path, seconds: int) -> None:
    """Write the file with the offset, also in a process that sees this clock."""
    new = path.with_suffix(".new")
    new.write_text(f"{seconds:+d}")
    new.rename(path)
