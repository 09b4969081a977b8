"""The application's end of a FastCGI connection, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vsgi_fcgi.exceptions import LocalProtocolError, ParamsError, RemoteProtocolError
from vsgi_fcgi.protocol.constants import (
    HEADER_SIZE,
    KEEP_CONN,
    NOT_AUTHORIZED,
    VERSION,
    ProtocolStatus,
    RecordType,
    Role,
)
from vsgi_fcgi.protocol.events import (
    Buffer,
    DataEnded,
    DataReceived,
    Event,
    RequestAborted,
    RequestRejected,
    RequestStarted,
    RoleRefused,
    StdinEnded,
    StdinReceived,
)
from vsgi_fcgi.protocol.framing import RecordReader
from vsgi_fcgi.protocol.limits import Limits
from vsgi_fcgi.protocol.pairs import decode_pairs, encode_pairs
from vsgi_fcgi.protocol.records import (
    APPLICATION_ONLY,
    BEGIN_REQUEST_BODY,
    HEADER,
    describe,
    encode_completion,
    encode_end_request,
    encode_management,
    encode_stream,
    encode_stream_end,
)
from vsgi_fcgi.protocol.request import Request
from vsgi_fcgi.protocol.state import INBOUND, Inbound, Outbound

# Plain ints and rows: enum look-ups would be felt on the hot path.
_PARAMS: Final = int(RecordType.PARAMS)
_STDIN: Final = int(RecordType.STDIN)
_DATA: Final = int(RecordType.DATA)
_STDOUT: Final = int(RecordType.STDOUT)
_STDERR: Final = int(RecordType.STDERR)
_MAX_APPLICATION_TYPE: Final = _DATA
_ROW_PARAMS, _ROW_PARAMS_END, _ROW_ONLY_PARAMS_END = INBOUND[:3]
_ROW_STDIN, _ROW_STDIN_END, _ROW_STDIN_END_BEFORE_DATA = INBOUND[3:6]
_ROW_DATA, _ROW_DATA_END, _ROW_ABORT, _ROW_REJECT = INBOUND[6:]
_IN_PARAMS: Final = Inbound.PARAMS
_IN_ENDED: Final = Inbound.ENDED
_DISCARDING: Final = Inbound.DISCARDING
_DISCARDED: Final = Inbound.DISCARDED
_UNPROVOKED: Final = encode_management(RecordType.UNKNOWN_TYPE, bytes(8))
_ENDED: Final = Outbound.ENDED
_JOIN_SIZE: Final = 16384
_AUTHORIZER: Final = int(Role.AUTHORIZER)
_FILTER: Final = int(Role.FILTER)


class ServerConnection(RecordReader[Event]):
    """Turns bytes from a web server into events, and answers into bytes.

    It does no I/O and knows no time, so a test, a fuzzer or a replay can drive it. Management
    records are answered inside it.

    Args:
        limits: what one connection may hold.
        values: the answers to GET_VALUES by name (section 4.1).
        roles: the roles that are served; others get UNKNOWN_ROLE.
        raw_params: hand the params over as they came, in ``request.raw_params``, and do not
            decode them.

    Attributes:
        requests: the requests that have begun and not ended (or whose input is being
            discarded), by id.
        closing: a request without KEEP_CONN has ended; see `finished`.
        outgoing: what `data_to_send` will return; to be looked at, not touched.
        params_held: bytes of params streams that have not ended.
    """

    __slots__ = (
        "_limits",
        "_raw_params",
        "_roles",
        "_values",
        "closing",
        "outgoing",
        "params_held",
        "requests",
    )

    def __init__(
        self,
        limits: Limits,
        values: Mapping[str, str],
        roles: frozenset[int] = frozenset({Role.RESPONDER}),
        *,
        raw_params: bool = False,
    ) -> None:
        super().__init__()
        self._limits = limits
        self._values = values
        self._roles = roles
        self._raw_params = raw_params
        self.requests: dict[int, Request] = {}
        self.closing = False
        self.params_held = 0
        self.outgoing: list[Buffer] = []

    @property
    def finished(self) -> bool:
        """Whether the connection is to be closed once everything was sent (section 5.1)."""
        return self.closing and not self.requests

    @property
    def unsent_size(self) -> int:
        """Bytes that `data_to_send` would return."""
        return sum(map(len, self.outgoing))

    # Receiving.

    def receive_eof(self) -> list[Event]:
        """Take the end of the connection: every request on it is aborted.

        Returns:
            A `RequestAborted` for each request that had begun and not ended.
        """
        events: list[Event] = []
        for request in self.requests.values():
            request.inbound = _ROW_ABORT[request.inbound] or _DISCARDED
            if request.outbound is Outbound.OPEN:
                request.outbound = _ENDED
                events.append(RequestAborted(request))
        self.requests.clear()
        self.params_held = 0
        self.outgoing.clear()
        self.closing = True
        return events

    def _check_header(self, kind: int, id: int, length: int) -> None:
        """Refuse a record that a web server may not send, before its content has come."""
        record = describe(kind, id, length)
        if kind in APPLICATION_ONLY:
            raise RemoteProtocolError(f"{record}: only an application may send this type")
        if not id and 0 < kind <= _MAX_APPLICATION_TYPE:
            raise RemoteProtocolError(f"{record}: id 0 is for management records alone")
        if id and kind > _MAX_APPLICATION_TYPE:
            raise RemoteProtocolError(f"{record}: a management record must have id 0")
        if id and not kind:
            raise RemoteProtocolError(f"{record}: there is no such type")
        if kind == RecordType.BEGIN_REQUEST and length != BEGIN_REQUEST_BODY.size:
            raise RemoteProtocolError(f"{record}: its body must have 8 bytes")

    def _other(self, kind: int, id: int, content: bytes, events: list[Event]) -> None:
        """Answer a management record (section 4), or refuse a record that makes no sense."""
        self._check_header(kind, id, len(content))
        if kind != RecordType.GET_VALUES:
            body = bytes((kind, 0, 0, 0, 0, 0, 0, 0))
            self.outgoing.append(encode_management(RecordType.UNKNOWN_TYPE, body))
            return
        try:
            asked, _ = decode_pairs(content, self._limits.params_count)
        except ParamsError as error:
            raise RemoteProtocolError(f"{describe(kind, id, len(content))}: {error}") from None
        known = [(name, self._values[name]) for name in asked if name in self._values]
        self.outgoing.append(encode_management(RecordType.GET_VALUES_RESULT, encode_pairs(known)))

    def _begin(self, kind: int, id: int, content: Buffer, events: list[Event]) -> None:
        requests = self.requests
        if len(content) != 8:
            self._check_header(kind, id, len(content))
        if id in requests and requests[id].outbound is Outbound.OPEN:
            record = describe(kind, id, len(content))
            raise RemoteProtocolError(f"{record}: a request with this id has not ended")
        if self.closing:
            # Section 5.1: after a request without KEEP_CONN this connection serves no other.
            return
        role, flags = BEGIN_REQUEST_BODY.unpack(content)
        request = requests[id] = Request(id, role, flags & KEEP_CONN != 0)
        if role not in self._roles:
            request.inbound = _DISCARDING
            if role == _AUTHORIZER:
                self.send_stdout(request, NOT_AUTHORIZED)
            self.end_request(request, protocol_status=ProtocolStatus.UNKNOWN_ROLE)
            events.append(RoleRefused(request))
        elif len(requests) > self._limits.requests:
            request.inbound = _DISCARDING
            reason = f"{self._limits.requests} requests are in flight on this connection"
            events.append(RequestRejected(request, 503, reason))

    def _params(self, kind: int, id: int, content: Buffer, events: list[Event]) -> None:
        request = self.requests.get(id)
        if request is None:
            return  # section 3.3: records of an inactive id are ignored
        if not content:
            self._params_end(request, events)
            return
        state = _ROW_PARAMS[request.inbound]
        if state is None:
            raise _violation(kind, request, content)
        if state is not _IN_PARAMS:
            return
        size = len(content)
        request.received += size
        self.params_held += size
        if not request.block:
            request.block = content if type(content) is bytes else bytes(content)
        elif isinstance(request.block, bytes):
            request.block = bytearray(request.block)
            request.block += content
        else:
            request.block += content
        if len(request.block) > self._limits.params_bytes:
            limit = self._limits.params_bytes
            self._reject(request, 431, f"more than {limit} bytes of params", events)

    def _params_end(self, request: Request, events: list[Event]) -> None:
        row = _ROW_ONLY_PARAMS_END if request.role == _AUTHORIZER else _ROW_PARAMS_END
        state = row[request.inbound]
        if state is None:
            raise _violation(_PARAMS, request, b"")
        request.inbound = state
        if state >= _DISCARDING:
            self._discarded(request)
            return
        block = request.block
        request.block = b""
        self.params_held -= len(block)
        if self._raw_params:
            request.raw_params = bytes(block)
            events.append(RequestStarted(request))
            return
        try:
            request.params, request.repeated = decode_pairs(block, self._limits.params_count)
        except ParamsError as error:
            self._reject(request, error.status, str(error), events)
            return
        events.append(RequestStarted(request))

    def _stdin(self, kind: int, id: int, content: Buffer, events: list[Event]) -> None:
        request = self.requests.get(id)
        if request is None:
            return
        if content:
            state = _ROW_STDIN[request.inbound]
        elif request.role == _FILTER:
            state = _ROW_STDIN_END_BEFORE_DATA[request.inbound]
        else:
            state = _ROW_STDIN_END[request.inbound]
        if state is None:
            if request.role == _AUTHORIZER and not content:
                return  # section 6.3 gives it no STDIN; lighttpd ends one all the same
            raise _violation(kind, request, content)
        request.inbound = state
        if state >= _DISCARDING:
            self._discarded(request)
        elif content:
            request.received += len(content)
            events.append(StdinReceived(request, content))
        else:
            events.append(StdinEnded(request))

    def _data(self, kind: int, id: int, content: Buffer, events: list[Event]) -> None:
        request = self.requests.get(id)
        if request is None:
            return
        state = (_ROW_DATA if content else _ROW_DATA_END)[request.inbound]
        if state is None:
            raise _violation(kind, request, content)
        request.inbound = state
        if state >= _DISCARDING:
            self._discarded(request)
        elif content:
            request.received += len(content)
            events.append(DataReceived(request, content))
        else:
            events.append(DataEnded(request))

    def _abort(self, kind: int, id: int, content: Buffer, events: list[Event]) -> None:
        request = self.requests.get(id)
        if request is None:
            return
        request.inbound = _ROW_ABORT[request.inbound] or _DISCARDED
        self._drop_params(request)
        if request.outbound is Outbound.OPEN:
            self.end_request(request)
            events.append(RequestAborted(request))
        else:
            self._discarded(request)

    def _refuse(self, kind: int, id: int, content: Buffer, events: list[Event]) -> None:
        self._check_header(kind, id, len(content))
        raise AssertionError(f"type {kind} has no handler")  # pragma: no cover

    def _reject(self, request: Request, status: int, reason: str, events: list[Event]) -> None:
        self.discard(request)
        events.append(RequestRejected(request, status, reason))

    def _drop_params(self, request: Request) -> None:
        """Let go of params that nobody will see."""
        self.params_held -= len(request.block)
        request.block = b""

    def _discarded(self, request: Request) -> None:
        """Forget a request whose discarded input has ended, if it was answered."""
        if request.inbound is _DISCARDED and request.outbound is _ENDED:
            del self.requests[request.id]

    # Sending.

    def discard(self, request: Request) -> None:
        """Throw away what still comes of a request; it can still be answered."""
        state = _ROW_REJECT[request.inbound]
        if state is None:  # pragma: no cover
            raise LocalProtocolError(f"{request!r} cannot be discarded")
        request.inbound = state
        self._drop_params(request)

    def give_up_discarding(self) -> None:
        """Wait no longer for the input of requests that were answered early."""
        for request in list(self.requests.values()):
            if request.outbound is _ENDED:
                request.inbound = _DISCARDED
                self._discarded(request)

    def send_stdout(self, request: Request, data: Buffer) -> int:
        """Send a piece of the STDOUT stream; nothing once the request has ended.

        Args:
            request: the request it answers.
            data: any number of bytes; they are not copied.

        Returns:
            The bytes that this adds to what is to be sent, headers included.
        """
        if request.outbound:
            return 0
        return encode_stream(self.outgoing, _STDOUT, request.id, data)

    def respond(self, request: Request, data: Buffer, app_status: int = 0) -> None:
        """Send the last of STDOUT and end the request: `send_stdout`, then `end_request`."""
        if request.outbound:
            return
        id = request.id
        out = self.outgoing
        if type(data) is bytes and 0 < len(data) <= _JOIN_SIZE:
            # Joined here, a small answer is one buffer, and there is nothing to gather later.
            header = HEADER.pack(VERSION, _STDOUT, id, len(data), 0)
            out.append(header + data + encode_completion(id, app_status))
        else:
            encode_stream(out, _STDOUT, id, data)
            out.append(encode_completion(id, app_status))
        request.outbound = _ENDED
        self._release(request)

    def send_stderr(self, request: Request, data: Buffer) -> int:
        """Send the STDERR stream, whole, with its end; nothing once the request has ended.

        Returns:
            The bytes that this adds to what is to be sent, headers included.
        """
        if request.outbound:
            return 0
        size = encode_stream(self.outgoing, _STDERR, request.id, data)
        self.outgoing.append(encode_stream_end(_STDERR, request.id))
        return size + HEADER_SIZE

    def end_request(
        self,
        request: Request,
        app_status: int = 0,
        protocol_status: int = ProtocolStatus.REQUEST_COMPLETE,
    ) -> None:
        """Send END_REQUEST (section 5.5), after the end of STDOUT; nothing if it has ended.

        The id is free from here on. Where input of the request is still to come, it is ignored
        (KEEP_CONN) or discarded until its end, and only then is the connection `finished`.

        Args:
            request: the request.
            app_status: the exit status that a CGI program would have had.
            protocol_status: how the protocol ended it.
        """
        if request.outbound:
            return
        request.outbound = _ENDED
        if protocol_status:
            self.outgoing.append(encode_end_request(request.id, app_status, protocol_status))
        else:
            self.outgoing.append(encode_completion(request.id, app_status))
        self._release(request)

    def break_off(self, request: Request) -> None:
        """End a request without END_REQUEST, so that the web server sees a broken answer.

        The connection is `closing` then: nothing else may be active on it.
        """
        if request.outbound:
            return
        if len(self.requests) > 1:
            raise LocalProtocolError("other requests on this connection would be cut off too")
        request.outbound = _ENDED
        request.inbound = _ROW_ABORT[request.inbound] or _DISCARDED
        self._drop_params(request)
        self.closing = True
        self.requests.clear()
        # nginx takes the bare end of a connection for the end of the answer, unless it keeps
        # connections and buffers answers; an UNKNOWN_TYPE that it did not provoke is an error to
        # it whatever its settings are. To others it is a management record that says nothing.
        self.outgoing.append(_UNPROVOKED)

    def data_to_send(self) -> list[Buffer]:
        """Take everything that is to be sent, in order."""
        out = self.outgoing
        self.outgoing = []
        return out

    def _release(self, request: Request) -> None:
        """Free the id of a request whose outbound half has ended."""
        inbound = request.inbound
        if not request.keep_conn:
            self.closing = True
            if inbound < _IN_ENDED:
                self.discard(request)
                return
            if inbound is _DISCARDING:
                return
        elif inbound < _IN_ENDED:
            self._drop_params(request)
        del self.requests[request.id]


def _violation(kind: int, request: Request, content: Buffer) -> RemoteProtocolError:
    if kind == _DATA and request.role != _FILTER:
        why = "only a filter has that stream"
    elif request.inbound is Inbound.PARAMS:
        why = "the params have not ended"
    elif kind == _DATA and request.inbound is Inbound.STDIN:
        why = "STDIN has not ended"
    elif kind == _STDIN and request.role == _AUTHORIZER:
        why = "an authorizer has no such stream"
    else:
        why = "that stream has ended"
    return RemoteProtocolError(f"{describe(kind, request.id, len(content))}: {why}")


ServerConnection._handlers = (
    ServerConnection._refuse,
    ServerConnection._begin,
    ServerConnection._abort,
    ServerConnection._refuse,  # END_REQUEST
    ServerConnection._params,
    ServerConnection._stdin,
    ServerConnection._refuse,  # STDOUT
    ServerConnection._refuse,  # STDERR
    ServerConnection._data,
)
