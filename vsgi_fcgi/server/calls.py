"""VSGI's promise for threads: shared state is safe because it is touched in the main context.

``environ["vsgi_fcgi.main_context"].call(function, *args)`` runs the function there, one such
call at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import gevent

from vsgi_fcgi.exceptions import MainContextClosed
from vsgi_fcgi.loop import Loop
from vsgi_fcgi.native import get_ident
from vsgi_fcgi.server.figures import Figures
from vsgi_fcgi.server.gates import Gate, GreenletGate, ThreadGate
from vsgi_fcgi.server.mailbox import Item, Mailbox

P = ParamSpec("P")
T = TypeVar("T")


class _Call:
    __slots__ = ("ended", "error", "function", "gate", "result")

    def __init__(self, function: Callable[[], Any], gate: Gate) -> None:
        self.function = function
        self.gate = gate
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error
        self._end()

    def refuse(self, why: str = "the function did not run") -> None:
        self.error = MainContextClosed(f"the main context has ended; {why}")
        self._end()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self.gate.open()


class MainContextCalls:
    """What an app finds as ``environ["vsgi_fcgi.main_context"]``.

    Args:
        mailbox: the way into the main context.
        loop: its loop.
        figures: what the server counts.

    Attributes:
        figures: connections and requests of this server in numbers, for any thread to read.
    """

    def __init__(self, mailbox: Mailbox, loop: Loop, figures: Figures) -> None:
        self.figures = figures
        self._mailbox = mailbox
        self._loop = loop
        self._ident = get_ident()
        self._waiting: deque[_Call] = deque()
        self._runner: Any = None
        self._running: _Call | None = None
        self._closed = False

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function(*args, **kwargs)`` in the main context, and wait for it.

        No two functions that were handed over run at the same time, even if one of them waits
        for something cooperatively. From inside such a function it is a plain call.

        Returns:
            What the function returns.

        Raises:
            MainContextClosed: the server has stopped; the function did not run.
            BaseException: whatever the function raises.
        """
        inside = get_ident() == self._ident
        if inside and gevent.getcurrent() is self._runner:
            return function(*args, **kwargs)
        gate: Gate = GreenletGate() if inside else ThreadGate()
        call = _Call(lambda: function(*args, **kwargs), gate)
        if not self._mailbox.post(self._take, call):
            call.refuse()
        gate.wait(None)
        if call.error is not None:
            try:
                raise call.error
            finally:
                del call  # it holds the error, whose traceback holds this frame
        result: T = call.result
        return result

    def _take(self, call: _Call) -> None:
        if self._closed:
            call.refuse()
            return
        self._waiting.append(call)
        if self._runner is None:
            # A greenlet: the function may wait, and a lock that it takes may be cooperative.
            self._runner = gevent.spawn_raw(self._run)

    def _run(self) -> None:
        while self._waiting:
            self._running = self._waiting.popleft()
            self._running.run()
        self._running = self._runner = None

    def close(self, unmade: list[Item]) -> list[Item]:
        """Refuse the calls that will not be made: those that wait, and those handed back.

        Args:
            unmade: what the mailbox handed back.

        Returns:
            What of it is no such call.
        """
        self._closed = True
        others = []
        for item in unmade:
            if isinstance(item[1], _Call):
                item[1].refuse()
            else:
                others.append(item)
        while self._waiting:
            self._waiting.popleft().refuse()
        if self._running is not None:
            # It waits for something, and the loop will not run again.
            self._running.refuse("the function was still waiting and will not go on")
        return others
