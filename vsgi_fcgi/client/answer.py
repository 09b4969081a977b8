"""The answer to a request: its head, then its body as it comes."""

from __future__ import annotations

from collections.abc import Iterator

from vsgi_fcgi.client.call import Call
from vsgi_fcgi.exceptions import ResponseError, UpstreamBroken
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.wsgi.response_head import ResponseHead, ResponseHeadReader


class Answer:
    """Reads the head of an answer, and checks that its body is whole.

    Args:
        call: the request, which was started; it is closed if there is no head.
        limit: bytes that the head may have.
        head_only: the answer to HEAD: its Content-Length counts what is not there.

    Attributes:
        call: the request.
        head: the status and the headers.

    Raises:
        UpstreamError: there is no head.
    """

    def __init__(self, call: Call, limit: int, *, head_only: bool = False) -> None:
        self.call = call
        self._pieces = call.pieces()
        try:
            self.head, self._first = self._read_head(limit)
        except BaseException:
            call.close()
            raise
        self._has_body = self.head.has_body and not head_only

    def _read_head(self, limit: int) -> tuple[ResponseHead, bytes]:
        reader = ResponseHeadReader(limit)
        peer = self.call.exchange.connection.peer
        try:
            for piece in self._pieces:
                found = reader.feed(piece)
                if found is not None:
                    return found
        except ResponseError as error:
            raise UpstreamBroken(f"{peer}: {error}") from None
        raise UpstreamBroken(f"{peer} has ended its answer before the end of the headers")

    def body(self) -> Iterator[Buffer]:
        """The body, piece by piece as it comes; nothing where the status allows none.

        Raises:
            UpstreamError: the rest of it is missing, or it is longer than it said.
        """
        if not self._has_body:
            # Whatever comes is read, so that the end of the request is seen.
            for _ in self._pieces:
                continue
            return
        length, sent = self.head.length, len(self._first)
        first = self._first if length is None else self._first[:length]
        if first:
            yield first
        try:
            for piece in self._pieces:
                if length is not None and sent + len(piece) > length:
                    piece = piece[: max(0, length - sent)]
                sent += len(piece)
                if piece:
                    yield piece
        except UpstreamBroken:
            # The exit status of a program says nothing of an answer that is whole.
            exchange = self.call.exchange
            if length is None or sent < length or exchange.failure or exchange.protocol_status:
                raise
        if length is not None and sent < length:
            peer = self.call.exchange.connection.peer
            raise UpstreamBroken(f"{peer} has sent {sent} bytes of a body of {length}", begun=True)

    def close(self) -> None:
        """Need nothing more of it; if it has not ended, it is aborted."""
        self.call.close()


def ask(call: Call, limit: int, *, head_only: bool = False) -> Answer:
    """Send a request and wait for the head of its answer; a 503 has another server asked.

    Args:
        call: the request, which was not started.
        limit: as of `Answer`.
        head_only: as of `Answer`.

    Raises:
        UpstreamError: there is no answer.
    """
    call.start()
    answer = Answer(call, limit, head_only=head_only)
    if answer.head.status == 503 and call.repeat_elsewhere():
        answer = Answer(call, limit, head_only=head_only)
    return answer
