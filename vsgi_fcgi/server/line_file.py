"""The file of an access log: opened again when it was renamed, and tried again when it fails."""

from __future__ import annotations

import logging
import os
import stat
from typing import Final

from gevent import monkey

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.log import enable

STDOUT: Final = 1
"""The descriptor, whatever an app may have made of `sys.stdout`."""

_MODE: Final = 0o640
"""Permissions of a file that is made, as far as the umask leaves them."""

_WAIT: Final = 1.0
"""Seconds for which a pipe that takes no more is waited for, if it would not wait by itself."""

_poll = monkey.get_original("select", "poll")
_POLLOUT: Final = 4

ACCESS_LOGGER: Final = "vsgi_fcgi.access"


class LineFile:
    """Appends lines to a file, all that there are with one write.

    If its path leads to another file by now, or to none (logrotate has renamed it), that one is
    opened before the next line is written.

    Args:
        path: where it is; None for standard output.

    Raises:
        UsageError: it cannot be opened.
    """

    def __init__(self, path: str | None) -> None:
        # An app may go to another folder.
        self._path = None if path is None else os.path.abspath(path)
        # The rest of a line of which a part could be written.
        self._rest = b""
        try:
            self._fd = STDOUT if self._path is None else _open(self._path)
            status = os.fstat(self._fd)
        except OSError as error:
            name = "standard output" if path is None else path
            raise UsageError(
                f"the access log {name} cannot be opened: {os.strerror(error.errno or 0)};"
                " name a file that this user may write to"
            ) from error
        self._file = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode):
            # A pipe or a terminal: nobody rotates it.
            self._follows = False
        else:
            self._follows = path is not None

    def write(self, data: bytes) -> tuple[int, str | None]:
        """Write lines, each with its end.

        Returns:
            How many of them are lost, and what is wrong, if something is.
        """
        lost, problem = self._follow() if self._follows else (0, None)
        data = self._rest + data
        within = bool(self._rest)
        self._rest = b""
        left = memoryview(data)
        try:
            while left:
                left = left[self._write(left) :]
        except OSError as error:
            if len(left) < len(data):
                within = data[len(data) - len(left) - 1] != 10
            unwritten = bytes(left)
            if within:
                # Its end comes later, or what follows would be one line with it.
                end = unwritten.find(b"\n") + 1
                self._rest, unwritten = unwritten[:end], unwritten[end:]
            return lost + unwritten.count(b"\n"), f"it cannot be written: {error.strerror}"
        return lost, problem

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            # Somebody who has the same pipe wants it so.
            poll = _poll()
            poll.register(self._fd, _POLLOUT)
            poll.poll(_WAIT * 1000)
            return os.write(self._fd, data)

    def _follow(self) -> tuple[int, str | None]:
        """Open the file anew, if another one is in its place; else go on with the old one."""
        assert self._path is not None
        try:
            try:
                status = os.stat(self._path)
                if (status.st_dev, status.st_ino) == self._file:
                    return 0, None
            except FileNotFoundError:
                pass
            fd = _open(self._path)
        except OSError as error:
            return 0, f"{self._path} cannot be opened again: {error.strerror}"
        os.close(self._fd)
        self._fd = fd
        status = os.fstat(fd)
        self._file = (status.st_dev, status.st_ino)
        lost = 1 if self._rest else 0
        self._rest = b""
        return lost, None

    def close(self) -> None:
        """Close the file; standard output is not ours."""
        if self._path is not None:
            os.close(self._fd)


class LineLogger:
    """Gives each line to the logger ``vsgi_fcgi.access``, at INFO.

    Its level is INFO, unless somebody has set one: who wants an access log wants to see it, even
    if the server itself is to be silent.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger(ACCESS_LOGGER)
        if self._logger.level == logging.NOTSET:
            self._logger.setLevel(logging.INFO)

    def write(self, data: bytes) -> tuple[int, str | None]:
        """Log lines; what a handler makes of them is its own affair."""
        logger, lost, problem = self._logger, 0, None
        enable(logger)
        if logger.isEnabledFor(logging.INFO):
            for line in data[:-1].decode().split("\n"):
                record = logger.makeRecord(
                    logger.name, logging.INFO, "(vsgi_fcgi)", 0, line, (), None
                )
                try:
                    logger.handle(record)
                except Exception as error:
                    lost, problem = lost + 1, f"a handler raised {type(error).__name__}"
        return lost, problem

    def close(self) -> None:
        """Nothing was opened."""


def open_sink(name: str) -> LineFile | LineLogger:
    """Open what the setting ``access_log`` names: a file, ``-`` or ``logger``.

    Raises:
        UsageError: it cannot be opened.
    """
    if name == "logger":
        return LineLogger()
    return LineFile(None if name == "-" else name)


def _open(path: str) -> int:
    """Open a file to append to it, without waiting for the reader of a named pipe."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK
    fd = os.open(path, flags, _MODE)
    os.set_blocking(fd, True)
    return fd
