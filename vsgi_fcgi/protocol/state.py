"""The states of one request at either end, and every transition between them.

Two rules: every transition of a request lives in these tables, and the tables know no role and
no bytes. Which input a record is (the end of STDIN means something else to a filter than to a
responder) is decided by the connection; what the input does is decided here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Inbound(IntEnum):
    """What the web server still owes us of a request."""

    PARAMS = 0
    STDIN = 1
    DATA = 2
    ENDED = 3
    """All streams have ended; the request is complete."""
    DISCARDING = 4
    """Answered, or about to be, before its end; what still comes is thrown away."""
    DISCARDED = 5
    """Answered early, and now ended or given up."""


class Outbound(IntEnum):
    """What we still owe the web server of a request."""

    OPEN = 0
    ENDED = 1
    """END_REQUEST is on its way (or never will be); the id is free."""


class Input(IntEnum):
    """What can happen to the inbound half of a request."""

    PARAMS = 0
    PARAMS_END = 1
    """The last stream but STDIN (and DATA) has ended."""
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
    """ABORT_REQUEST came, or the connection ended."""
    REJECT = 9
    """It will be answered without regard to the rest of its input."""


_P, _S, _D, _E, _X, _Z = Inbound

Row = tuple[Inbound | None, ...]

# One row an input; in it, by the state before, the state after. None breaks the protocol:
# "data after a stream's end" and streams out of order are nothing but holes in this table.
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
    """What a client still owes the application of a request: the mirror of `Inbound`."""

    PARAMS = 0
    STDIN = 1
    DATA = 2
    ENDED = 3
    """All streams have ended, or the application has answered without waiting for them."""
    ABORTED = 4
    """ABORT_REQUEST was sent; the id is taken until END_REQUEST comes (section 5.4)."""


class Answering(IntEnum):
    """What the application still owes a client of a request."""

    OPEN = 0
    STDOUT_ENDED = 1
    ENDED = 2
    """END_REQUEST came; the id is free."""


class AnswerInput(IntEnum):
    """What can come of an answer."""

    STDOUT = 0
    STDOUT_END = 1
    STDERR = 2
    """A piece of STDERR or its end: that stream may end before STDOUT, after it, or never."""
    END_REQUEST = 3


_O, _F, _R = Answering

# One row an input, as above. STDOUT may be ended twice: some applications do, and lose nothing.
ANSWERING: Final[tuple[tuple[Answering | None, ...], ...]] = (
    #  OPEN STDOUT_ENDED ENDED
    (_O, None, None),  # STDOUT
    (_F, _F, None),  # STDOUT_END
    (_O, _F, None),  # STDERR
    (_R, _R, None),  # END_REQUEST
)
