"""One request, as the protocol sees it: an id, a role, two states."""

from __future__ import annotations

from typing import Any, Final

from vsgi_fcgi.protocol.pairs import Repeated
from vsgi_fcgi.protocol.state import Inbound, Outbound

# Members of an enum are looked up slowly, and this is made for every request.
_PARAMS: Final = Inbound.PARAMS
_OPEN: Final = Outbound.OPEN


class Request:
    """The handle of one request on one connection.

    Everything that is said of a request names this object and never its id: a web server may
    give the id to a new request the moment that this one has ended.

    Attributes:
        id: the request id, 1 to 65535 (section 3.3).
        role: the role as the web server sent it (section 5.1).
        keep_conn: whether the web server wants the connection left open (section 5.1).
        inbound: what the web server still owes of it.
        outbound: whether END_REQUEST was sent.
        params: the name-value pairs, once `RequestStarted` was reported; whoever takes the dict
            owns it.
        repeated: later values of names that came more than once.
        raw_params: the params as they came, where the connection does not decode them.
        received: bytes of its streams so far; whoever watches for progress compares it.
        context: left to the user of the connection.
    """

    __slots__ = (
        "block",
        "context",
        "id",
        "inbound",
        "keep_conn",
        "outbound",
        "params",
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
        self.received = 0
        self.context: Any = None

    def __repr__(self) -> str:
        states = f"{self.inbound.name}/{self.outbound.name}"
        return f"<Request {self.id} role {self.role} {states}>"
