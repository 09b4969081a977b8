"""How a request ended, in the words of the access log."""

from __future__ import annotations

from enum import StrEnum


class Ending(StrEnum):
    """How a request ended."""

    COMPLETE = "complete"
    """The whole answer has left."""
    CANCELLED = "cancelled"
    """The web server gave it up, or closed the connection."""
    TIMED_OUT = "timed-out"
    """Nothing more of it came (408), or nothing could be sent."""
    REFUSED = "refused"
    """It was answered without the app: 400, 413, 431 or 503."""
    BROKEN = "broken"
    """The app failed in the middle of its answer, or the connection made no sense any more."""
    STOPPED = "stopped"
    """The server was stopped before the answer had left."""
