"""Totals over all requests: bytes in memory, bytes in temporary files."""

from __future__ import annotations

from vsgi_fcgi.native import allocate_lock


class Budget:
    """A number of bytes that many share.

    Args:
        limit: bytes that may be taken at once.

    Attributes:
        used: bytes that are taken; other threads may read it as a hint.
    """

    __slots__ = ("_lock", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._lock = allocate_lock()

    def take(self, size: int) -> bool:
        """Take ``size`` bytes, if they are left. From any thread."""
        with self._lock:
            if self.used + size > self.limit:
                return False
            self.used += size
            return True

    def force(self, size: int) -> None:
        """Count ``size`` bytes (or, negative, give them back) whatever is left."""
        with self._lock:
            self.used += size

    def give(self, size: int) -> None:
        """Give ``size`` bytes back. From any thread."""
        with self._lock:
            self.used -= size
