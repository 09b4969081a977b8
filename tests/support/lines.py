"""A log file with a line for each request."""

from __future__ import annotations

from pathlib import Path

from support.server import wait_until


class LogFile:
    """An access log that a server writes.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[str]:
        """The lines so far; each has its end."""
        text = self.path.read_text() if self.path.exists() else ""
        assert not text or text.endswith("\n"), f"half a line: {text[-200:]!r}"
        return text.splitlines()

    def wait_for(self, count: int) -> list[str]:
        """Wait until there are so many lines, and return them."""
        wait_until(
            lambda: len(self.lines()) >= count,
            lambda: f"{self.lines()} are not {count} lines",
        )
        lines = self.lines()
        assert len(lines) == count, lines
        return lines

    def only(self) -> str:
        """Wait for the one line."""
        (line,) = self.wait_for(1)
        return line
