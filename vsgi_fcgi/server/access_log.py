"""The access log: one line for each request, however it ends."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from vsgi_fcgi.protocol import Outbound, Request
from vsgi_fcgi.server.access_format import AccessFormat, encoded
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.contract import main_only
from vsgi_fcgi.server.endings import Ending
from vsgi_fcgi.server.line_writer import LineWriter
from vsgi_fcgi.server.logged_reply import LoggedReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vsgi_fcgi.loop import Loop
    from vsgi_fcgi.server.channel import Channel

_INTERVAL: Final = 0.1
"""Seconds after which lines are written at the latest. To wake a thread for each of them would
cost more than the line."""

_BATCH: Final = 64
"""Answers of which the lines are made together. One at a time, between other things, they would
cost twice as much: their code has left the processor's caches each time."""


class AccessLog:
    """Makes the lines in the main context, and has a thread write them, many at a time.

    They are not made by that thread: while it made a thousand of them, the connections would wait
    for the interpreter. And only text of a known size waits for a disk that is slow.

    Args:
        format: the setting ``access_log_format``.
        writer: writes the lines.
        loop: the main context's loop.

    Attributes:
        make_reply: makes the reply of a request that is handed over, and still has its params.
        completed: notes a reply that is about to leave, or to be broken off. It is a
            `LoggedReply`, as all are.
        due: whether it is seen to that lines are made; else, `make_lines_soon` is to be called.
        times_runs: workers are to note when they began, and when they had done.
    """

    __slots__ = (
        "_ended",
        "_format",
        "_timer",
        "_writer",
        "completed",
        "due",
        "make_reply",
        "times_runs",
    )

    completed: Callable[[Any], object]
    make_reply: Callable[[Channel, Request, Body | None], LoggedReply]

    def __init__(self, format: str, writer: LineWriter, loop: Loop) -> None:
        self._writer = writer
        self._ended: deque[LoggedReply] = deque()
        # What does not fit into the writer is dropped together, too.
        batch = min(_BATCH, writer.max_lines)
        self._format = AccessFormat(format, self._ended, batch, self._make_lines)
        self.make_reply = self._format.make_reply
        self.completed = self._complete if self._format.times_ends else self._ended.append
        self.times_runs = self._format.times_runs
        self.due = False
        self._timer = loop.timer(_INTERVAL, _INTERVAL)

    @main_only
    def _complete(self, reply: LoggedReply) -> None:
        reply.ended = monotonic_ns()
        self._ended.append(reply)

    @main_only
    def make_lines_soon(self) -> None:
        """Have lines made and written in a moment."""
        self.due = True
        self._timer.again(self._ring, update=True)

    def _ring(self) -> None:
        self.due = False
        self._timer.stop()
        self._make_lines()
        self._writer.ring()

    def _make_lines(self) -> None:
        ended = self._ended
        replies: list[LoggedReply] = []
        # By two threads at once in `cut_off`: each takes what the other has left.
        with suppress(IndexError):
            for _ in range(len(ended)):
                replies.append(ended.popleft())
        if replies:
            self._writer.put(self._format.lines(replies), len(replies))

    @main_only
    def refused(
        self, channel: Channel, request: Request, held: object, response: bytes, ending: Ending
    ) -> None:
        """Note that a request is answered without an app.

        Args:
            channel: its connection.
            request: the request.
            held: what there was of it: its body, or None.
            response: the answer.
            ending: why.
        """
        self._add(self._early_line(channel, request, held, response, ending))

    @main_only
    def given_up(self, channel: Channel, request: Request, held: object, ending: Ending) -> None:
        """Note that a request ends without a whole answer.

        Args:
            channel: its connection.
            request: the request.
            held: what there was of it: its reply, its body, or None.
            ending: why.
        """
        self._add(self._line_of(channel, request, held, ending))

    def _line_of(self, channel: Channel, request: Request, held: object, ending: Ending) -> str:
        if not isinstance(held, LoggedReply):
            return self._early_line(channel, request, held, b"", ending)
        # What a worker has written last was not sent.
        sent = held.sent_in_all() - len(held.final)
        return self._format.line_of(held, sent, ending, monotonic_ns())

    def _early_line(
        self, channel: Channel, request: Request, held: object, response: bytes, ending: Ending
    ) -> str:
        """The line of a request that was handed to no worker."""
        body = held if isinstance(held, Body) else None
        # Of a request whose params have not all come there are none.
        params = getattr(request, "params", {})
        notes = self._format.note(channel, request, params, body, False)
        times = 0, 0, monotonic_ns()
        return self._format.line(notes, response, len(response), ending.value, *times)

    def _add(self, line: str) -> None:
        # After those that ended before.
        self._make_lines()
        self._writer.put(encoded(line), 1)
        if not self.due:
            self.make_lines_soon()

    @main_only
    def close(self) -> None:
        """Note nothing more, and leave all lines to the writer."""
        self.due = True
        self._timer.stop()
        self._timer.close()
        self._make_lines()

    def cut_off(self, channels: Iterable[Channel], timeout: float) -> None:
        """Note the requests that are lost with the process, which ends now, and write all lines.

        By the thread that ends it, while the main context may be busy for ever.

        Args:
            channels: the connections.
            timeout: seconds for writing, at the most.
        """
        # The loop is not to be touched by this thread.
        self.due = True
        self._make_lines()
        for channel in list(channels):
            for request in list(channel.connection.requests.values()):
                if request.outbound is Outbound.OPEN:
                    line = self._line_of(channel, request, request.context, Ending.STOPPED)
                    self._writer.put(encoded(line), 1)
        self._writer.flush(timeout)
