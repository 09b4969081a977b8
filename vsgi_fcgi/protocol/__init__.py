"""FastCGI 1.0 without I/O: bytes, records, events."""

from vsgi_fcgi.protocol.constants import ProtocolStatus, RecordType, Role
from vsgi_fcgi.protocol.events import (
    DataEnded,
    DataReceived,
    Event,
    RequestAborted,
    RequestRejected,
    RequestStarted,
    StdinEnded,
    StdinReceived,
)
from vsgi_fcgi.protocol.limits import Limits
from vsgi_fcgi.protocol.request import Request
from vsgi_fcgi.protocol.server import ServerConnection
from vsgi_fcgi.protocol.state import Inbound, Outbound

__all__ = [
    "DataEnded",
    "DataReceived",
    "Event",
    "Inbound",
    "Limits",
    "Outbound",
    "ProtocolStatus",
    "RecordType",
    "Request",
    "RequestAborted",
    "RequestRejected",
    "RequestStarted",
    "Role",
    "ServerConnection",
    "StdinEnded",
    "StdinReceived",
]
