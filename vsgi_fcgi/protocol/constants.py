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
"""Maximum bytes of content in a record that this package sends.

It is a multiple of 8, so no padding is needed. It is below 65535, so a peer that adds the lengths
of content and padding in 16 bits does not overflow.
"""

KEEP_CONN: Final = 1
"""The flag of BEGIN_REQUEST that leaves closing the connection to the web server (section 5.1)."""

NOT_AUTHORIZED: Final = b"Status: 500 Internal Server Error\r\n\r\n"
"""The STDOUT content that denies access if an authorizer is missing or writes nothing.

lighttpd reads a response without a status as 200, whatever END_REQUEST says, and then grants access
to every client.
"""


class RecordType(IntEnum):
    """The type of a record (section 3.3)."""

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
    """The role that the web server asks the application to play (section 6)."""

    RESPONDER = 1
    AUTHORIZER = 2
    FILTER = 3


BROKEN_ANSWER: Final = 0x42524F4B
"""The appStatus of an incomplete response (ASCII "BROK"); the exit status of an app has 8 bits."""


class ProtocolStatus(IntEnum):
    """The protocolStatus of END_REQUEST: how a request ended (section 5.5)."""

    REQUEST_COMPLETE = 0
    CANT_MPX_CONN = 1
    OVERLOADED = 2
    UNKNOWN_ROLE = 3


Buffer = bytes | bytearray | memoryview
