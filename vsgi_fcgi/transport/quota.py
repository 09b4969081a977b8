"""Limits on totals: bytes in memory and in temporary files; and queues of small pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from vsgi_fcgi.transport.unpatched import allocate_lock


class Quota:
    """A number of bytes that many users share.

    Args:
        limit: the number of bytes that can be reserved.

    Attributes:
        used: bytes in use; other threads may read it as a hint.
    """

    __slots__ = ("_lock", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._lock = allocate_lock()

    @property
    def is_exceeded(self) -> bool:
        """Whether `charge` has brought the use to more than one and a half times the limit."""
        return 2 * self.used > 3 * self.limit

    def reserve(self, size: int) -> bool:
        """Reserve ``size`` bytes. Callable from any thread.

        Returns:
            Whether that many bytes were left. If not, nothing is reserved.
        """
        with self._lock:
            if self.used + size > self.limit:
                return False
            self.used += size
            return True

    def charge(self, size: int) -> None:
        """Count ``size`` bytes as used, even past the limit. Callable from any thread.

        Args:
            size: bytes; a negative number releases them.
        """
        with self._lock:
            self.used += size

    def release(self, size: int) -> None:
        """Return ``size`` bytes. Callable from any thread."""
        with self._lock:
            self.used -= size


# Queues of pieces of bytes. Small neighbouring pieces share one object.

Piece = bytes | bytearray | memoryview

SMALL_PIECE: Final = 1024
"""Smaller pieces are joined. A bytes object of 2 bytes takes 43 bytes with its queue entry."""


class _Queue(Protocol):
    """A list or a deque. It may also hold objects other than bytes."""

    @property
    def append(self) -> Callable[[Any], object]:
        """Append an item."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def __setitem__(self, index: int, item: Any, /) -> None: ...


def append_piece(pieces: _Queue, data: Piece) -> None:
    """Append a piece to a list or deque, or to its last item if both are small.

    The first piece of a queue is not copied, because most queues never get a second one.

    Args:
        pieces: the queue. Each bytearray in it was created here.
        data: the piece. It is not copied if it is large and immutable.
    """
    if len(data) >= SMALL_PIECE or not pieces:
        pieces.append(bytes(data) if type(data) is bytearray else data)
    elif type(last := pieces[-1]) is bytearray:
        last += data
    else:
        pieces.append(bytearray(data))
