"""``wsgi.errors`` (PEP 3333, "Input and Error Streams")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class ErrorSink(Protocol):
    """Where the text goes."""

    def write_error(self, text: str) -> None:
        """Take some text, whole lines where there are any."""


class ErrorStream:
    """The text stream that an app writes its diagnostics to.

    A line goes on as soon as it is complete, the rest with ``flush()`` and at the request's end.

    Args:
        sink: where it goes on to.
    """

    __slots__ = ("_rest", "_sink")

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, sink: ErrorSink) -> None:
        self._sink = sink
        self._rest = ""

    def write(self, text: str) -> int:
        """Write text.

        Args:
            text: any str; characters that cannot be encoded are escaped later, never refused.

        Returns:
            The number of characters written.

        Raises:
            TypeError: it is no str.
        """
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        whole, newline, rest = text.rpartition("\n")
        if newline:
            self._sink.write_error(self._rest + whole + newline)
            self._rest = rest
        else:
            self._rest += rest
            if len(self._rest) > 8192:
                self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the lines; no line ends are added."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send on what has not been ended by a newline."""
        if self._rest:
            rest, self._rest = self._rest, ""
            self._sink.write_error(rest)

    def isatty(self) -> bool:
        """It is no terminal."""
        return False

    def writable(self) -> bool:
        """It can be written to."""
        return True
