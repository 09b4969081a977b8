"""What a filter gets: the body of a request, and a file of the web server."""

from __future__ import annotations

from vsgi_fcgi.budget import Budget
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.disk import Disk


class FilterBody(Body):
    """The body of a request, which has its file with it.

    Args:
        expected: bytes that CONTENT_LENGTH promises, or None.
        data: the file.
        memory: the total of bytes in memory.
        spool: the total of bytes in temporary files.

    Attributes:
        data: the file.
    """

    __slots__ = ("data",)

    def __init__(self, expected: int | None, data: Body, memory: Budget, spool: Budget) -> None:
        super().__init__(expected, memory, spool)
        self.data = data

    @property
    def complete(self) -> bool:
        """Whether all of both has come, and is where it is to be."""
        data = self.data
        return self.ended and data.ended and not self.writing and not data.writing

    def release(self, disk: Disk) -> None:
        """Give back what both take. The file, if it is still being written, is released then."""
        super().release(disk)
        if not self.data.writing:
            self.data.release(disk)
