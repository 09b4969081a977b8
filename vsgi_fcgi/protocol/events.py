"""The handles of a request at either end, and the events that `receive_data` returns about it.

Each direction of a request has a state of its own; `vsgi_fcgi.protocol.state` has the tables. A
handle is created for every request, so it has slots and no base class.

A caller dispatches on the class of an event; nothing subclasses an event. The classes are plain
classes with slots because each request creates several events, and creating a frozen dataclass
takes three times as long. The events of `ServerProtocol` come first, then those of
`ClientProtocol`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.records import Repeated
from vsgi_fcgi.protocol.state import Inbound, Outbound, Receiving, Sending

if TYPE_CHECKING:
    from vsgi_fcgi.protocol.constants import Buffer


# Looking up a member of an enum is slow, and every request needs these two.
_PARAMS: Final = Inbound.PARAMS
_OPEN: Final = Outbound.OPEN

REQUEST_COST: Final = 512
"""Bytes that a request is charged in addition to its params: its objects and those of its body."""


@final
class Request:
    """The handle of one request at the application's end of a connection.

    Events and methods refer to a request by this object and never by its id. A web server may
    reuse the id as soon as the request has ended.

    Attributes:
        id: the request id, 1 to 65535 (section 3.3).
        role: the role as the web server sent it (section 5.1).
        keep_conn: whether the web server keeps the connection open after it (section 5.1).
        inbound: the state of the input, from the web server.
        outbound: the state of the output, to the web server.
        block: the content of the PARAMS stream so far; empty once it is decoded.
        params: the name-value pairs, set before `RequestStarted`; the caller may modify the dict.
        repeated: the later values of names that occur more than once.
        raw_params: the undecoded PARAMS stream, if the protocol does not decode it.
        counted: whether the connection's ``params_held`` includes it.
        params_size: bytes of its PARAMS stream, once that has ended.
        received: bytes of its streams so far, from which a stalled request is recognised.
        owner: any object of the caller.
    """

    __slots__ = (
        "block",
        "counted",
        "id",
        "inbound",
        "keep_conn",
        "outbound",
        "owner",
        "params",
        "params_size",
        "raw_params",
        "received",
        "repeated",
        "role",
    )

    params: dict[str, str]
    raw_params: bytes
    repeated: Repeated

    def __init__(self, id: int, role: int, keep_conn: bool) -> None:
        self.id = id
        self.role = role
        self.keep_conn = keep_conn
        self.inbound: Inbound = _PARAMS
        self.outbound: Outbound = _OPEN
        self.block: bytes | bytearray = b""
        self.counted = True
        self.params_size = 0
        self.received = 0
        self.owner: object = None

    def __repr__(self) -> str:
        states = f"{self.inbound.name}/{self.outbound.name}"
        return f"<Request {self.id} role {self.role} {states}>"


_SENDING_PARAMS: Final = Sending.PARAMS
_RESPONSE_OPEN: Final = Receiving.OPEN


@final
class ClientRequest:
    """The handle of one request at the web server's end of a connection.

    Attributes:
        id: the request id, 1 to 65535 (section 3.3).
        role: the role that the application is asked to play (section 5.1).
        sending: the state of the request, to the application.
        receiving: the state of the response, from the application.
        head: the buffer from `data_to_send` that holds the end of the PARAMS stream.
        owner: any object of the caller.
    """

    __slots__ = ("head", "id", "owner", "receiving", "role", "sending")

    def __init__(self, id: int, role: int) -> None:
        self.id = id
        self.role = role
        self.sending: Sending = _SENDING_PARAMS
        self.receiving: Receiving = _RESPONSE_OPEN
        self.head: Buffer = b""
        self.owner: object = None

    def __repr__(self) -> str:
        states = f"{self.sending.name}/{self.receiving.name}"
        return f"<ClientRequest {self.id} role {self.role} {states}>"


@final
class RequestStarted:
    """The params of a request are complete.

    They are in ``request.params`` and ``request.repeated``, or in ``request.raw_params`` if the
    protocol does not decode them.
    """

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


@final
class StdinReceived:
    """A piece of the STDIN stream arrived; a large piece is a view of the received data."""

    __slots__ = ("data", "request")

    def __init__(self, request: Request, data: Buffer) -> None:
        self.request = request
        self.data = data


@final
class StdinEnded:
    """The STDIN stream ended."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


@final
class DataReceived:
    """A piece of a filter's DATA stream arrived (section 6.4)."""

    __slots__ = ("data", "request")

    def __init__(self, request: Request, data: Buffer) -> None:
        self.request = request
        self.data = data


@final
class DataEnded:
    """The DATA stream of a filter ended."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


@final
class RequestRejected:
    """A request is over a limit or invalid: the caller must answer it without running the app.

    The protocol discards the rest of its input, whatever the response is.

    Attributes:
        request: the request; its params may be missing.
        status: the HTTP status of the response.
        reason: the reason for the log.
    """

    __slots__ = ("reason", "request", "status")

    def __init__(self, request: Request, status: int, reason: str) -> None:
        self.request = request
        self.status = status
        self.reason = reason


@final
class RoleRefused:
    """The protocol answered a request with UNKNOWN_ROLE as its role is not served (section 5.5)."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


@final
class RequestAborted:
    """The web server aborted a request with ABORT_REQUEST or by closing the connection.

    The protocol has already sent END_REQUEST if that was necessary. It drops everything that the
    caller still sends for the request.
    """

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


Event = (
    RequestStarted
    | StdinReceived
    | StdinEnded
    | DataReceived
    | DataEnded
    | RequestRejected
    | RoleRefused
    | RequestAborted
)


@final
class StdoutReceived:
    """A piece of the STDOUT stream arrived; a large piece is a view of the received data."""

    __slots__ = ("data", "request")

    def __init__(self, request: ClientRequest, data: Buffer) -> None:
        self.request = request
        self.data = data


@final
class StderrReceived:
    """A piece of the STDERR stream arrived."""

    __slots__ = ("data", "request")

    def __init__(self, request: ClientRequest, data: Buffer) -> None:
        self.request = request
        self.data = data


@final
class RequestEnded:
    """END_REQUEST arrived and the request id is free (section 5.5).

    Attributes:
        request: the request, which may have been aborted.
        app_status: the exit status that a CGI program would have had.
        protocol_status: a `ProtocolStatus`, or a number that the specification does not define.
    """

    __slots__ = ("app_status", "protocol_status", "request")

    def __init__(self, request: ClientRequest, app_status: int, protocol_status: int) -> None:
        self.request = request
        self.app_status = app_status
        self.protocol_status = protocol_status


@final
class ValuesReceived:
    """GET_VALUES_RESULT arrived (section 4.1).

    Attributes:
        values: the variables that the application knows, by name.
    """

    __slots__ = ("values",)

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values


@final
class TypeRefused:
    """UNKNOWN_TYPE arrived: the application does not know a record type (section 4.2).

    Attributes:
        kind: the number of the unknown type.
    """

    __slots__ = ("kind",)

    def __init__(self, kind: int) -> None:
        self.kind = kind


ClientEvent = StdoutReceived | StderrReceived | RequestEnded | ValuesReceived | TypeRefused
