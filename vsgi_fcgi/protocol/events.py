"""What `ServerConnection.receive_data` reports.

Plain classes with slots: a frozen dataclass takes three times as long to make, and these are
made for every request.
"""

from __future__ import annotations

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
    | RequestAborted
)
