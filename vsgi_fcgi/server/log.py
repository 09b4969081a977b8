"""The server's log: whoever has something to say only enqueues it.

A handler may be slow (a full pipe, a network). If the main context called it, or waited for its
lock, every connection would wait with it.
"""

from __future__ import annotations

import logging
from types import TracebackType

from vsgi_fcgi.server.native import SimpleQueue, allocate_lock, start_thread

_formatter = logging.Formatter()


class Log:
    """Enqueues log records; a native thread gives them to `logging`.

    Args:
        max_records: records that may wait; more are dropped, and their number is logged.
        name: the logger.
    """

    def __init__(self, max_records: int, name: str = "vsgi_fcgi") -> None:
        self.logger = logging.getLogger(name)
        self._app_logger = logging.getLogger(f"{name}.app")
        self._max_records = max_records
        self._queue: SimpleQueue[logging.LogRecord | _Flush | None] = SimpleQueue()
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
        if not logger.isEnabledFor(level):
            return
        record = logger.makeRecord(logger.name, level, "(vsgi_fcgi)", 0, message, args, None)
        if error is not None:
            # Formatted here: the queue must not keep the frames of a request alive.
            record.exc_text = _formatter.formatException(_exc_info(error))
        if not self._started:
            logger.handle(record)
        elif self._queue.qsize() < self._max_records:
            self._queue.put(record)
        else:
            self._dropped += 1

    def _write(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, _Flush):
                item.done.release()
                continue
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self.logger.warning("%d log records were dropped: the log is too slow", dropped)
            try:
                logging.getLogger(item.name).handle(item)
            except Exception:
                # A handler that raises has said so on stderr (logging.raiseExceptions), or has
                # nobody left to say it to; the next record may fare better.
                self._dropped += 1

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


def _exc_info(
    error: BaseException,
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    return type(error), error, error.__traceback__
