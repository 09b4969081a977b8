"""FastCGI 1.0 without I/O: bytes, records, events."""

from vsgi_fcgi.protocol.client import ClientConnection
from vsgi_fcgi.protocol.client_request import ClientRequest
from vsgi_fcgi.protocol.constants import NOT_AUTHORIZED, ProtocolStatus, RecordType, Role
from vsgi_fcgi.protocol.events import (
    ClientEvent,
    DataEnded,
    DataReceived,
    Event,
    RequestAborted,
    RequestEnded,
    RequestRejected,
    RequestStarted,
    RoleRefused,
    StderrReceived,
    StdinEnded,
    StdinReceived,
    StdoutReceived,
    TypeRefused,
    ValuesReceived,
)
from vsgi_fcgi.protocol.limits import Limits
from vsgi_fcgi.protocol.request import Request
from vsgi_fcgi.protocol.server import ServerConnection
from vsgi_fcgi.protocol.state import Answering, Inbound, Outbound, Sending

__all__ = [
    "NOT_AUTHORIZED",
    "Answering",
    "ClientConnection",
    "ClientEvent",
    "ClientRequest",
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
    "RequestEnded",
    "RequestRejected",
    "RequestStarted",
    "Role",
    "RoleRefused",
    "Sending",
    "ServerConnection",
    "StderrReceived",
    "StdinEnded",
    "StdinReceived",
    "StdoutReceived",
    "TypeRefused",
    "ValuesReceived",
]
