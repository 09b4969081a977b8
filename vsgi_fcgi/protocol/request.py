"""The handles of one request at either end: an id, a role and two states.

Each direction of a request has a state of its own; `vsgi_fcgi.protocol.state` has the tables. A
handle is created for every request, so it has slots and no base class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

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
