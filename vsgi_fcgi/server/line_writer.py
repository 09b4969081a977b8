"""A native thread that writes the lines of the access log, many at a time."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

from vsgi_fcgi.native import SimpleQueue, allocate_lock, start_thread
from vsgi_fcgi.server.log import Log

_SILENCE = 10.0
"""Seconds for which it is not said again that lines are dropped."""


class Sink(Protocol):
    """Where lines go."""

    def write(self, data: bytes) -> tuple[int, str | None]:
        """Write lines, each with its end.

        Returns:
            How many of them are lost, and what is wrong, if something is.
        """

    def close(self) -> None:
        """Let go of what it has opened."""


class LineWriter:
    """Writes what was put into it, whenever somebody rings.

    A disk that is full, or hangs, must not be felt by any request: then lines are lost, and the
    server's log says how many.

    Args:
        sink: where the lines go; from `ring` on, it is the thread's.
        max_lines: lines that may wait; more are dropped.
        log: the server's log.

    Attributes:
        max_lines: as above.
    """

    def __init__(self, sink: Sink, max_lines: int, log: Log) -> None:
        self._sink = sink
        self.max_lines = max_lines
        self._log = log
        self._waiting: deque[tuple[int, bytes]] = deque()
        # Each is counted by one thread alone.
        self._put = 0
        self._written = 0
        self._dropped = 0
        self._reported = 0
        self._silent_until = 0.0
        self._lost = 0
        self._failing = False
        self._marks: SimpleQueue[_Mark | None] = SimpleQueue()
        self._started = False
        self._possible = True

    def put(self, data: bytes, count: int) -> None:
        """Have lines written at the next `ring`. In the main context.

        Args:
            data: the lines, each with its end.
            count: how many they are.
        """
        if self._put - self._written + count > self.max_lines:
            self._dropped += count
        else:
            self._put += count
            self._waiting.append((count, data))

    def ring(self) -> None:
        """Have the thread write what waits."""
        if self._start():
            # One that has not been heard yet will do.
            if self._marks.empty():
                self._marks.put(None)
        else:
            self._write()

    def _start(self) -> bool:
        if not self._started and self._possible:
            try:
                start_thread(self._work, "vsgi-fcgi-access-log")
                self._started = True
            except RuntimeError:
                # No more threads on this host: then by whoever rings.
                self._possible = False
        return self._started

    def flush(self, timeout: float) -> bool:
        """Wait until all that waits now is written.

        Args:
            timeout: seconds to wait for it at the most.

        Returns:
            Whether it is.
        """
        return self._pass(_Mark(last=False), timeout)

    def stop(self, timeout: float) -> None:
        """Write what waits, for ``timeout`` seconds at most, and end the thread."""
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
            "%d lines of the access log could not be written within %g seconds",
            self._put - self._written,
            timeout,
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
        """Write what waits by now. Nothing escapes: the next lines may fare better."""
        waiting = self._waiting
        batch = [waiting.popleft() for _ in range(len(waiting))]
        if batch:
            try:
                lost, problem = self._sink.write(b"".join([data for _, data in batch]))
            except Exception as error:
                lost, problem = 0, "a bug in the server"
                self._log.error("a bug in the server", error=error)
            self._written += sum(count for count, _ in batch)
            self._account(lost, problem)
        if self._dropped > self._reported and time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _SILENCE
            self._report_dropped()

    def _account(self, lost: int, problem: str | None) -> None:
        """Say once that something is wrong, and once that it is over."""
        self._lost += lost
        if problem is not None:
            if not self._failing:
                self._log.warning(
                    "the access log: %s; it is tried again, and what is lost is counted", problem
                )
            self._failing = True
        elif self._failing:
            self._failing = False
            lost, self._lost = self._lost, 0
            self._log.warning("the access log is written again; %d lines were lost", lost)

    def _report_dropped(self) -> None:
        dropped = self._dropped - self._reported
        if dropped:
            self._reported += dropped
            self._log.warning(
                "%d lines of the access log were dropped: it is written too slowly", dropped
            )

    def _end(self) -> None:
        self._report_dropped()
        if self._lost:
            self._log.warning("%d lines of the access log were lost", self._lost)
        self._sink.close()


class _Mark:
    """A mark in the queue; its lock is free once everything before it was written."""

    def __init__(self, last: bool) -> None:
        self.last = last
        self.done = allocate_lock()
        self.done.acquire()
