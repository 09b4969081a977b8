"""What a connection shows of a request beside its environ, for whoever examines a web server."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

SEEN: Final = "vsgi_fcgi.seen"
"""The key of the environ that holds a `Seen`."""

_MOST_MOMENTS: Final = 256
"""Beginnings of requests, and ends of connections, that are remembered."""


class Habits:
    """How a web server uses its connections, over all of them.

    The main context writes it; any thread may read it.
    """

    __slots__ = ("_drops", "_moments")

    def __init__(self) -> None:
        self._drops: deque[float] = deque(maxlen=_MOST_MOMENTS)
        self._moments: deque[tuple[float, int, int]] = deque(maxlen=_MOST_MOMENTS)

    def dropped(self) -> None:
        """Take note of a connection that was to be kept, and closed after its first request."""
        self._drops.append(time.monotonic())

    def used_again(self) -> None:
        """Take note of a second request on a connection."""
        self._drops.clear()

    def drops(self, seconds: float) -> int:
        """Look back.

        Args:
            seconds: how far.

        Returns:
            The connections in a row, since then, that the web server asked to have kept
            (KEEP_CONN) and closed all the same as soon as their first request was answered.
        """
        since = time.monotonic() - seconds
        return sum(moment >= since for moment in self._drops.copy())

    def began(self, total: int, most: int) -> None:
        """Take note that a request has begun.

        Args:
            total: requests in flight, with it.
            most: of those, on the connection that has the most.
        """
        self._moments.append((time.monotonic(), total, most))

    def at_once(self, seconds: float) -> tuple[int, int]:
        """Look back.

        Args:
            seconds: how far.

        Returns:
            The most requests in flight at the same time since then, and the most on a connection.
        """
        since = time.monotonic() - seconds
        moments = [moment for moment in self._moments.copy() if moment[0] >= since]
        return (
            max((total for _, total, _ in moments), default=0),
            max((most for _, _, most in moments), default=0),
        )


@dataclass(slots=True)
class Arrival:
    """How a body came.

    Attributes:
        began: when the params had come, in seconds of a clock that only moves forward.
        ended: when its last piece came.
        size: its bytes.
    """

    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it was on the line.

    Attributes:
        pairs: its params in their order; some names may be there more than once.
        role: the role as the web server sent it.
        id: the request id.
        keep_conn: whether the web server wants the connection left open.
        connection: the number of its connection, counted from 1.
        turn: which request of that connection it is, counted from 1.
        neighbours: other requests in flight on that connection when it began.
        asked_values: whether the web server has asked on that connection what the server can do.
        address: where it came to, as ``--bind`` takes it; empty if that has no name.
        arrival: how its body came.
        habits: how the web server uses its connections.
    """

    pairs: tuple[tuple[str, str], ...]
    role: int
    id: int
    keep_conn: bool
    connection: int
    turn: int
    neighbours: int
    asked_values: bool
    address: str
    arrival: Arrival
    habits: Habits
