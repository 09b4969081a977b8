"""How processes that accept on the same listeners share the connections: in shared memory."""

from __future__ import annotations

import mmap
import os
from typing import Final

from vsgi_fcgi.descriptors import open_memory

SLOTS: Final = 256
"""Maximum number of processes in a table. Further processes accept whatever comes."""

_SIZE: Final = 8 * SLOTS


def make_table() -> int:
    """Return the descriptor of a new table, in which no process has a slot."""
    return open_memory("vsgi-fcgi", _SIZE)


class Sharing:
    """The number of connections of each process.

    Without it, the process that wakes up first would take all connections that a web server opens
    at a time. A web server that keeps them would then use only this process.

    Args:
        fd: descriptor of the table, which is closed.
        slot: the number of this process in the table; -1 to have none.

    Attributes:
        slot: the number of this process in the table; -1 if it has none.
    """

    def __init__(self, fd: int, slot: int) -> None:
        self._table = memoryview(mmap.mmap(fd, _SIZE)).cast("q")
        os.close(fd)
        self.slot = slot

    def set(self, count: int) -> None:
        """Note how many connections this process has."""
        if self.slot >= 0:
            # 0 is a free slot.
            self._table[self.slot] = count + 1

    def free(self, slot: int | None = None) -> None:
        """Free a slot, by default that of this process, which accepts no more connections."""
        if slot is None:
            slot, self.slot = self.slot, -1
        if slot >= 0:
            self._table[slot] = 0

    def fewer(self) -> int:
        """Return how many connections the other processes have that have fewer than this one.

        It is counted in a way that is 0 only if there is no such process.
        """
        if self.slot < 0:
            return 0
        mine = self._table[self.slot]
        return sum(count for count in self._table.tolist() if 0 < count < mine)
