"""What `receive_data` reports, of a `ServerConnection` first, then of a `ClientConnection`.

Plain classes with slots: a frozen dataclass takes three times as long to make, and these are
made for every request.
"""

from __future__ import annotations

from vsgi_fcgi.protocol.client_request import ClientRequest
from vsgi_fcgi.protocol.request import Request

Buffer = bytes | bytearray | memoryview


class RequestStarted:
    """The params of a request are complete: ``request.params`` and ``request.repeated``."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


class StdinReceived:
    """A piece of the STDIN stream, in order. Large pieces are views of the data received."""

    __slots__ = ("data", "request")

    def __init__(self, request: Request, data: Buffer) -> None:
        self.request = request
        self.data = data


class StdinEnded:
    """The STDIN stream has ended."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


class DataReceived:
    """A piece of the DATA stream of a filter (section 6.4)."""

    __slots__ = ("data", "request")

    def __init__(self, request: Request, data: Buffer) -> None:
        self.request = request
        self.data = data


class DataEnded:
    """The DATA stream of a filter has ended."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


class RequestRejected:
    """A request that is not to be run, and is to be answered early.

    The rest of its input is discarded inside the connection, whatever is answered.

    Attributes:
        request: the request; it may have no params.
        status: the HTTP status to answer with.
        reason: what is wrong with it, for the log.
    """

    __slots__ = ("reason", "request", "status")

    def __init__(self, request: Request, status: int, reason: str) -> None:
        self.request = request
        self.status = status
        self.reason = reason


class RoleRefused:
    """A request for a role that is not served: it was answered UNKNOWN_ROLE (section 5.5)."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


class RequestAborted:
    """ABORT_REQUEST came, or the connection ended.

    It has been answered already where there was something to answer; what is still sent for it
    is dropped.
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


class StdoutReceived:
    """A piece of the STDOUT stream, in order. Large pieces are views of the data received."""

    __slots__ = ("data", "request")

    def __init__(self, request: ClientRequest, data: Buffer) -> None:
        self.request = request
        self.data = data


class StderrReceived:
    """A piece of the STDERR stream, in order."""

    __slots__ = ("data", "request")

    def __init__(self, request: ClientRequest, data: Buffer) -> None:
        self.request = request
        self.data = data


class RequestEnded:
    """END_REQUEST came (section 5.5); the id is free.

    Attributes:
        request: the request, which may have been aborted.
        app_status: the exit status that a CGI program would have had.
        protocol_status: how the protocol ended it, a `ProtocolStatus` or a number that the
            specification does not know.
    """

    __slots__ = ("app_status", "protocol_status", "request")

    def __init__(self, request: ClientRequest, app_status: int, protocol_status: int) -> None:
        self.request = request
        self.app_status = app_status
        self.protocol_status = protocol_status


class ValuesReceived:
    """GET_VALUES was answered (section 4.1).

    Attributes:
        values: what the application knows of what was asked, by name.
    """

    __slots__ = ("values",)

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values


class TypeRefused:
    """UNKNOWN_TYPE came (section 4.2): the application does not know a type that was sent.

    Attributes:
        kind: the number of that type; 0 if it has none to complain about.
    """

    __slots__ = ("kind",)

    def __init__(self, kind: int) -> None:
        self.kind = kind


ClientEvent = StdoutReceived | StderrReceived | RequestEnded | ValuesReceived | TypeRefused
