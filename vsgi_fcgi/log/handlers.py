"""Formats and handlers of the server log, which `logging` is set up with."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import select
import socket
from datetime import datetime
from typing import Any, Final

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.settings import nearest

# Control characters from clients must not reach a terminal, where they could move the cursor.

_ESCAPES: Final = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"
} | {code: f"\\u{code:04x}" for code in (0x2028, 0x2029)}
"""Escapes for control characters of ASCII and latin-1 and for the Unicode line separators.

On many terminals, 0x9b alone begins an escape sequence. Some programs end a line at U+2028.
"""


def escape_controls(text: str) -> str:
    """Escape control characters as Python does, except tabs and newlines."""
    return text if text.isprintable() else text.translate(_ESCAPES)


TEXT = "%(asctime)s %(process)d %(levelname)s %(message)s"
"""Format string of ``--log-format text``."""

_ATTRIBUTES = {**vars(logging.makeLogRecord({})), "message": "", "asctime": ""}
"""Attributes that every record has and that a format string can name."""


class TextFormatter(logging.Formatter):
    """Formatter with times in ISO 8601 format, with milliseconds and the offset from UTC.

    Control characters are escaped. The second and later lines of a record begin with a tab, so
    that no text in a record looks like another record.

    Args:
        format: the format string.
        whole: True if the receiver keeps records apart, so that the tabs are not needed.
    """

    def __init__(self, format: str, *, whole: bool = False) -> None:
        super().__init__(format)
        self._newline = "\n" if whole else "\n\t"

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record, without the last newline."""
        return escape_controls(super().format(record)).replace("\n", self._newline)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the time of a record; ``datefmt`` is ignored."""
        return _time(record)


class JsonFormatter(logging.Formatter):
    """Formatter that writes each record as a JSON object on one line.

    The line is ASCII. It can be written in every encoding, and none of its characters can be
    mistaken for the end of a line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, without the newline."""
        found: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            "thread": record.threadName,
        }
        if record.exc_info and not record.exc_text:
            # Cache the text in the record for other formatters, as the `logging` formatters do.
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            found["exception"] = record.exc_text
        if record.stack_info:
            found["stack"] = self.formatStack(record.stack_info)
        extra = {
            name: _plain(value) for name, value in vars(record).items() if name not in _ATTRIBUTES
        }
        if extra:
            found["extra"] = extra
        # JSON does not require DEL to be escaped, but DEL is a control character.
        return json.dumps(found).replace("\x7f", "\\u007f")


def make_formatter(text: str, *, plain: str = TEXT, whole: bool = False) -> logging.Formatter:
    """Return the formatter for a value of ``--log-format``.

    Args:
        text: ``text``, ``json``, or a format string.
        plain: the format string that ``text`` stands for.
        whole: True if the receiver keeps records apart; see `TextFormatter`.

    Raises:
        UsageError: the value is not a usable format.
    """
    if text == "json":
        return JsonFormatter()
    if text == "text":
        return TextFormatter(plain, whole=whole)
    _check(text)
    return TextFormatter(text, whole=whole)


def _check(text: str) -> None:
    what = f"--log-format {text!r}"
    if "%(" not in text:
        advice = nearest(text, ("json", "text")) or "; use text, json or, for example, %(message)s"
        raise UsageError(f"{what}: no attribute of a record is named{advice}")
    # A conversion without a name, such as %s, would print the whole dictionary of attributes.
    if re.search(r"%[^%(]", text.replace("%%", "")):
        raise UsageError(f"{what}: a % is not followed by (name); write %% for a literal %")
    try:
        text % _ATTRIBUTES
    except KeyError as error:
        name = str(error.args[0])
        advice = nearest(name, _ATTRIBUTES) or "; see LogRecord attributes in Python's manual"
        raise UsageError(f"{what}: a record has no attribute {name}{advice}") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what}: the format cannot be used: {error}") from None


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created).astimezone()
    return moment.isoformat(timespec="milliseconds")


def _plain(value: object) -> object:
    """Return a value unchanged if JSON can represent it, else its text."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)


# Logging that never waits.


def never_wait() -> None:
    """Let each handler drop the records that its stream does not take at once.

    A write to a pipe waits for the program at its other end, which may hang. This is for a process
    without a log thread that must not hang with it.
    """
    for handler in all_handlers():
        if isinstance(handler, logging.StreamHandler):
            handler.addFilter(_DropIfFull(handler))


