"""The web server's end of a FastCGI connection, without I/O: the twin of `ServerConnection`."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

from vsgi_fcgi.exceptions import LocalProtocolError, ParamsError, RemoteProtocolError
from vsgi_fcgi.protocol.client_request import ClientRequest
from vsgi_fcgi.protocol.constants import KEEP_CONN, VERSION, RecordType, Role
from vsgi_fcgi.protocol.events import (
    Buffer,
    ClientEvent,
    RequestEnded,
    StderrReceived,
    StdoutReceived,
    TypeRefused,
    ValuesReceived,
)
from vsgi_fcgi.protocol.framing import RecordReader
from vsgi_fcgi.protocol.pairs import decode_pairs, encode_pairs
from vsgi_fcgi.protocol.records import (
    APPLICATION_ONLY,
    BEGIN_REQUEST_BODY,
    END_REQUEST_BODY,
    HEADER,
    describe,
    encode_management,
    encode_stream,
    encode_stream_end,
)
from vsgi_fcgi.protocol.state import ANSWERING, Answering, Sending

MAX_ID: Final = 65535

_BEGIN: Final = int(RecordType.BEGIN_REQUEST)
_ABORT: Final = int(RecordType.ABORT_REQUEST)
_END_REQUEST: Final = int(RecordType.END_REQUEST)
_PARAMS: Final = int(RecordType.PARAMS)
_STDIN: Final = int(RecordType.STDIN)
_DATA: Final = int(RecordType.DATA)
_FILTER: Final = int(Role.FILTER)
_AUTHORIZER: Final = int(Role.AUTHORIZER)
_ROW_STDOUT, _ROW_STDOUT_END, _ROW_STDERR, _ROW_END = ANSWERING
_JOIN_SIZE: Final = 16384
_MOST_VALUES: Final = 64
"""Pairs in an answer to GET_VALUES: three are known to the specification."""


class ClientConnection(RecordReader[ClientEvent]):
    """Turns requests into bytes, and bytes from an application into events.

    It does no I/O and knows no time. Ids are 1 to 65535, the lowest free one first: many
    applications know no id but 1. An id is free when END_REQUEST has come for it, and not before,
    whatever has become of its request.

    Args:
        max_requests: requests that may be in flight at once.

    Attributes:
        requests: the requests that have begun and of which END_REQUEST has not come, by id.
        outgoing: what `data_to_send` will return; to be looked at, not touched.
    """

    __slots__ = ("_free", "_highest", "max_requests", "outgoing", "requests")

    def __init__(self, max_requests: int = MAX_ID) -> None:
        super().__init__()
        self.max_requests = min(max_requests, MAX_ID)
        self.requests: dict[int, ClientRequest] = {}
        self.outgoing: list[Buffer] = []
        self._free: list[int] = []
        self._highest = 0

    # Sending.

    def get_values(self, names: Iterable[str]) -> None:
        """Ask what the application can do (GET_VALUES, section 4.1)."""
        content = encode_pairs((name, "") for name in names)
        self.outgoing.append(encode_management(RecordType.GET_VALUES, content))

    def begin_request(
        self, block: bytes, role: int = Role.RESPONDER, *, keep_conn: bool = True
    ) -> ClientRequest:
        """Begin a request: BEGIN_REQUEST and the whole PARAMS stream.

        Args:
            block: its params, as `encode_pairs` makes them or as they came from elsewhere.
            role: what is wanted of the application (section 6).
            keep_conn: leave the connection open afterwards (section 5.1).

        Returns:
            Its handle. STDIN follows, but not for an authorizer; then DATA for a filter.

        Raises:
            LocalProtocolError: there are as many requests in flight as may be.
        """
        if len(self.requests) >= self.max_requests:
            raise LocalProtocolError(f"{self.max_requests} requests are in flight already")
        if self._free:
            id = heappop(self._free)
        else:
            id = self._highest = self._highest + 1
        request = self.requests[id] = ClientRequest(id, role)
        request.sending = Sending.ENDED if role == _AUTHORIZER else Sending.STDIN
        begin = HEADER.pack(VERSION, _BEGIN, id, 8, 0) + BEGIN_REQUEST_BODY.pack(
            role, KEEP_CONN if keep_conn else 0
        )
        end = encode_stream_end(_PARAMS, id)
        out = self.outgoing
        size = len(block)
        if 0 < size <= _JOIN_SIZE:
            out.append(begin + HEADER.pack(VERSION, _PARAMS, id, size, 0) + block + end)
        else:
            out.append(begin)
            encode_stream(out, _PARAMS, id, block)
            out.append(end)
        return request

    def send_stdin(self, request: ClientRequest, data: Buffer) -> None:
        """Send a piece of the STDIN stream; nothing once the request has ended or was aborted.

        Args:
            request: the request.
            data: any number of bytes; they are not copied.

        Raises:
            LocalProtocolError: the stream has ended, or the role has none.
        """
        if self._may_send(request, Sending.STDIN, "STDIN"):
            encode_stream(self.outgoing, _STDIN, request.id, data)

    def end_stdin(self, request: ClientRequest) -> None:
        """End the STDIN stream.

        Raises:
            LocalProtocolError: it has ended already.
        """
        if self._may_send(request, Sending.STDIN, "STDIN"):
            self.outgoing.append(encode_stream_end(_STDIN, request.id))
            request.sending = Sending.DATA if request.role == _FILTER else Sending.ENDED

    def send_data(self, request: ClientRequest, data: Buffer) -> None:
        """Send a piece of the DATA stream of a filter, after STDIN (section 6.4).

        Raises:
            LocalProtocolError: STDIN has not ended, DATA has, or the role has no such stream.
        """
        if self._may_send(request, Sending.DATA, "DATA"):
            encode_stream(self.outgoing, _DATA, request.id, data)

    def end_data(self, request: ClientRequest) -> None:
        """End the DATA stream of a filter.

        Raises:
            LocalProtocolError: as `send_data`.
        """
        if self._may_send(request, Sending.DATA, "DATA"):
            self.outgoing.append(encode_stream_end(_DATA, request.id))
            request.sending = Sending.ENDED

    def abort(self, request: ClientRequest) -> None:
        """Give a request up (ABORT_REQUEST, section 5.4).

        What still comes of it is discarded, and its id stays taken until END_REQUEST comes.
        Nothing happens if it has ended.
        """
        if request.answering is Answering.ENDED or request.sending is Sending.ABORTED:
            return
        request.sending = Sending.ABORTED
        self.outgoing.append(HEADER.pack(VERSION, _ABORT, request.id, 0, 0))

    def data_to_send(self) -> list[Buffer]:
        """Take everything that is to be sent, in order."""
        out = self.outgoing
        self.outgoing = []
        return out

    def _may_send(self, request: ClientRequest, state: Sending, stream: str) -> bool:
        if request.sending is state:
            return True
        if request.answering is Answering.ENDED or request.sending is Sending.ABORTED:
            return False
        raise LocalProtocolError(f"{request!r} cannot send {stream} now")

    # Receiving.

    def receive_eof(self) -> list[ClientRequest]:
        """Take the end of the connection.

        Returns:
            The requests that have begun and not ended: nothing more will come of them.
        """
        left = list(self.requests.values())
        for request in left:
            _end(request, Answering.ENDED)
        self.requests.clear()
        self.outgoing.clear()
        return left

    def _check_header(self, kind: int, id: int, length: int) -> None:
        """Refuse a record that an application may not send, before its content has come."""
        record = describe(kind, id, length)
        if kind not in APPLICATION_ONLY:
            raise RemoteProtocolError(f"{record}: an application must not send this type")
        management = kind >= RecordType.GET_VALUES_RESULT
        if management and id:
            raise RemoteProtocolError(f"{record}: a management record must have id 0")
        if not management and id not in self.requests:
            raise RemoteProtocolError(f"{record}: no request with this id is in flight")
        if kind in (_END_REQUEST, RecordType.UNKNOWN_TYPE) and length != 8:
            raise RemoteProtocolError(f"{record}: its body must have 8 bytes")

    def _other(self, kind: int, id: int, content: bytes, events: list[ClientEvent]) -> None:
        self._check_header(kind, id, len(content))
        if kind == RecordType.UNKNOWN_TYPE:
            events.append(TypeRefused(content[0]))
            return
        try:
            values, _ = decode_pairs(content, _MOST_VALUES)
        except ParamsError as error:
            raise RemoteProtocolError(f"{describe(kind, id, len(content))}: {error}") from None
        events.append(ValuesReceived(values))

    def _stdout(self, kind: int, id: int, content: Buffer, events: list[ClientEvent]) -> None:
        request = self.requests.get(id)
        if request is None:
            raise self._violation(kind, id, content)
        state = (_ROW_STDOUT if content else _ROW_STDOUT_END)[request.answering]
        if state is None:
            raise self._violation(kind, id, content)
        request.answering = state
        if content and request.sending is not Sending.ABORTED:
            events.append(StdoutReceived(request, content))

    def _stderr(self, kind: int, id: int, content: Buffer, events: list[ClientEvent]) -> None:
        request = self.requests.get(id)
        if request is None or _ROW_STDERR[request.answering] is None:
            raise self._violation(kind, id, content)
        if content and request.sending is not Sending.ABORTED:
            events.append(StderrReceived(request, content))

    def _end(self, kind: int, id: int, content: Buffer, events: list[ClientEvent]) -> None:
        request = self.requests.get(id)
        if request is None or len(content) != 8:
            raise self._violation(kind, id, content)
        state = _ROW_END[request.answering]
        assert state is not None
        _end(request, state)
        del self.requests[id]
        heappush(self._free, id)
        app_status, protocol_status = END_REQUEST_BODY.unpack(content)
        events.append(RequestEnded(request, app_status, protocol_status))

    def _refuse(self, kind: int, id: int, content: Buffer, events: list[ClientEvent]) -> None:
        self._check_header(kind, id, len(content))
        raise AssertionError(f"type {kind} has no handler")  # pragma: no cover

    def _violation(self, kind: int, id: int, content: Buffer) -> RemoteProtocolError:
        record = describe(kind, id, len(content))
        try:
            self._check_header(kind, id, len(content))
        except RemoteProtocolError as error:
            return error
        return RemoteProtocolError(f"{record}: that stream has ended")


def _end(request: ClientRequest, state: Answering) -> None:
    """Whatever is left of its streams, nothing more is sent: its id may be another one's."""
    request.answering = state
    if request.sending is not Sending.ABORTED:
        request.sending = Sending.ENDED


ClientConnection._handlers = (
    ClientConnection._refuse,
    ClientConnection._refuse,  # BEGIN_REQUEST
    ClientConnection._refuse,  # ABORT_REQUEST
    ClientConnection._end,
    ClientConnection._refuse,  # PARAMS
    ClientConnection._refuse,  # STDIN
    ClientConnection._stdout,
    ClientConnection._stderr,
    ClientConnection._refuse,  # DATA
)
