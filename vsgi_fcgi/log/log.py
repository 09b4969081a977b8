"""The server log, which queues records and writes them in a thread of its own.

A handler may be slow, for example because a pipe is full. If the main context called the handler
or waited for its lock, every connection would wait.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from sys import getsizeof
from types import TracebackType

from vsgi_fcgi.log.handlers import JournalHandler, all_handlers, escape_controls, reopen_files
from vsgi_fcgi.transport.unpatched import RLock, SimpleQueue, allocate_lock, start_thread

_formatter = logging.Formatter()

_LOST = "log records lost, because writing is too slow or a handler failed: %d"


class Log:
    """Bounded queue of log records; a native thread passes them to `logging`.

    Records that do not fit into the queue are dropped, and their number is logged.

    Args:
        max_records: maximum number of queued records.
        max_bytes: maximum size of the text in the queued records, in bytes.
        name: name of the logger.
    """

    def __init__(self, max_records: int, max_bytes: int, name: str = "vsgi_fcgi") -> None:
        self.logger = logging.getLogger(name)
        self._app_logger = logging.getLogger(f"{name}.app")
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._queue: SimpleQueue[tuple[logging.LogRecord, int] | _Flush | _Reopen | None] = (
            SimpleQueue()
        )
        self._reopening = False
        self._lock = allocate_lock()
        self._bytes = 0
        self._dropped = 0
        self._started = False

    def start(self) -> None:
        """Start the thread. If the host allows no more threads, each caller writes its record."""
        _use_native_locks()
        try:
            start_thread(self._write, "vsgi-fcgi-log")
        except RuntimeError:
            return
        self._started = True

    def enabled(self, level: int) -> bool:
        """Return True if the logger accepts records of this level."""
        enable(self.logger)
        return self.logger.isEnabledFor(level)

    def debug(self, message: str, *args: object) -> None:
        """Log a detail that helps to follow a single request."""
        self._log(self.logger, logging.DEBUG, message, args)

    def info(self, message: str, *args: object) -> None:
        """Log an event of normal operation, such as start and stop."""
        self._log(self.logger, logging.INFO, message, args)

    def warning(
        self,
        message: str,
        *args: object,
        fields: Mapping[str, object] | None = None,
        stack: str | None = None,
    ) -> None:
        """Log a condition that an administrator should look at.

        Args:
            message: the message.
            *args: values for the message.
            fields: values that are fields of the record, for logs in JSON.
            stack: the stack of a thread.
        """
        self._log(self.logger, logging.WARNING, message, args, fields=fields, stack=stack)

    def error(
        self,
        message: str,
        *args: object,
        error: BaseException | None = None,
        stack: str | None = None,
    ) -> None:
        """Log a failure, with the traceback of ``error``, or with the stack of a thread."""
        self._log(self.logger, logging.ERROR, message, args, error, stack=stack)

    def app_error(self, text: str) -> None:
        """Log text that an app wrote to ``wsgi.errors``."""
        self._log(self._app_logger, logging.ERROR, "%s", (escape_controls(text.rstrip("\n")),))

    def _log(
        self,
        logger: logging.Logger,
        level: int,
        message: str,
        args: tuple[object, ...],
        error: BaseException | None = None,
        fields: Mapping[str, object] | None = None,
        stack: str | None = None,
    ) -> None:
        enable(logger)
        if not logger.isEnabledFor(level):
            return
        try:
            caller = sys._getframe(2)
        except ValueError:
            # A greenlet or a thread in which only compiled functions run, which have no frames.
            caller = sys._getframe()
        code = caller.f_code
        place = code.co_filename, caller.f_lineno
        record = logger.makeRecord(
            logger.name, level, *place, message, args, None, code.co_name, fields, stack
        )
        if error is not None:
            # Format it now, because a queued traceback would keep the frames of a request alive.
            record.exc_text = _formatter.formatException(_exc_info(error))
        if not self._started:
            self._hand_over(record)
            return
        size = sum(map(getsizeof, (message, record.exc_text, stack, *args)))
        if self._queue.qsize() < self._max_records and self._reserve(size):
            self._queue.put((record, size))
        else:
            self._dropped += 1

    def _reserve(self, size: int) -> bool:
        """Reserve bytes of the queue, and return False if too few are left."""
        # No function is called while the lock is held. A signal handler that logs therefore
        # cannot run here and wait for the same lock.
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
            if isinstance(item, _Reopen):
                self._reopening = False
                self._reopen_files()
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
            # A record may be large, so do not keep it until the next one arrives.
            del item, record

    def _hand_over(self, record: logging.LogRecord) -> bool:
        """Pass a record to its logger's handlers, and return False if one of them raised."""
        # Not by `getLogger`, whose lock the app uses as well.
        logger = self.logger if record.name == self.logger.name else self._app_logger
        enable(logger)
        try:
            logger.handle(record)
        except Exception:
            # logging has already printed the error to stderr (logging.raiseExceptions), or
            # stderr is closed. The next record may succeed.
            return False
        return True

    def reopen(self) -> None:
        """Reopen renamed log files, after all records that were logged so far."""
        if not self._started:
            self._reopen_files()
        elif not self._reopening:
            self._reopening = True
            self._queue.put(_Reopen())

    def _reopen_files(self) -> None:
        for problem in reopen_files():
            self._hand_over(
                self.logger.makeRecord(
                    self.logger.name, logging.WARNING, __file__, 0, "%s", (problem,), None
                )
            )

    def forked(self) -> None:
        """Write records directly from now on, because a forked child has no log thread."""
        self._started = False

    def flush(self, timeout: float) -> bool:
        """Wait until all records logged so far are written.

        Args:
            timeout: maximum time to wait, in seconds.

        Returns:
            True if they were written in time.
        """
        if not self._started:
            return True
        flush = _Flush()
        self._queue.put(flush)
        return flush.done.acquire(True, timeout)

    def stop(self, timeout: float) -> None:
        """Write the queued records within ``timeout`` seconds, then end the thread."""
        self.flush(timeout)
        if self._started:
            self._started = False
            self._queue.put(None)


class _Flush:
    """Marker in the queue; its lock is released when all records before it are written."""

    def __init__(self) -> None:
        self.done = allocate_lock()
        self.done.acquire()


class _Reopen:
    """Marker in the queue; the thread reopens the log files when it reaches it."""


def _use_native_locks() -> None:
    """Let handlers use native locks, even if gevent has patched `threading`.

    The log's thread shares the handlers with the greenlets of the app. If a native thread and a
    greenlet wait for the same lock of gevent 26.9, `acquire` sometimes raises an AttributeError in
    the app (once in about 100,000 records). Handlers that wait cooperatively keep their locks.
    """
    for handler in all_handlers():
        if not isinstance(handler, (logging.StreamHandler, JournalHandler)):
            continue
        if handler.lock is not None and type(handler.lock) is not RLock:
            handler.lock = RLock()


def enable(logger: logging.Logger) -> None:
    """Enable a logger that dictConfig has disabled.

    By default, dictConfig disables all existing loggers that its dictionary does not name, and an
    app may call it at any time. The server's loggers must keep working. To see fewer records, set
    the level of the logger.
    """
    if logger.disabled:
        logger.disabled = False


def _exc_info(
    error: BaseException,
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    return type(error), error, error.__traceback__
