"""``--worker main``: the app runs in the main context, one request at a time, as in VSGI."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import gevent

from vsgi_fcgi.loop import Loop
from vsgi_fcgi.server import contract
from vsgi_fcgi.server.contract import main_only
from vsgi_fcgi.server.mailbox import Mailbox
from vsgi_fcgi.server.reply import Reply

_TURN = 0.002
"""Seconds for which apps run before the loop has its turn, and answers leave."""


class MainWorker:
    """One greenlet of the main context.

    A greenlet, and not the watcher's callback itself: an app may call something cooperative, and
    then the loop goes on while this one request waits.

    Args:
        run: runs one request.
        loop: the main context's loop.
        mailbox: takes the answers.
        drain: sends what the mailbox holds.
    """

    def __init__(
        self,
        run: Callable[[Reply], None],
        loop: Loop,
        mailbox: Mailbox,
        drain: Callable[[], object],
    ) -> None:
        self._run = run
        self._mailbox = mailbox
        self._drain = drain
        self._loop = loop
        self.jobs: deque[Reply] = deque()
        self._hub = gevent.get_hub()
        self._greenlet = gevent.spawn_raw(self._work)
        # As long as it is busy, it looks for work by itself.
        self._busy = True
        self._in_turn = False
        self._stopping = False

    @main_only
    def submit(self, reply: Reply) -> None:
        """Queue a request; it runs at the next `hand_over`."""
        self.jobs.append(reply)

    @main_only
    def hand_over(self) -> None:
        """Run what was queued, now: what was just read is still in the processor's caches."""
        if self.jobs and not self._busy:
            self._busy = True
            self._turn()

    @main_only
    def remove(self, reply: Reply) -> bool:
        """Take a request back; False if it has begun."""
        try:
            self.jobs.remove(reply)
        except ValueError:
            return False
        return True

    def _turn(self) -> None:
        """Run apps, then send their answers. In the hub's greenlet."""
        self._in_turn = True
        self._greenlet.switch()
        # Here again when the greenlet has nothing to do, or when an app waits cooperatively.
        self._in_turn = False
        self._drain()

    def _work(self) -> None:
        contract.enter_worker()
        jobs, run, clock = self.jobs, self._run, time.monotonic
        while True:
            turn_ends = clock() + _TURN
            while jobs:
                run(jobs.popleft())
                if clock() > turn_ends:
                    break
            if not self._in_turn:
                # An app had waited: nobody stands by to drain.
                self._mailbox.ring()
            if jobs:
                self._loop.run_callback(self._turn)
            elif self._stopping:
                break
            else:
                self._busy = False
            self._hub.switch()
        contract.leave_worker()

    def stop(self) -> None:
        """End the greenlet when it finds nothing more to do."""
        self._stopping = True
        if not self._busy:
            self._busy = True
            self._loop.run_callback(self._turn)
