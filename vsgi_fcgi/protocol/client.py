"""The web server's end of a FastCGI connection, without I/O: the counterpart of `ServerProtocol`.

A request is a `ClientRequest`. Methods that send append buffers to `outgoing`; the caller takes
them with `data_to_send`. Received records change the state of their request by the table
`vsgi_fcgi.protocol.state.RECEIVING` and become events.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final, final

from vsgi_fcgi.exceptions import LocalProtocolError, ParamsError, RemoteProtocolError
from vsgi_fcgi.protocol.constants import KEEP_CONN, VERSION, Buffer, RecordType, Role
from vsgi_fcgi.protocol.events import (
    ClientEvent,
    ClientRequest,
    RequestEnded,
    StderrReceived,
    StdoutReceived,
    TypeRefused,
    ValuesReceived,
)
from vsgi_fcgi.protocol.records import (
    APPLICATION_ONLY,
    BEGIN_REQUEST_BODY,
    END_REQUEST_BODY,
    HEADER,
    STREAMS,
    RecordReader,
    decode_pairs,
    describe,
    encode_management,
    encode_pairs,
    encode_stream,
    encode_stream_end,
)
from vsgi_fcgi.protocol.state import RECEIVING, Receiving, Sending

MAX_ID: Final = 65535

_UNKNOWN_TYPE: Final = int(RecordType.UNKNOWN_TYPE)
_BEGIN: Final = int(RecordType.BEGIN_REQUEST)
_ABORT: Final = int(RecordType.ABORT_REQUEST)
_END_REQUEST: Final = int(RecordType.END_REQUEST)
_PARAMS: Final = int(RecordType.PARAMS)
_STDIN: Final = int(RecordType.STDIN)
_DATA: Final = int(RecordType.DATA)
_MAX_APPLICATION_TYPE: Final = _DATA
_FILTER: Final = int(Role.FILTER)
_AUTHORIZER: Final = int(Role.AUTHORIZER)
_ROW_STDOUT, _ROW_STDOUT_END, _ROW_STDERR, _ROW_END = RECEIVING
_JOIN_SIZE: Final = 16384
_MAX_VALUES: Final = 64
"""Maximum pairs in GET_VALUES_RESULT; the specification defines three."""


@final
class ClientProtocol(RecordReader[ClientEvent]):
    """Turns requests into bytes, and bytes from an application into events.

    It does no I/O and reads no clock. A new request gets the lowest free id from 1 to 65535,
    because many applications accept no id but 1. An id is free only after END_REQUEST has arrived
    for it, even if its request was aborted.

    Args:
        max_requests: the maximum number of requests in flight.

    Attributes:
        requests: the requests without END_REQUEST so far, by id.
        outgoing: the buffers that `data_to_send` will return; read-only for the caller.
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
        """Ask the application for its capabilities (GET_VALUES, section 4.1)."""
        content = encode_pairs((name, "") for name in names)
        self.outgoing.append(encode_management(RecordType.GET_VALUES, content))

    def begin_request(
        self, block: bytes, role: int = Role.RESPONDER, *, keep_conn: bool = True
    ) -> ClientRequest:
        """Begin a request: send BEGIN_REQUEST and the whole PARAMS stream.

        Args:
            block: the encoded params, for example from `encode_pairs`.
            role: the role of the application (section 6).
            keep_conn: whether the application must leave the connection open (section 5.1).

        Returns:
            The handle of the request. The caller then sends STDIN, except for an authorizer, and
            after it DATA for a filter.

        Raises:
            LocalProtocolError: the maximum number of requests is in flight.
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
        request.head = out[-1]
        return request

    def send_stdin(self, request: ClientRequest, data: Buffer) -> None:
        """Send a piece of the STDIN stream; do nothing if the request has ended or was aborted.

        Args:
            request: the request.
            data: any number of bytes; they are not copied.

        Raises:
            LocalProtocolError: STDIN has ended, or the role has no STDIN.
        """
        if self._may_send(request, Sending.STDIN, "STDIN"):
            encode_stream(self.outgoing, _STDIN, request.id, data)

    def end_stdin(self, request: ClientRequest) -> None:
        """End the STDIN stream.

        Raises:
            LocalProtocolError: STDIN has already ended, or the role has no STDIN.
        """
        if self._may_send(request, Sending.STDIN, "STDIN"):
            self.outgoing.append(encode_stream_end(_STDIN, request.id))
            request.sending = Sending.DATA if request.role == _FILTER else Sending.ENDED

    def send_data(self, request: ClientRequest, data: Buffer) -> None:
        """Send a piece of the DATA stream of a filter, after STDIN (section 6.4).

        Raises:
            LocalProtocolError: STDIN has not ended, DATA has ended, or the role has no DATA.
        """
        if self._may_send(request, Sending.DATA, "DATA"):
            encode_stream(self.outgoing, _DATA, request.id, data)

    def end_data(self, request: ClientRequest) -> None:
        """End the DATA stream of a filter.

        Raises:
            LocalProtocolError: STDIN has not ended, DATA has ended, or the role has no DATA.
        """
        if self._may_send(request, Sending.DATA, "DATA"):
            self.outgoing.append(encode_stream_end(_DATA, request.id))
            request.sending = Sending.ENDED

    def abort(self, request: ClientRequest) -> None:
        """Abort a request (ABORT_REQUEST, section 5.4); do nothing if it has ended.

        The rest of its response is discarded. Its id stays in use until END_REQUEST arrives.
        """
        if request.receiving is Receiving.ENDED or request.sending is Sending.ABORTED:
            return
        request.sending = Sending.ABORTED
        self.outgoing.append(HEADER.pack(VERSION, _ABORT, request.id, 0, 0))

    def data_to_send(self) -> list[Buffer]:
        """Return all unsent buffers in order, and forget them."""
        out = self.outgoing
        self.outgoing = []
        return out

    def _may_send(self, request: ClientRequest, state: Sending, stream: str) -> bool:
        if request.sending is state:
            return True
        if request.receiving is Receiving.ENDED or request.sending is Sending.ABORTED:
            return False
        raise LocalProtocolError(f"{request!r} cannot send {stream} now")

    # Receiving.

    def receive_eof(self) -> list[ClientRequest]:
        """Process the end of the connection.

        Returns:
            The requests that have not ended; no more events refer to them.
        """
        left = list(self.requests.values())
        for request in left:
            _end(request, Receiving.ENDED)
        self.requests.clear()
        self.outgoing.clear()
        return left

    def _check_header(self, kind: int, id: int, length: int) -> None:
        """Check that an application may send a record, before its content has arrived.

        An empty stream record carries no data, so it is ignored where it does not belong, for
        example after END_REQUEST.

        Raises:
            RemoteProtocolError: the application may not send the record.
        """
        if not length and kind in STREAMS:
            return
        management = kind > _MAX_APPLICATION_TYPE
        if kind not in APPLICATION_ONLY:
            why = "an application must not send this type"
        elif management and id:
            why = "a management record must have id 0"
        elif not management and id not in self.requests:
            why = "no request with this id is in flight"
        elif kind in (_END_REQUEST, _UNKNOWN_TYPE) and length != 8:
            why = "its body must have 8 bytes"
        else:
            return
        raise RemoteProtocolError(f"{describe(kind, id, length)}: {why}")

    def _other(self, kind: int, id: int, content: bytes, events: list[ClientEvent]) -> None:
        self._check_header(kind, id, len(content))
        if kind in STREAMS:
            return  # an empty stream record without a request
        if kind == RecordType.UNKNOWN_TYPE:
            events.append(TypeRefused(content[0]))
            return
        try:
            values, _ = decode_pairs(content, _MAX_VALUES)
        except ParamsError as error:
            raise RemoteProtocolError(f"{describe(kind, id, len(content))}: {error}") from None
        events.append(ValuesReceived(values))

    def _stdout(self, kind: int, id: int, content: Buffer, events: list[ClientEvent]) -> None:
        request = self.requests.get(id)
        if request is None:
            if not content:
                return
            raise self._violation(kind, id, content)
        state = (_ROW_STDOUT if content else _ROW_STDOUT_END)[request.receiving]
        if state is None:
            raise self._violation(kind, id, content)
        request.receiving = state
        if content and request.sending is not Sending.ABORTED:
            events.append(StdoutReceived(request, content))

    def _stderr(self, kind: int, id: int, content: Buffer, events: list[ClientEvent]) -> None:
        request = self.requests.get(id)
        if request is None or _ROW_STDERR[request.receiving] is None:
            if not content:
                return
            raise self._violation(kind, id, content)
        if content and request.sending is not Sending.ABORTED:
            events.append(StderrReceived(request, content))

    def _end(self, kind: int, id: int, content: Buffer, events: list[ClientEvent]) -> None:
        request = self.requests.get(id)
        if request is None or len(content) != 8:
            raise self._violation(kind, id, content)
        state = _ROW_END[request.receiving]
        assert state is not None
        _end(request, state)
        del self.requests[id]
        heappush(self._free, id)
        app_status, protocol_status = END_REQUEST_BODY.unpack(content)
        events.append(RequestEnded(request, app_status, protocol_status))

    def _refuse(self, kind: int, id: int, content: Buffer, events: list[ClientEvent]) -> None:
        """Reject a record that only a web server may send; ignore an empty stream record."""
        self._check_header(kind, id, len(content))

    def _violation(self, kind: int, id: int, content: Buffer) -> RemoteProtocolError:
        try:
            self._check_header(kind, id, len(content))
        except RemoteProtocolError as error:
            return error
        return RemoteProtocolError(f"{describe(kind, id, len(content))}: the stream has ended")


def _end(request: ClientRequest, state: Receiving) -> None:
    """Set the state of a response, and send no more of the request: its id may be reused."""
    request.receiving = state
    if request.sending is not Sending.ABORTED:
        request.sending = Sending.ENDED


ClientProtocol._handlers = (
    ClientProtocol._refuse,
    ClientProtocol._refuse,  # BEGIN_REQUEST
    ClientProtocol._refuse,  # ABORT_REQUEST
    ClientProtocol._end,
    ClientProtocol._refuse,  # PARAMS
    ClientProtocol._refuse,  # STDIN
    ClientProtocol._stdout,
    ClientProtocol._stderr,
    ClientProtocol._refuse,  # DATA
)
