"""FastCGI 1.0 without I/O: bytes go in, events come out, and requests have states.

`ServerProtocol` is the application's end of a connection and `ClientProtocol` the web server's
end. Neither of them owns a socket or reads a clock, as in h11 and in the sans-I/O layer of
websockets. "Section" with a number means that section of the FastCGI 1.0 specification.
"""

from vsgi_fcgi.protocol.client import ClientProtocol
from vsgi_fcgi.protocol.constants import (
    BROKEN_ANSWER,
    NOT_AUTHORIZED,
    ProtocolStatus,
    RecordType,
    Role,
)
from vsgi_fcgi.protocol.events import (
    ClientEvent,
    ClientRequest,
    DataEnded,
    DataReceived,
    Event,
    Request,
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
from vsgi_fcgi.protocol.server import Limits, ServerProtocol
from vsgi_fcgi.protocol.state import Inbound, Outbound, Receiving, Sending

__all__ = [
    "BROKEN_ANSWER",
    "NOT_AUTHORIZED",
    "ClientEvent",
    "ClientProtocol",
    "ClientRequest",
    "DataEnded",
    "DataReceived",
    "Event",
    "Inbound",
    "Limits",
    "Outbound",
    "ProtocolStatus",
    "Receiving",
    "RecordType",
    "Request",
    "RequestAborted",
    "RequestEnded",
    "RequestRejected",
    "RequestStarted",
    "Role",
    "RoleRefused",
    "Sending",
    "ServerProtocol",
    "StderrReceived",
    "StdinEnded",
    "StdinReceived",
    "StdoutReceived",
    "TypeRefused",
    "ValuesReceived",
]
