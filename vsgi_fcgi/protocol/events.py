"""The events that `receive_data` returns: those of `ServerProtocol`, then of `ClientProtocol`.

A caller dispatches on the class of an event; nothing subclasses an event. The classes are plain
classes with slots because each request creates several events, and creating a frozen dataclass
takes three times as long.
"""

from __future__ import annotations

from typing import final

from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.request import ClientRequest, Request


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
