"""Hands complete requests to workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from vsgi_fcgi.protocol import Request
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.contract import main_only
from vsgi_fcgi.server.reply import Reply

if TYPE_CHECKING:
    from vsgi_fcgi.server.channel import Channel
    from vsgi_fcgi.server.context import MainContext


class Pool(Protocol):
    """What runs requests: threads, or the main context itself."""

    jobs: deque[Reply]
    """Requests that no worker has taken yet."""

    def submit(self, reply: Reply) -> None:
        """Queue a request; the pool owns it from here on."""

    def hand_over(self) -> None:
        """See to it that what was queued is run: called once for all that one read brought."""

    def remove(self, reply: Reply) -> bool:
        """Take a request back; False if a worker has it already."""

    def stop(self) -> None:
        """End the workers as they become free."""


class Dispatcher:
    """The way down, from the main context to the workers.

    Args:
        context: the main context.
        pool: the workers.
    """

    __slots__ = ("_context", "_jobs", "_make_reply", "_max_queued", "_pool")

    def __init__(self, context: MainContext, pool: Pool) -> None:
        self._context = context
        self._pool = pool
        self._jobs = pool.jobs
        self._max_queued = context.config.max_queued
        log = context.access_log
        self._make_reply: Callable[[Channel, Request, Body | None], Reply] = (
            Reply if log is None else log.make_reply
        )

    @main_only
    def submit(self, channel: Channel, request: Request, body: Body | None) -> None:
        """Hand over a complete request, or answer 503 if too many wait already.

        A bare END_REQUEST/OVERLOADED would be more to the letter of the specification, but front
        ends make an empty 200 or a time-out of it.
        """
        if len(self._jobs) >= self._max_queued:
            reason = f"{self._max_queued} requests wait for a worker"
            self._context.assembler.refuse(channel, request, 503, reason)
            return
        reply = request.context = self._make_reply(channel, request, body)
        self._pool.submit(reply)

    @main_only
    def forget(self, reply: Reply) -> bool:
        """Take back a cancelled request, if no worker has begun with it."""
        return self._pool.remove(reply)

    @property
    def waiting(self) -> int:
        """Requests that no worker has taken yet."""
        return len(self._jobs)
