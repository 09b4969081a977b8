"""The numbers of FastCGI 1.0 (section 8 of the specification)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

VERSION: Final = 1
HEADER_SIZE: Final = 8
NULL_REQUEST_ID: Final = 0
"""The id of management records (section 3.3)."""

MAX_CONTENT: Final = 65535
MAX_SENT_CONTENT: Final = 65528
"""Content we put into one record: a multiple of 8 that leaves no room for a peer's overflow when
it adds content and padding in 16 bits."""

KEEP_CONN: Final = 1
"""The flag of BEGIN_REQUEST: the web server, not the application, closes (section 5.1)."""

NOT_AUTHORIZED: Final = b"Status: 500 Internal Server Error\r\n\r\n"
"""What is sent on STDOUT for an authorizer that says nothing, or that there is not: lighttpd takes
an answer without a status for a 200, whatever END_REQUEST says, and lets everybody through."""


class RecordType(IntEnum):
    """What a record is (section 3.3)."""

    BEGIN_REQUEST = 1
    ABORT_REQUEST = 2
    END_REQUEST = 3
    PARAMS = 4
    STDIN = 5
    STDOUT = 6
    STDERR = 7
    DATA = 8
    GET_VALUES = 9
    GET_VALUES_RESULT = 10
    UNKNOWN_TYPE = 11


class Role(IntEnum):
    """What the web server wants of the application (section 6)."""

    RESPONDER = 1
    AUTHORIZER = 2
    FILTER = 3


class ProtocolStatus(IntEnum):
    """How a request ended, as END_REQUEST says it (section 5.5)."""

    REQUEST_COMPLETE = 0
    CANT_MPX_CONN = 1
    OVERLOADED = 2
    UNKNOWN_ROLE = 3
