"""The server's log: whoever has something to say only enqueues it.

A handler may be slow (a full pipe, a network). If the main context called it, or waited for its
lock, every connection would wait with it.
"""

from __future__ import annotations

import logging
import sys
from sys import getsizeof
from types import TracebackType

from vsgi_fcgi.native import SimpleQueue, allocate_lock, start_thread

_formatter = logging.Formatter()

_LOST = "%d log records were lost: the log is too slow for them, or a handler failed"


class Log:
    """Enqueues log records; a native thread gives them to `logging`.

    Args:
        max_records: records that may wait; more are dropped, and their number is logged.
        max_bytes: bytes of text that may wait in these records; as above.
        name: the logger.
    """

    def __init__(self, max_records: int, max_bytes: int, name: str = "vsgi_fcgi") -> None:
        self.logger = logging.getLogger(name)
        self._app_logger = logging.getLogger(f"{name}.app")
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._queue: SimpleQueue[tuple[logging.LogRecord, int] | _Flush | None] = SimpleQueue()
        self._lock = allocate_lock()
        self._bytes = 0
        self._dropped = 0
        self._started = False

    def start(self) -> None:
        """Start the thread; where none can be had, records are written by whoever has them."""
        try:
            start_thread(self._write, "vsgi-fcgi-log")
        except RuntimeError:
            return
        self._started = True

    def enabled(self, level: int) -> bool:
        """Whether anyone would see a record of this level."""
        enable(self.logger)
        return self.logger.isEnabledFor(level)

    def debug(self, message: str, *args: object) -> None:
        """Log what helps to follow a single request."""
        self._log(self.logger, logging.DEBUG, message, args)

    def info(self, message: str, *args: object) -> None:
        """Log what happens in the server's life."""
        self._log(self.logger, logging.INFO, message, args)

    def warning(self, message: str, *args: object) -> None:
        """Log what somebody should look at."""
        self._log(self.logger, logging.WARNING, message, args)

    def error(self, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log a failure, with the traceback of ``error`` if there is one."""
        self._log(self.logger, logging.ERROR, message, args, error)

    def app_error(self, text: str) -> None:
        """Log what an app wrote to ``wsgi.errors``."""
        self._log(self._app_logger, logging.ERROR, "%s", (text.rstrip("\n"),))

    def _log(
        self,
        logger: logging.Logger,
        level: int,
        message: str,
        args: tuple[object, ...],
        error: BaseException | None = None,
    ) -> None:
        enable(logger)
        if not logger.isEnabledFor(level):
            return
        caller = sys._getframe(2)
        code = caller.f_code
        place = code.co_filename, caller.f_lineno
        record = logger.makeRecord(logger.name, level, *place, message, args, None, code.co_name)
        if error is not None:
            # Formatted here: the queue must not keep the frames of a request alive.
            record.exc_text = _formatter.formatException(_exc_info(error))
        if not self._started:
            self._hand_over(record)
            return
        size = sum(map(getsizeof, (message, record.exc_text, *args)))
        if self._queue.qsize() < self._max_records and self._take(size):
            self._queue.put((record, size))
        else:
            self._dropped += 1

    def _take(self, size: int) -> bool:
        """Take some of the bytes that may wait, if there are as many left."""
        # Nothing is called in here, so no handler of a signal can come in between and log.
        with self._lock:
            if self._bytes + size > self._max_bytes:
                return False
            self._bytes += size
        return True

    def _write(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, _Flush):
                item.done.release()
                continue
            record, size = item
            if (dropped := self._dropped) and self.enabled(logging.WARNING):
                lost = self.logger.makeRecord(
                    self.logger.name, logging.WARNING, __file__, 0, _LOST, (dropped,), None
                )
                if self._hand_over(lost):
                    self._dropped -= dropped
            if not self._hand_over(record):
                self._dropped += 1
            with self._lock:
                self._bytes -= size
            # Not to be kept until the next one comes: it may be large.
            del item, record

    def _hand_over(self, record: logging.LogRecord) -> bool:
        """Give a record to its logger's handlers, and say whether none of them raised."""
        logger = logging.getLogger(record.name)
        enable(logger)
        try:
            logger.handle(record)
        except Exception:
            # It has said so on stderr (logging.raiseExceptions), or has nobody left to say it
            # to; the next record may fare better.
            return False
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until all that was logged so far is written, for ``timeout`` seconds at most."""
        if not self._started:
            return True
        flush = _Flush()
        self._queue.put(flush)
        return flush.done.acquire(True, timeout)

    def stop(self, timeout: float) -> None:
        """Write what waits, for ``timeout`` seconds at most, and end the thread."""
        self.flush(timeout)
        if self._started:
            self._started = False
            self._queue.put(None)


class _Flush:
    """A mark in the queue; its lock is free once everything before it was written."""

    def __init__(self) -> None:
        self.done = allocate_lock()
        self.done.acquire()


def enable(logger: logging.Logger) -> None:
    """Let a logger speak that was told to be silent.

    dictConfig disables the loggers that it finds and that its dictionary does not name, unless it
    is told not to, and an app may call it at any time. That is meant for the app's own loggers: a
    server must not go mute. Whoever wants to hear less sets its level.
    """
    if logger.disabled:
        logger.disabled = False


def _exc_info(
    error: BaseException,
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    return type(error), error, error.__traceback__
