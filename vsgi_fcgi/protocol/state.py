"""The states of one request at either end of a connection, and every transition between them.

A request has two independent states, one for each direction:

- At the application's end (`ServerProtocol`) they are `Inbound` and `Outbound`.
- At the web server's end (`ClientProtocol`) they are `Sending` and `Receiving`.

The protocol classes turn a record into an input, such as `Input.STDIN_END`, and look up the next
state in a table: one row for each input, one column for each state. An entry of None is a
violation of the protocol. All transitions that the peer causes are in these tables. The tables
contain no roles and no bytes; for example, the protocol class decides that the end of STDIN is the
last input of a responder but not of a filter.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Inbound(IntEnum):
    """The state of a request's input at the application's end."""

    PARAMS = 0
    STDIN = 1
    DATA = 2
    ENDED = 3
    """All streams have ended, so that the request is complete."""
    DISCARDING = 4
    """The request is answered before its input has ended; the rest of the input is discarded."""
    DISCARDED = 5
    """The discarded input has ended, or the protocol no longer waits for its end."""


class Outbound(IntEnum):
    """The state of a request's output at the application's end."""

    OPEN = 0
    ENDED = 1
    """END_REQUEST was sent, or will never be sent; the id is free."""


class Input(IntEnum):
    """What can happen to the input of a request at the application's end."""

    PARAMS = 0
    PARAMS_END = 1
    """The params ended, and STDIN follows."""
    ONLY_PARAMS_END = 2
    """The params ended, and the role has no other stream (authorizer)."""
    STDIN = 3
    STDIN_END = 4
    """STDIN ended, and it was the last stream."""
    STDIN_END_BEFORE_DATA = 5
    """STDIN ended, and DATA follows (filter)."""
    DATA = 6
    DATA_END = 7
    ABORT = 8
    """ABORT_REQUEST arrived, or the connection ended."""
    REJECT = 9
    """The request is answered without reading the rest of its input."""


_P, _S, _D, _E, _X, _Z = Inbound

Row = tuple[Inbound | None, ...]

# INBOUND[input][state before] is the state after, or None for a violation of the protocol, such as
# data after the end of a stream, or a stream out of order.
INBOUND: Final[tuple[Row, ...]] = (
    #  PARAMS STDIN  DATA   ENDED  DISCARDING DISCARDED
    (_P, None, None, None, _X, _Z),  # PARAMS
    (_S, None, None, None, _X, _Z),  # PARAMS_END
    (_E, None, None, None, _Z, _Z),  # ONLY_PARAMS_END
    (None, _S, None, None, _X, _Z),  # STDIN
    (None, _E, None, None, _Z, _Z),  # STDIN_END
    (None, _D, None, None, _X, _Z),  # STDIN_END_BEFORE_DATA
    (None, None, _D, None, _X, _Z),  # DATA
    (None, None, _E, None, _Z, _Z),  # DATA_END
    (_Z, _Z, _Z, _E, _Z, _Z),  # ABORT
    (_X, _X, _X, _E, _X, _Z),  # REJECT
)


class Sending(IntEnum):
    """The state of a request at the web server's end: the counterpart of `Inbound`."""

    PARAMS = 0
    STDIN = 1
    DATA = 2
    ENDED = 3
    """All streams have ended, or the application has responded without waiting for them."""
    ABORTED = 4
    """ABORT_REQUEST was sent; the id is in use until END_REQUEST arrives (section 5.4)."""


class Receiving(IntEnum):
    """The state of a response at the web server's end."""

    OPEN = 0
    STDOUT_ENDED = 1
    ENDED = 2
    """END_REQUEST arrived; the id is free."""


class ResponseInput(IntEnum):
    """What can happen to a response at the web server's end."""

    STDOUT = 0
    STDOUT_END = 1
    STDERR = 2
    """A piece of STDERR, or its end. STDERR may end before STDOUT, after it, or never."""
    END_REQUEST = 3


_O, _F, _R = Receiving

# As above. STDOUT may end twice: some applications do that, and no data is lost.
RECEIVING: Final[tuple[tuple[Receiving | None, ...], ...]] = (
    #  OPEN STDOUT_ENDED ENDED
    (_O, None, None),  # STDOUT
    (_F, _F, None),  # STDOUT_END
    (_O, _F, None),  # STDERR
    (_R, _R, None),  # END_REQUEST
)
