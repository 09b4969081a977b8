"""Whether things make progress: a look compares what there is with what there was at the last."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Progress(Generic[T]):
    """Counts of things as the looks found them. What a look does not ask for is forgotten."""

    def __init__(self) -> None:
        # The count at the last look, and the time in seconds since which it is that.
        self._seen: dict[T, tuple[int, float]] = {}
        self._before: dict[T, tuple[int, float]] = {}
        self._now = 0.0

    def begin_look(self, now: float) -> None:
        """Begin with a look at all things.

        Args:
            now: the time, in seconds.
        """
        self._before, self._seen = self._seen, {}
        self._now = now

    def is_stuck(self, what: T, count: int, timeout: float) -> bool:
        """Whether the count of something has not changed for too long.

        Args:
            what: the thing.
            count: what grows with its progress, such as bytes.
            timeout: seconds for which it may stay as it is.
        """
        before = self._before.get(what)
        if before is None or before[0] != count:
            self._seen[what] = (count, self._now)
            return False
        if self._now - before[1] >= timeout:
            return True
        self._seen[what] = before
        return False
