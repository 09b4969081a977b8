"""``--worker thread``: a fixed pool of native threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from vsgi_fcgi.server.exchange import Exchange
from vsgi_fcgi.server.mailbox import Mailbox
from vsgi_fcgi.transport import thread_affinity as contract
from vsgi_fcgi.transport.loop import Loop
from vsgi_fcgi.transport.thread_affinity import main_only
from vsgi_fcgi.transport.unpatched import Lock, allocate_lock, get_ident

if TYPE_CHECKING:
    from vsgi_fcgi.server.stacks import Place

_QUICK: Final = 0.001
"""Seconds (1 ms): a request that took less was not worth waking another thread."""

_CHECK: Final = 0.001
"""Seconds (1 ms) after which the requests are checked that wait behind a quick one."""

_WARY: Final = 0.25
"""Seconds for which no request counts as quick after a check found one that was not."""

_BUSY: Final = 0.5
"""Share of CPU time in elapsed time from which on more threads would not help."""


class WorkerThread(threading.Thread):
    """Runs requests.

    It is a daemon, so that a stuck app does not keep the process alive. A thread that an app starts
    by `threading.Thread` while it answers a request inherits this property. It must not be a
    daemon, or its work would be cut off without notice when the server stops.
    """

    def run(self) -> None:
        """Work until the pool is stopped."""
        # By now, the interpreter (3.11 to 3.13) has recorded not to wait for this thread.
        self._daemonic = False
        super().run()


class Replaced(BaseException):
    """Another thread has taken the place of this one, which was stuck and must end."""


class ThreadPool:
    """Threads that belong to requests and never to connections.

    To wake a thread costs several thread switches, which is more than a small app costs. So
    everything that one round of the loop brings is handed to one thread. What that thread does
    between two requests depends on guesses about how long requests take:

    ``quick``
        The last request took less than 1 ms, and the pool is not wary.
    ``checking``
        Several requests were handed over together. A timer looks at them after 1 ms.
    ``wary``
        A check has found that a guess was wrong. For 250 ms no request counts as quick.
    ``silent``
        The thread has posted a response and has not woken the main context for it. Each thread has
        its own.

    ::

        quick  checking  requests wait   wakes another thread   wakes the main context
        no     any       yes             yes                    after each request
        no     any       no              no                     after each request
        yes    no        any             no                     after each request
        yes    yes       yes             no                     after the last one (silent)
        yes    yes       no              no                     after this one

        event                                          change
        a request took less than 1 ms, not wary        quick
        a request took longer, or the pool is wary     not quick
        several requests are handed over               checking
        check: no request waits                        not checking
        check: the same request waits as at the last   wary, not quick; idle threads are woken
          check, or the process has computed for         for all requests; still checking if
          less than half of the time                     any was woken
        check: other requests wait                     still checking

    Each check wakes the main context too. So no wrong guess delays a response for more than 1 ms.
    The condition on computing finds apps that wait briefly, for example for a database. More
    threads help them, but not apps that compute.

    Args:
        run: runs one request, in a thread.
        loop: the main context's loop.
        mailbox: takes the responses.
        on_stray: called in the main context with an exception that an app caused and that was
            raised in a thread between two requests.
    """

    def __init__(
        self,
        run: Callable[[Exchange], None],
        loop: Loop,
        mailbox: Mailbox,
        on_stray: Callable[[BaseException], object],
    ) -> None:
        self._run = run
        self._loop = loop
        self._mailbox = mailbox
        self._on_stray = on_stray
        self.jobs: deque[Exchange] = deque()
        self._lock = allocate_lock()
        self._idle: list[Lock] = []
        self._quick = False
        self.fresh = False
        self._timer = loop.timer(_CHECK, _CHECK)
        self._first: Exchange | None = None
        self._began = 0.0
        self._computed = 0.0
        self._wary_until = 0.0
        self._stopping = False
        self.size = 0
        # By the ident of each thread, the list with the request that it runs.
        self._taken: dict[int, list[Exchange]] = {}
        # One byte for each thread. Only that thread changes it: it is not 0 during a request.
        self._busy = bytearray()

    @property
    def free(self) -> int:
        """The number of threads that have no request."""
        return self._busy.count(0)

    def running(self) -> list[tuple[Exchange, int]]:
        """Return the requests that threads have taken, with the idents of the threads."""
        # A copy, made in one step of the interpreter.
        items = list(self._taken.items())
        return [(exchange, ident) for ident, taken in items for exchange in taken.copy()]

    def stack(self, ident: int) -> list[Place]:
        """Return where a thread is."""
        # Imported already by the modules that call this, which few servers need.
        from vsgi_fcgi.server.stacks import stack_of

        return stack_of(ident)

    @main_only
    def replace_stuck(self) -> bool:
        """Start one more thread, because another one does not return from its request.

        Returns:
            False if the system allows no more threads.
        """
        number = len(self._busy)
        self._busy.append(0)
        if self._start_thread(number):
            return True
        self._busy[number] = 1
        return False

    def _start_thread(self, number: int) -> bool:
        name = f"vsgi-fcgi-worker-{number + 1}"
        try:
            WorkerThread(target=self._work, args=(number,), name=name, daemon=True).start()
        except RuntimeError:
            return False
        return True

    def start(self, count: int) -> int:
        """Start the threads.

        Args:
            count: number of threads.

        Returns:
            The number of threads that the system allowed.
        """
        self._busy = bytearray(count)
        while self.size < count and self._start_thread(self.size):
            self.size += 1
        # A thread that could not be started is not idle.
        self._busy[self.size :] = b"\1" * (count - self.size)
        return self.size

    @main_only
    def hand_over(self) -> None:
        """Wake a thread for the requests that this round has queued."""
        if self.fresh:
            self.fresh = False
            waiting = len(self.jobs)
            if waiting:
                self._wake(1)
                if waiting > 1 and not self._mailbox.due:
                    self._check_soon()

    def _check_soon(self) -> None:
        try:
            self._first = self.jobs[0]
        except IndexError:
            return  # threads have taken them all meanwhile
        self._mailbox.due = True
        self._began = time.monotonic()
        self._computed = time.process_time()
        # `update`: count from now, and not from the beginning of this round of the loop.
        self._timer.again(self._check, update=True)

    def _check(self) -> None:
        """Wake what a wrong guess delays: threads for requests, the main context for responses."""
        self._mailbox.due = False
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
            # If no thread is idle, the next one that becomes free continues.
            if not self._wake(len(self.jobs)):
                return
        self._check_soon()

    def _wake(self, count: int) -> int:
        """Wake at most ``count`` idle threads; return how many were woken."""
        latches: list[Lock] = []
        try:
            with self._lock:
                idle = self._idle
                latches = idle[-count:]
                del idle[-count:]
        finally:
            # Also after an exception: a thread that left `_idle` must be woken, or it never is.
            for latch in latches:
                latch.release()
        return len(latches)

    def _work(self, number: int) -> None:
        contract.enter_worker()
        taken: list[Exchange] = []
        self._taken[get_ident()] = taken
        latches: list[Lock] = []
        stray: BaseException | None = None
        while True:
            # A second layer, because an exception may also come between two rounds of `_serve`.
            try:
                self._serve(number, taken, latches, stray)
                break
            except BaseException as error:
                stray = error
        del self._taken[get_ident()]
        contract.leave_worker()

    def _serve(
        self,
        number: int,
        taken: list[Exchange],
        latches: list[Lock],
        stray: BaseException | None,
    ) -> None:
        """Run requests until the pool is stopped, also after exceptions that an app caused.

        For example, an app uses ``PyThreadState_SetAsyncExc`` to limit the time of a request, and
        the request has ended meanwhile. Further exceptions may be raised during the recovery, which
        then begins again.
        """
        while True:
            try:
                if stray is not None:
                    self._recover(taken, latches, stray)
                    stray = None
                latch = allocate_lock()
                latches.append(latch)
                self._run_requests(number, latch, taken)
                return
            except Replaced:
                taken.clear()
                self._mailbox.ring()
                return
            except BaseException as error:
                stray = error

    def _recover(self, taken: list[Exchange], latches: list[Lock], stray: BaseException) -> None:
        """Let a thread continue after an exception that was not raised inside the app.

        Every step can be repeated.
        """
        with self._lock:
            for latch in latches:
                if latch in self._idle:
                    self._idle.remove(latch)
        latches.clear()
        if taken:
            taken[0].rescue()
            taken.clear()
        # Not logged in this thread: an exception in the wrong place of `logging` would leave the
        # lock of a handler held for good.
        self._mailbox.post(self._on_stray, stray)

    def _run_requests(self, number: int, latch: Lock, taken: list[Exchange]) -> None:
        latch.acquire()
        jobs, idle, run, clock = self.jobs, self._idle, self._run, time.monotonic
        mailbox = self._mailbox
        ring = mailbox.ring
        busy = self._busy
        now = clock()
        silent = False
        # This takes a request from the queue and puts it into `taken` in one step of the
        # interpreter. So no exception can be raised in between, and `_recover` finds the request.
        take = map(taken.append, iter(jobs.popleft, None))
        while True:
            try:
                next(take)
            except IndexError:
                if silent:
                    silent = False
                    ring()
                with self._lock:
                    # Checked again under the lock, because only threads in `idle` are woken.
                    if jobs:
                        continue
                    if self._stopping:
                        break
                    busy[number] = 0
                    idle.append(latch)
                latch.acquire()
                now = clock()
                continue
            busy[number] = 1
            if jobs and idle and not self._quick:
                self._wake(1)
            run(taken[0])
            # Otherwise the thread would keep the request alive until its next one.
            taken.clear()
            begun, now = now, clock()
            self._quick = now - begun < _QUICK and now > self._wary_until
            # Only while a check is due, so that no response waits for longer than that.
            silent = self._quick and mailbox.due and bool(jobs)
            if not silent:
                ring()

    def stop(self) -> None:
        """End each thread when it finds no more requests."""
        self._mailbox.due = False
        self._timer.stop()
        self._timer.close()
        with self._lock:
            self._stopping = True
        self._wake(len(self._busy))
