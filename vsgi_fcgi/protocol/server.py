"""The application's end of a FastCGI connection, without I/O.

`RecordReader.receive_data` calls one method of `ServerProtocol` for each record. The method looks
up the request by its id and the next state in a row of `vsgi_fcgi.protocol.state.INBOUND`, and
appends an event for the caller. A small request in one read takes four of these calls:
BEGIN_REQUEST, PARAMS, the end of PARAMS and the end of STDIN.

The methods that send append buffers to `outgoing`; the caller takes them with `data_to_send`. A
small response is one call of `respond`, which joins its records to one buffer.

`params_held` counts the memory of requests whose input is incomplete. It is what a peer can make
the server store before a worker has been chosen, so the caller limits its sum over all connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from vsgi_fcgi.exceptions import LocalProtocolError, ParamsError, RemoteProtocolError
from vsgi_fcgi.protocol.constants import (
    HEADER_SIZE,
    KEEP_CONN,
    NOT_AUTHORIZED,
    VERSION,
    Buffer,
    ProtocolStatus,
    RecordType,
    Role,
)
from vsgi_fcgi.protocol.events import (
    REQUEST_COST,
    DataEnded,
    DataReceived,
    Event,
    Request,
    RequestAborted,
    RequestRejected,
    RequestStarted,
    RoleRefused,
    StdinEnded,
    StdinReceived,
)
from vsgi_fcgi.protocol.records import (
    APPLICATION_ONLY,
    BEGIN_REQUEST_BODY,
    HEADER,
    STREAMS,
    RecordReader,
    decode_pairs,
    describe,
    encode_completion,
    encode_end_request,
    encode_management,
    encode_pairs,
    encode_stream,
    encode_stream_end,
)
from vsgi_fcgi.protocol.state import INBOUND, Inbound, Outbound


@final
class Limits:
    """The limits of one connection.

    Attributes:
        requests: maximum requests in flight; a further request is rejected with 503.
        params_bytes: maximum bytes of the PARAMS stream of a request; beyond it, 431.
        params_count: maximum pairs in the PARAMS stream of a request; beyond it, 431.
    """

    __slots__ = ("params_bytes", "params_count", "requests")

    def __init__(
        self, requests: int = 1024, params_bytes: int = 131072, params_count: int = 1000
    ) -> None:
        self.requests = requests
        self.params_bytes = params_bytes
        self.params_count = params_count


# Plain integers and rows of the table, because looking up a member of an enum takes measurable time
# for each record.
_BEGIN_REQUEST: Final = int(RecordType.BEGIN_REQUEST)
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
_INVALID_RECORD: Final = bytes(HEADER_SIZE)
"""A record header of version 0, without content."""
_ENDED: Final = Outbound.ENDED
_JOIN_SIZE: Final = 16384
_PAIR_COST: Final = 128
"""Bytes charged for a decoded pair in addition to its text: two str objects and a dict entry."""
_AUTHORIZER: Final = int(Role.AUTHORIZER)
_FILTER: Final = int(Role.FILTER)


class ServerProtocol(RecordReader[Event]):
    """Turns bytes from a web server into events, and responses into bytes.

    It does no I/O and reads no clock, so a test, a fuzzer or a replay can drive it. It answers
    management records itself.

    Args:
        limits: the limits of the connection.
        values: the variables for GET_VALUES_RESULT, by name (section 4.1).
        roles: the roles that are served; a request for any other role gets UNKNOWN_ROLE.
        raw_params: whether to pass on the PARAMS stream undecoded, in ``request.raw_params``.

    Attributes:
        asked_values: whether GET_VALUES has arrived, which means that the web server can multiplex.
        requests: the requests that have not ended or whose input is being discarded, by id.
        closing: whether a request without KEEP_CONN has ended; see `finished`.
        multiplexes: whether GET_VALUES has arrived, or two requests were in flight at once. Closing
            such a connection can lose requests that were not read yet.
        outgoing: the buffers that `data_to_send` will return; read-only for the caller.
    """

    __slots__ = (
        "_counted",
        "_limits",
        "_raw_params",
        "_roles",
        "_values",
        "asked_values",
        "closing",
        "multiplexes",
        "outgoing",
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
        self.asked_values = False
        self.requests: dict[int, Request] = {}
        self.closing = False
        self.multiplexes = False
        self._counted = 0
        self.outgoing: list[Buffer] = []

    @property
    def finished(self) -> bool:
        """Whether the caller must close the connection after sending everything (section 5.1)."""
        return self.closing and not self.requests

    @property
    def unsent_size(self) -> int:
        """The total size in bytes of the buffers that `data_to_send` would return."""
        return sum(map(len, self.outgoing))

    @property
    def params_held(self) -> int:
        """Bytes charged for requests and their params until their input is complete.

        With ``raw_params``, until the requests have ended.
        """
        # Nearly every request is complete by the end of the read that it began in, so that adding
        # up here costs less than keeping a sum (1 % of all instructions for a small request).
        if not self._counted:
            return 0
        held = 0
        for request in self.requests.values():
            if request.counted:
                held += REQUEST_COST + len(request.block) + request.params_size
                if request.params_size and not self._raw_params:
                    held += _PAIR_COST * (len(request.params) + len(request.repeated))
        return held

    # Receiving.

    def receive_eof(self) -> list[Event]:
        """Process the end of the connection: abort every request on it.

        Returns:
            A `RequestAborted` for each request that had not ended.
        """
        events: list[Event] = []
        for request in self.requests.values():
            request.inbound = _ROW_ABORT[request.inbound] or _DISCARDED
            if request.outbound is Outbound.OPEN:
                request.outbound = _ENDED
                events.append(RequestAborted(request))
        self.requests.clear()
        self._counted = 0
        self.outgoing.clear()
        self.closing = True
        return events

    def unread(self) -> list[Request]:
        """Return the requests whose input is incomplete."""
        return [request for request in self.requests.values() if _is_unread(request)]

    def refuse_incomplete(self) -> list[Event]:
        """Abort all incomplete requests, because no more input will be read.

        Responses to complete requests can still be sent. A web server that multiplexes gets
        END_REQUEST with OVERLOADED for each incomplete request: it can repeat the request because
        no app has run for it. For any other web server the connection ends, because some web
        servers turn OVERLOADED into an empty response with status 200.

        Returns:
            A `RequestAborted` for each aborted request.
        """
        events: list[Event] = []
        for request in self.unread():
            self._drop_params(request)
            request.inbound = _DISCARDED
            if request.outbound is Outbound.OPEN:
                events.append(RequestAborted(request))
                if self.asked_values:
                    self.end_request(request, protocol_status=ProtocolStatus.OVERLOADED)
                else:
                    request.outbound = _ENDED
                    self.closing = True
                    del self.requests[request.id]
            else:
                self._discarded(request)
        return events

    def _check_header(self, kind: int, id: int, length: int) -> None:
        """Check that a web server may send a record, before its content has arrived.

        An empty stream record carries no data, so it is ignored where it does not belong.

        Raises:
            RemoteProtocolError: the web server may not send the record.
        """
        if not length and kind in STREAMS:
            return
        if kind in APPLICATION_ONLY:
            why = "only an application may send this type"
        elif not id and 0 < kind <= _MAX_APPLICATION_TYPE:
            why = "id 0 is reserved for management records"
        elif id and kind > _MAX_APPLICATION_TYPE:
            why = "a management record must have id 0"
        elif id and not kind:
            why = "type 0 does not exist"
        elif kind == _BEGIN_REQUEST and length != BEGIN_REQUEST_BODY.size:
            why = "its body must have 8 bytes"
        else:
            return
        raise RemoteProtocolError(f"{describe(kind, id, length)}: {why}")

    def _other(self, kind: int, id: int, content: bytes, events: list[Event]) -> None:
        """Answer a management record (section 4), or reject an invalid record."""
        self._check_header(kind, id, len(content))
        if kind in STREAMS:
            return  # an empty stream record without a request
        if kind != RecordType.GET_VALUES:
            body = bytes((kind, 0, 0, 0, 0, 0, 0, 0))
            self.outgoing.append(encode_management(RecordType.UNKNOWN_TYPE, body))
            return
        self.multiplexes = True
        try:
            asked, _ = decode_pairs(content, self._limits.params_count)
        except ParamsError as error:
            raise RemoteProtocolError(f"{describe(kind, id, len(content))}: {error}") from None
        self.asked_values = True
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
            # Section 5.1: after a request without KEEP_CONN, the connection serves no other
            # request.
            return
        role, flags = BEGIN_REQUEST_BODY.unpack(content)
        request = requests[id] = Request(id, role, flags & KEEP_CONN != 0)
        self._counted += 1
        in_flight = len(requests)
        if in_flight > 1:
            self.multiplexes = True
        if role not in self._roles:
            request.inbound = _DISCARDING
            if role == _AUTHORIZER:
                self.send_stdout(request, NOT_AUTHORIZED)
            self.end_request(request, protocol_status=ProtocolStatus.UNKNOWN_ROLE)
            events.append(RoleRefused(request))
        elif in_flight > self._limits.requests:
            request.inbound = _DISCARDING
            reason = f"{self._limits.requests} requests are in flight on this connection"
            events.append(RequestRejected(request, 503, reason))

    def _params(self, kind: int, id: int, content: Buffer, events: list[Event]) -> None:
        request = self.requests.get(id)
        if request is None:
            return  # section 3.3: records with an inactive id are ignored
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
            return  # the stream ended twice
        request.inbound = state
        if state >= _DISCARDING:
            self._discarded(request)
            return
        block = request.block
        if isinstance(block, bytearray):
            block = bytes(block)
        if self._raw_params:
            request.raw_params = block
        else:
            try:
                params, repeated = decode_pairs(block, self._limits.params_count)
            except ParamsError as error:
                self._reject(request, error.status, str(error), events)
                return
            request.params, request.repeated = params, repeated
            if state is _IN_ENDED:
                request.counted = False
                self._counted -= 1
        request.params_size = len(block)
        request.block = b""
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
            if not content:
                # Yaws before 2.0.4 ends STDIN twice. lighttpd ends the STDIN of an authorizer,
                # which has no STDIN (section 6.3). Neither changes the request.
                return
            raise _violation(kind, request, content)
        request.inbound = state
        if state >= _DISCARDING:
            self._discarded(request)
        elif content:
            request.received += len(content)
            events.append(StdinReceived(request, content))
        else:
            if state is _IN_ENDED and not self._raw_params:
                request.counted = False
                self._counted -= 1
            events.append(StdinEnded(request))

    def _data(self, kind: int, id: int, content: Buffer, events: list[Event]) -> None:
        request = self.requests.get(id)
        if request is None or request.role != _FILTER:
            # Only a filter has DATA. libfcgi, php-fpm, Go, flup and uWSGI ignore it as well.
            return
        state = (_ROW_DATA if content else _ROW_DATA_END)[request.inbound]
        if state is None:
            if not content:
                return
            raise _violation(kind, request, content)
        request.inbound = state
        if state >= _DISCARDING:
            self._discarded(request)
        elif content:
            request.received += len(content)
            events.append(DataReceived(request, content))
        else:
            if not self._raw_params:
                request.counted = False
                self._counted -= 1
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
        """Reject a record that only an application may send; ignore an empty stream record."""
        self._check_header(kind, id, len(content))

    def _reject(self, request: Request, status: int, reason: str, events: list[Event]) -> None:
        self.discard(request)
        events.append(RequestRejected(request, status, reason))

    def _drop_params(self, request: Request) -> None:
        """Drop the undecoded params of a request, and count it no longer."""
        request.block = b""
        if request.counted:
            request.counted = False
            self._counted -= 1

    def _discarded(self, request: Request) -> None:
        """Forget a request if its discarded input has ended and it was answered."""
        if request.inbound is _DISCARDED and request.outbound is _ENDED:
            self._drop_params(request)
            del self.requests[request.id]

    # Sending.

    def discard(self, request: Request) -> None:
        """Discard the rest of a request's input; the caller can still answer the request."""
        state = _ROW_REJECT[request.inbound]
        if state is None:  # pragma: no cover
            raise LocalProtocolError(f"{request!r} cannot be discarded")
        request.inbound = state
        self._drop_params(request)

    def give_up_discarding(self) -> None:
        """Forget all requests that were answered before their input ended."""
        for request in list(self.requests.values()):
            if request.outbound is _ENDED:
                request.inbound = _DISCARDED
                self._discarded(request)

    def shrink(self) -> None:
        """Free memory that was needed for many requests at once.

        A dict does not shrink when its items are deleted: one that had 1000 needs 37 KiB.
        """
        self.requests = dict(self.requests)

    def send_stdout(self, request: Request, data: Buffer) -> int:
        """Send a piece of the STDOUT stream; do nothing if the request has ended.

        Args:
            request: the request.
            data: any number of bytes; they are not copied.

        Returns:
            The number of bytes added to `outgoing`, including headers.
        """
        if request.outbound:
            return 0
        return encode_stream(self.outgoing, _STDOUT, request.id, data)

    def respond(self, request: Request, data: Buffer, app_status: int = 0) -> None:
        """Send the last piece of STDOUT and end the request: `send_stdout`, then `end_request`."""
        if request.outbound:
            return
        id = request.id
        out = self.outgoing
        if type(data) is bytes and 0 < len(data) <= _JOIN_SIZE:
            # A small response becomes one buffer, so it is sent with `send` and not `sendmsg`.
            header = HEADER.pack(VERSION, _STDOUT, id, len(data), 0)
            out.append(header + data + encode_completion(id, app_status))
        else:
            encode_stream(out, _STDOUT, id, data)
            out.append(encode_completion(id, app_status))
        request.outbound = _ENDED
        self._release(request)

    def send_stderr(self, request: Request, data: Buffer, *, last: bool = True) -> int:
        """Send a piece of the STDERR stream; do nothing if the request has ended.

        Args:
            request: the request.
            data: any number of bytes; they are not copied.
            last: whether to end the stream as well.

        Returns:
            The number of bytes added to `outgoing`, including headers.
        """
        if request.outbound:
            return 0
        size = encode_stream(self.outgoing, _STDERR, request.id, data)
        if not last:
            return size
        self.outgoing.append(encode_stream_end(_STDERR, request.id))
        return size + HEADER_SIZE

    def end_request(
        self,
        request: Request,
        app_status: int = 0,
        protocol_status: int = ProtocolStatus.REQUEST_COMPLETE,
    ) -> None:
        """Send the end of STDOUT and END_REQUEST (section 5.5); do nothing after the first call.

        The id is free afterwards. With KEEP_CONN, the rest of the request's input is ignored.
        Without KEEP_CONN, it is discarded, and the connection is `finished` when it has ended.

        Args:
            request: the request.
            app_status: the exit status that a CGI program would have had.
            protocol_status: a `ProtocolStatus`.
        """
        if request.outbound:
            return
        request.outbound = _ENDED
        if protocol_status:
            self.outgoing.append(encode_end_request(request.id, app_status, protocol_status))
        else:
            self.outgoing.append(encode_completion(request.id, app_status))
        self._release(request)

    def break_off(self, request: Request, *, invalid_record: bool = False) -> None:
        """End a request without END_REQUEST, so that the web server reports a broken response.

        The connection is `closing` afterwards.

        Args:
            request: the request.
            invalid_record: whether to send a record header of version 0 before the end.

        Raises:
            LocalProtocolError: the connection `multiplexes`, so other requests would break as well.
        """
        if request.outbound:
            return
        if self.multiplexes:
            raise LocalProtocolError("cannot break off: other requests share the connection")
        request.outbound = _ENDED
        request.inbound = _ROW_ABORT[request.inbound] or _DISCARDED
        self._drop_params(request)
        self.closing = True
        self.requests.clear()
        if invalid_record:
            self.outgoing.append(_INVALID_RECORD)

    def join_unsent(self) -> int:
        """Join the unsent buffers, because they must wait and small buffers waste memory.

        Returns:
            Their total size in bytes.
        """
        if len(self.outgoing) > 1:
            self.outgoing = [b"".join(self.outgoing)]
        return len(self.outgoing[0]) if self.outgoing else 0

    def data_to_send(self) -> list[Buffer]:
        """Return all unsent buffers in order, and forget them."""
        out = self.outgoing
        self.outgoing = []
        return out

    def _release(self, request: Request) -> None:
        """Free the id of a request whose output has ended."""
        inbound = request.inbound
        if not request.keep_conn:
            self.closing = True
            if inbound < _IN_ENDED:
                self.discard(request)
                return
            if inbound is _DISCARDING:
                return
        if request.counted:
            self._drop_params(request)
        del self.requests[request.id]


def _is_unread(request: Request) -> bool:
    return request.inbound is not _IN_ENDED and request.inbound is not _DISCARDED


def _violation(kind: int, request: Request, content: Buffer) -> RemoteProtocolError:
    if request.inbound is Inbound.PARAMS:
        why = "the params have not ended"
    elif kind == _DATA and request.inbound is Inbound.STDIN:
        why = "STDIN has not ended"
    elif kind == _STDIN and request.role == _AUTHORIZER:
        why = "an authorizer has no STDIN"
    else:
        why = "the stream has ended"
    return RemoteProtocolError(f"{describe(kind, request.id, len(content))}: {why}")


ServerProtocol._handlers = (
    ServerProtocol._refuse,
    ServerProtocol._begin,
    ServerProtocol._abort,
    ServerProtocol._refuse,  # END_REQUEST
    ServerProtocol._params,
    ServerProtocol._stdin,
    ServerProtocol._refuse,  # STDOUT
    ServerProtocol._refuse,  # STDERR
    ServerProtocol._data,
)
