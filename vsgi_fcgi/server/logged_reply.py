"""A reply whose request gets a line in the access log."""

from __future__ import annotations

from vsgi_fcgi.server.contract import main_only, worker_only
from vsgi_fcgi.server.reply import Reply


class LoggedReply(Reply):
    """What the access log wants to know, noted where it happens.

    Made by `AccessFormat.make_reply`. Times are in nanoseconds by `time.monotonic_ns`; they are
    there if the format tells of them.

    Attributes:
        notes: what the format needs of the request; the main context's.
        head: the header block, once the worker has written some of an answer that does not leave
            in one piece.
        run_began: when a worker began with it; 0 before that.
        run_ended: when the worker had done with it.
        ended: when the answer left.
    """

    __slots__ = ("ended", "head", "notes", "run_began", "run_ended")

    notes: tuple[object, ...]
    head: bytes
    run_began: int
    run_ended: int
    ended: int

    @worker_only
    def write(self, data: bytes) -> None:
        """Send a piece of STDOUT; the first one holds the whole header block."""
        if not self.head:
            self.head = _head_of(data)
        Reply.write(self, data)

    @main_only
    def hold(self) -> None:
        """Have the last piece counted, which may be the first one too."""
        if not self.head:
            self.head = _head_of(self.final)
        Reply.hold(self)

    def sent_in_all(self) -> int:
        """Bytes of STDOUT of an answer that has left, with its last piece."""
        if self.begun and self.output is not None:
            return self.output.sent + len(self.final)
        return len(self.final)


def _head_of(data: bytes) -> bytes:
    return data[: data.find(b"\r\n\r\n") + 4]
