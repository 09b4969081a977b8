"""Write access log lines in batches from a native thread, to a file or to a logger."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections import deque
from typing import Final, Protocol

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.log.log import Log, enable
from vsgi_fcgi.transport.unpatched import SimpleQueue, allocate_lock, poll, start_thread

_REPORT_INTERVAL = 10.0
"""Minimum number of seconds between two warnings about dropped lines."""


class Sink(Protocol):
    """Destination of access log lines."""

    def write(self, data: bytes) -> tuple[int, str | None]:
        """Write complete lines, each with its newline.

        Returns:
            The number of lines that were lost, and a description of the problem or None.
        """

    def reopen(self) -> tuple[int, str | None]:
        """Reopen a file that was renamed; return the same values as `write`."""

    def close(self) -> None:
        """Close the file, if one was opened."""


class LineWriter:
    """Bounded queue of access log lines, with the thread that writes them.

    A full or hanging disk must not delay any request. The writer drops lines instead, and the
    server log reports how many.

    Args:
        sink: destination of the lines. After the first `ring`, only the thread uses it.
        max_lines: maximum number of queued lines; further lines are dropped.
        max_bytes: maximum size of the queued lines in bytes; further lines are dropped.
        log: the server log.

    Attributes:
        max_lines: maximum number of queued lines.
    """

    def __init__(self, sink: Sink, max_lines: int, max_bytes: int, log: Log) -> None:
        self._sink = sink
        self.max_lines = max_lines
        self._max_bytes = max_bytes
        self._log = log
        self._waiting: deque[tuple[int, bytes]] = deque()
        # Each counter is changed by one thread only, so that none needs a lock.
        self._put = 0
        self._written = 0
        self._put_bytes = 0
        self._written_bytes = 0
        self._dropped = 0
        self._reported = 0
        self._silent_until = 0.0
        self._lost = 0
        self._failing = False
        self._reopening = False
        self._marks: SimpleQueue[_Mark | None] = SimpleQueue()
        self._started = False
        self._possible = True

    def put(self, data: bytes, count: int) -> None:
        """Queue lines, which the next `ring` writes. Called in the main context.

        Args:
            data: the lines, each with its newline.
            count: number of lines.
        """
        size = len(data)
        if (
            self._put - self._written + count > self.max_lines
            or self._put_bytes - self._written_bytes + size > self._max_bytes
        ):
            self._dropped += count
        else:
            self._put += count
            self._put_bytes += size
            self._waiting.append((count, data))

    def ring(self) -> None:
        """Tell the thread to write the queued lines."""
        if self._start():
            # One pending mark is enough, however many lines were queued meanwhile.
            if self._marks.empty():
                self._marks.put(None)
        else:
            self._write()

    def reopen(self) -> None:
        """Tell the thread to reopen a renamed file now, without waiting for the next line."""
        self._reopening = True
        self.ring()

    def _start(self) -> bool:
        if not self._started and self._possible:
            try:
                start_thread(self._work, "vsgi-fcgi-access-log")
                self._started = True
            except RuntimeError:
                # The host allows no more threads, so the caller of `ring` writes.
                self._possible = False
        return self._started

    def flush(self, timeout: float) -> bool:
        """Wait until the lines that are queued now are written.

        Args:
            timeout: maximum time to wait, in seconds.

        Returns:
            True if they were written in time.
        """
        return self._pass(_Mark(last=False), timeout)

    def stop(self, timeout: float) -> None:
        """Write the queued lines within ``timeout`` seconds, then end the thread."""
        if self._started or self._waiting:
            self._pass(_Mark(last=True), timeout)
        self._possible = False
        if not self._started:
            self._end()
        self._started = False

    def _pass(self, mark: _Mark, timeout: float) -> bool:
        if not self._start():
            self._write()
            return True
        self._marks.put(mark)
        if mark.done.acquire(True, timeout):
            return True
        self._log.warning(
            "access log: lines that could not be written within %g seconds: %d",
            timeout,
            self._put - self._written,
        )
        return False

    def _work(self) -> None:
        while True:
            mark = self._marks.get()
            self._write()
            if mark is not None:
                if mark.last:
                    self._end()
                mark.done.release()
                if mark.last:
                    return

    def _write(self) -> None:
        """Write all queued lines. No exception escapes, because later lines may succeed."""
        if self._reopening:
            self._reopening = False
            self._account(*self._sink.reopen())
        waiting = self._waiting
        batch = [waiting.popleft() for _ in range(len(waiting))]
        if batch:
            try:
                lost, problem = self._sink.write(b"".join([data for _, data in batch]))
            except Exception as error:
                lost, problem = 0, "a bug in the server"
                self._log.error("access log: a bug in the server", error=error)
            self._written += sum(count for count, _ in batch)
            self._written_bytes += sum(len(data) for _, data in batch)
            self._account(lost, problem)
        if self._dropped > self._reported and time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _REPORT_INTERVAL
            self._report_dropped()

    def _account(self, lost: int, problem: str | None) -> None:
        """Log the start of a problem once, and its end once."""
        self._lost += lost
        if problem is not None:
            if not self._failing:
                self._log.warning(
                    "access log: %s; the server tries again and counts the lost lines", problem
                )
            self._failing = True
        elif self._failing:
            self._failing = False
            lost, self._lost = self._lost, 0
            self._log.warning("access log: writing works again; lost lines: %d", lost)

    def _report_dropped(self) -> None:
        dropped = self._dropped - self._reported
        if dropped:
            self._reported += dropped
            self._log.warning("access log: lines dropped because writing is too slow: %d", dropped)

    def _end(self) -> None:
        self._report_dropped()
        if self._lost:
            self._log.warning("access log: lost lines: %d", self._lost)
        self._sink.close()


class _Mark:
    """Marker in the queue; its lock is released when all lines before it are written."""

    def __init__(self, last: bool) -> None:
        self.last = last
        self.done = allocate_lock()
        self.done.acquire()


# Access log files, which are reopened after a rename and retried after an error.

STDOUT: Final = 1
"""Descriptor of standard output. An app may have replaced `sys.stdout`."""

_MODE: Final = 0o640
"""Permissions of a new file, before the umask is applied."""

_WAIT: Final = 1.0
"""Seconds to wait for a full pipe that is in non-blocking mode."""

_POLLOUT: Final = 4

ACCESS_LOGGER: Final = "vsgi_fcgi.access"


class LineFile:
    """Access log file; each batch of lines is appended with one write.

    Before each batch, the path is compared with the open file. If logrotate has renamed or
    replaced the file, the path is opened again.

    Args:
        path: path of the file; None for standard output.

    Raises:
        UsageError: the file cannot be opened.
    """

    def __init__(self, path: str | None) -> None:
        # Absolute, because an app may change the working directory.
        self._path = None if path is None else os.path.abspath(path)
        # The remainder of a line that was written in part.
        self._rest = b""
        try:
            self._fd = STDOUT if self._path is None else _open(self._path)
            status = os.fstat(self._fd)
        except OSError as error:
            name = "standard output" if path is None else path
            raise UsageError(
                f"access log {name}: the file cannot be opened: {os.strerror(error.errno or 0)};"
                " choose a file that this user may write to"
            ) from error
        self._file = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode):
            # Pipes and terminals are not rotated.
            self._follows = False
        else:
            self._follows = path is not None

    def write(self, data: bytes) -> tuple[int, str | None]:
        """Write complete lines, each with its newline.

        Returns:
            The number of lines that were lost, and a description of the problem or None.
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
                # Keep the end of a partly written line. Without it, the next line would
                # continue the broken one.
                end = unwritten.find(b"\n") + 1
                self._rest, unwritten = unwritten[:end], unwritten[end:]
            return lost + unwritten.count(b"\n"), f"the file cannot be written: {error.strerror}"
        return lost, problem

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            # Another process that shares the pipe has set it to non-blocking mode.
            poller = poll()
            poller.register(self._fd, _POLLOUT)
            poller.poll(_WAIT * 1000)
            return os.write(self._fd, data)

    def _follow(self) -> tuple[int, str | None]:
        """Open the path again if it leads to another file; if that fails, keep the old file."""
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
            return 0, f"{self._path} cannot be reopened: {error.strerror}"
        os.close(self._fd)
        self._fd = fd
        status = os.fstat(fd)
        self._file = (status.st_dev, status.st_ino)
        lost = 1 if self._rest else 0
        self._rest = b""
        return lost, None

    def reopen(self) -> tuple[int, str | None]:
        """Reopen the file if it was renamed; return the same values as `write`."""
        return self._follow() if self._follows else (0, None)

    def close(self) -> None:
        """Close the file, but leave standard output open."""
        if self._path is not None:
            os.close(self._fd)


class LineLogger:
    """Sink that passes each line to the logger ``vsgi_fcgi.access``, at INFO.

    Unless the app has set a level for this logger, the level becomes INFO. An access log that
    was asked for is visible even if the server log shows only errors.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger(ACCESS_LOGGER)
        if self._logger.level == logging.NOTSET:
            self._logger.setLevel(logging.INFO)

    def write(self, data: bytes) -> tuple[int, str | None]:
        """Log each line; lines whose handler raises an exception count as lost."""
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

    def reopen(self) -> tuple[int, str | None]:
        """Do nothing: `Log.reopen` reopens the files of all logging handlers."""
        return 0, None

    def close(self) -> None:
        """Do nothing: this sink opens no file."""


def open_sink(name: str) -> LineFile | LineLogger:
    """Open the destination that the setting ``access_log`` names.

    Args:
        name: path of a file, ``-`` for standard output, or ``logger``.

    Raises:
        UsageError: the file cannot be opened.
    """
    if name == "logger":
        return LineLogger()
    return LineFile(None if name == "-" else name)


def _open(path: str) -> int:
    """Open a file for appending, without waiting for the reader of a named pipe."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK
    fd = os.open(path, flags, _MODE)
    os.set_blocking(fd, True)
    return fd