class _DropIfFull(logging.Filter):
    """Drops the records for which the stream of a handler has no room, and logs their number."""

    def __init__(self, handler: logging.StreamHandler[Any]) -> None:
        super().__init__()
        self._handler = handler
        self._lost = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the handler may write a record."""
        if not self._has_room():
            self._lost += 1
            return False
        if lost := self._lost:
            self._lost = 0
            self._handler.handle(
                logging.LogRecord(record.name, logging.WARNING, __file__, 0, _UNREAD, (lost,), None)
            )
        return True

    def _has_room(self) -> bool:
        try:
            poll = select.poll()
            poll.register(self._handler.stream, select.POLLOUT)
            return bool(poll.poll(0))
        except (TypeError, OSError, ValueError):
            # There is no descriptor, or it is closed: the handler reports that.
            return True


_UNREAD = "log records lost, because nothing read the log: %d"


# The files of handlers, after log rotation.


def reopen_files() -> list[str]:
    """Reopen the files of all `logging` handlers whose files were renamed or removed.

    A file that is still in place stays open, because reopening it in mode ``w`` would empty it.

    Returns:
        An error message for each file that cannot be opened. Its handler keeps the old file.
    """
    problems = []
    for handler in all_handlers():
        if not isinstance(handler, logging.FileHandler):
            continue
        handler.acquire()
        try:
            old = handler.stream
            if old is None or _is_in_place(old.fileno(), handler.baseFilename):
                continue
            handler.stream = handler._open()
            old.close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            problems.append(f"{handler.baseFilename} cannot be reopened: {reason}")
        finally:
            handler.release()
    return problems


def all_handlers() -> list[logging.Handler]:
    """Return all handlers, also those that no logger refers to, as a MemoryHandler's target."""
    references = list(logging._handlerList)  # type: ignore[attr-defined]
    return [handler for each in references if (handler := each()) is not None]


def _is_in_place(fd: int, path: str) -> bool:
    """Return True if a path leads to the file of a descriptor."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


# The systemd journal.

SOCKET = "/run/systemd/journal/socket"

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)


class JournalHandler(logging.Handler):
    """Handler that sends each record to the journal, or to ``fallback`` if that fails.

    The handler stays usable after `close`, because a late dictConfig call of the app closes all
    handlers.

    Args:
        identifier: program name that the journal shows.
        fallback: handler for the records that cannot be sent.
        path: path of the journal's socket.

    Raises:
        UsageError: logging-journald is not installed, or no journal listens on ``path``.
    """

    def __init__(self, identifier: str, fallback: logging.Handler, path: str = SOCKET) -> None:
        super().__init__()
        try:
            from logging_journald import JournaldTransport  # type: ignore[import-untyped]
        except ImportError:
            raise UsageError(
                "--log-writer journald: the package logging-journald is not installed;"
                " run pip install 'vsgi-fcgi[journald]'"
            ) from None
        with _open_socket() as probe:
            try:
                probe.connect(path)
            except OSError as error:
                raise UsageError(
                    f"--log-writer journald: no journal listens on {path} ({error.strerror});"
                    " remove the option where systemd does not run"
                ) from None
        self._identifier = identifier
        self._fallback = fallback
        # Not connected, so that records still arrive after the journal was restarted.
        self._transport = JournaldTransport(path, connected=False)
        self._transport.socket.close()
        self._transport.socket = _open_socket()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record to the journal."""
        try:
            fields = {
                "MESSAGE": self.format(record),
                "PRIORITY": str(_priority(record.levelno)),
                "SYSLOG_IDENTIFIER": self._identifier,
                "LOGGER": record.name,
                "THREAD_NAME": record.threadName or "",
                "CODE_FILE": record.pathname,
                "CODE_LINE": str(record.lineno),
                "CODE_FUNC": record.funcName or "",
            }
            self._transport.send(
                (name, value.encode(errors="backslashreplace")) for name, value in fields.items()
            )
        except OSError:
            self._fallback.handle(record)
        except Exception:
            self.handleError(record)


def _open_socket() -> socket.socket:
    """Open a socket for the log's own thread, which may block.

    A socket that gevent has patched belongs to the hub of the thread that created it.
    """
    # Imported here because formats are also used without gevent, for example in plain CGI.
    from gevent import monkey

    original: type[socket.socket] = monkey.get_original("socket", "socket")
    return original(socket.AF_UNIX, socket.SOCK_DGRAM)


def _priority(level: int) -> int:
    """Return the syslog priority of a level, or that of the next lower level."""
    return next((priority for minimum, priority in _PRIORITIES if level >= minimum), 7)
