"""``--worker thread``: a fixed pool of native threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from vsgi_fcgi.server import contract
from vsgi_fcgi.server.contract import main_only
from vsgi_fcgi.server.loop import Loop
from vsgi_fcgi.server.native import Lock, allocate_lock
from vsgi_fcgi.server.reply import Reply


class ThreadPool:
    """Threads that belong to requests and never to connections.

    Waking a thread costs more than a small app does. So what one round of the loop brings is
    handed over together: one thread is woken, and it wakes the next, if there is more to do,
    before it begins. Where the app blocks, the next thread runs at once; where it does not, one
    thread does it all without a switch.

    Args:
        run: runs one request, in a thread.
        loop: the main context's loop.
    """

    def __init__(self, run: Callable[[Reply], None], loop: Loop) -> None:
        self._run = run
        self._loop = loop
        self._jobs: deque[Reply] = deque()
        self._lock = allocate_lock()
        self._idle: list[Lock] = []
        self._handing_over = False
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

    @property
    def waiting(self) -> int:
        """Requests that no thread has taken yet."""
        return len(self._jobs)

    @main_only
    def submit(self, reply: Reply) -> None:
        """Queue a request; a thread is woken at the end of the loop's round."""
        self._jobs.append(reply)
        if not self._handing_over:
            self._handing_over = True
            self._loop.run_callback(self._hand_over)

    @main_only
    def remove(self, reply: Reply) -> bool:
        """Take a request back; False if a thread has it already."""
        try:
            self._jobs.remove(reply)
        except ValueError:
            return False
        return True

    def _hand_over(self) -> None:
        self._handing_over = False
        if self._jobs:
            self._wake_one()

    def _wake_one(self) -> None:
        with self._lock:
            gate = self._idle.pop() if self._idle else None
        if gate is not None:
            gate.release()

    def _work(self) -> None:
        contract.enter_worker()
        gate = allocate_lock()
        gate.acquire()
        jobs, idle, run = self._jobs, self._idle, self._run
        while True:
            try:
                reply = jobs.popleft()
            except IndexError:
                with self._lock:
                    # Looked at again under the lock: whoever appends wakes only who is in `idle`.
                    if jobs:
                        continue
                    if self._stopping:
                        break
                    idle.append(gate)
                gate.acquire()
                continue
            if jobs and idle:
                self._wake_one()
            run(reply)
            # Or the thread would keep a request alive until its next one.
            del reply
        contract.leave_worker()

    def stop(self) -> None:
        """End each thread when it finds nothing more to do."""
        with self._lock:
            self._stopping = True
            gates = self._idle[:]
            self._idle.clear()
        for gate in gates:
            gate.release()
