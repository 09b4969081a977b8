"""``--worker thread``: a fixed pool of native threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from vsgi_fcgi.loop import Loop
from vsgi_fcgi.native import Lock, allocate_lock
from vsgi_fcgi.server import contract
from vsgi_fcgi.server.contract import main_only
from vsgi_fcgi.server.mailbox import Mailbox
from vsgi_fcgi.server.reply import Reply

_QUICK: Final = 0.001
"""Seconds (1 ms): a request that took less was not worth another thread's waking."""

_CHECK: Final = 0.001
"""Seconds (1 ms) after which it is looked at how the requests fare that wait behind a quick one."""

_WARY: Final = 0.25
"""Seconds for which no request is thought quick after that look found one that was not."""

_BUSY: Final = 0.5
"""Share of the time from which on the process has been computing, and more threads are no help."""


class ThreadPool:
    """Threads that belong to requests and never to connections.

    To wake a thread costs several switches between threads, which is more than a small app
    costs. So what one round of the loop brings is handed over together, to one thread. While
    its requests are quick, it takes them one after the other and wakes neither further threads
    nor, before the last, the main context. As soon as one was slow, each thread wakes the next
    before it begins.

    What that guess holds up when it was wrong is seen to after a millisecond: requests behind
    one that blocks get threads, and so do those that wait while nobody computes (behind an app
    that waits for a database, if only briefly); for a while after that nothing is guessed.

    Args:
        run: runs one request, in a thread.
        loop: the main context's loop.
        mailbox: takes the answers.
    """

    def __init__(self, run: Callable[[Reply], None], loop: Loop, mailbox: Mailbox) -> None:
        self._run = run
        self._loop = loop
        self._mailbox = mailbox
        self.jobs: deque[Reply] = deque()
        self._lock = allocate_lock()
        self._idle: list[Lock] = []
        self._quick = False
        self._handing_over = False
        self._timer = loop.timer(_CHECK, _CHECK)
        self._checking = False
        self._first: Reply | None = None
        self._began = 0.0
        self._computed = 0.0
        self._wary_until = 0.0
        self._stopping = False
        self.size = 0

    def start(self, count: int) -> int:
        """Start the threads.

        Args:
            count: how many are wanted.

        Returns:
            How many the system allowed.
        """
        for number in range(1, count + 1):
            name = f"vsgi-fcgi-worker-{number}"
            try:
                threading.Thread(target=self._work, name=name, daemon=True).start()
            except RuntimeError:
                break
            self.size = number
        return self.size

    @main_only
    def submit(self, reply: Reply) -> None:
        """Queue a request; a thread that is at work may take it at once."""
        self.jobs.append(reply)

    @main_only
    def hand_over(self) -> None:
        """Have a thread woken for what was queued, at the end of the loop's round."""
        if self.jobs and not self._handing_over:
            self._handing_over = True
            self._loop.run_callback(self._wake_for_all)

    @main_only
    def remove(self, reply: Reply) -> bool:
        """Take a request back; False if a thread has it already."""
        try:
            self.jobs.remove(reply)
        except ValueError:
            return False
        return True

    def _wake_for_all(self) -> None:
        self._handing_over = False
        waiting = len(self.jobs)
        if waiting:
            self._wake(1)
            if waiting > 1 and not self._checking:
                self._check_soon()

    def _check_soon(self) -> None:
        try:
            self._first = self.jobs[0]
        except IndexError:
            return  # threads have taken them all since we looked
        self._checking = True
        self._began = time.monotonic()
        self._computed = time.process_time()
        # From now on, and not from when the loop's round began, which may be a while ago.
        self._timer.again(self._check, update=True)

    def _check(self) -> None:
        """See to what a thread that was thought quick holds up: requests and answers."""
        self._checking = False
        self._timer.stop()
        self._mailbox.ring()
        before, self._first = self._first, None
        try:
            first = self.jobs[0]
        except IndexError:
            return
        now = time.monotonic()
        busy = time.process_time() - self._computed >= _BUSY * (now - self._began)
        if first is before or not busy:
            self._wary_until = now + _WARY
            self._quick = False
            # With no thread idle there is nothing to see to: whichever ends next goes on.
            if not self._wake(len(self.jobs)):
                return
        self._check_soon()

    def _wake(self, count: int) -> int:
        """Wake so many idle threads, or as many as there are; says how many."""
        with self._lock:
            idle = self._idle
            gates = idle[-count:]
            del idle[-count:]
        for gate in gates:
            gate.release()
        return len(gates)

    def _work(self) -> None:
        contract.enter_worker()
        gate = allocate_lock()
        gate.acquire()
        jobs, idle, run, clock = self.jobs, self._idle, self._run, time.monotonic
        ring = self._mailbox.ring
        now = clock()
        silent = False
        while True:
            try:
                reply = jobs.popleft()
            except IndexError:
                if silent:
                    silent = False
                    ring()
                with self._lock:
                    # Looked at again under the lock: whoever appends wakes only who is in `idle`.
                    if jobs:
                        continue
                    if self._stopping:
                        break
                    idle.append(gate)
                gate.acquire()
                now = clock()
                continue
            if jobs and idle and not self._quick:
                self._wake(1)
            run(reply)
            # Or the thread would keep the request alive until its next one.
            del reply
            begun, now = now, clock()
            self._quick = now - begun < _QUICK and now > self._wary_until
            # Only while a check is due, so that no answer waits for longer than that.
            silent = self._quick and self._checking and bool(jobs)
            if not silent:
                ring()
        contract.leave_worker()

    def stop(self) -> None:
        """End each thread when it finds nothing more to do."""
        self._timer.stop()
        self._timer.close()
        with self._lock:
            self._stopping = True
        self._wake(self.size)
