"""Writes the log to systemd's journal, with the fields that the journal knows."""

from __future__ import annotations

import logging
import socket

from gevent import monkey

from vsgi_fcgi.exceptions import UsageError

SOCKET = "/run/systemd/journal/socket"

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)

# A socket that gevent has patched belongs to the hub of the thread that made it; this one is used
# by the log's own thread, which may wait.
_Socket: type[socket.socket] = monkey.get_original("socket", "socket")


class JournalHandler(logging.Handler):
    """Sends each record to the journal; when that does not take it, to ``fallback``.

    What closes all handlers, such as a late dictConfig of the app, does not close this one.

    Args:
        identifier: what the journal shows as the program's name.
        fallback: gets the records that cannot be sent.
        path: the journal's socket.

    Raises:
        UsageError: the package is not installed, or no journal listens.
    """

    def __init__(self, identifier: str, fallback: logging.Handler, path: str = SOCKET) -> None:
        super().__init__()
        try:
            from logging_journald import JournaldTransport  # type: ignore[import-untyped]
        except ImportError:
            raise UsageError(
                "--log-writer journald needs logging-journald: pip install 'vsgi-fcgi[journald]'"
            ) from None
        with _Socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(path)
            except OSError as error:
                raise UsageError(
                    f"--log-writer journald: no journal listens at {path} ({error.strerror});"
                    " leave the option out where systemd does not run"
                ) from None
        self._identifier = identifier
        self._fallback = fallback
        # Not connected: each record goes to whichever journal is there now.
        self._transport = JournaldTransport(path, connected=False)
        self._transport.socket.close()
        self._transport.socket = _Socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
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


def _priority(level: int) -> int:
    """The priority of syslog for a level, its own or the next below it."""
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)
