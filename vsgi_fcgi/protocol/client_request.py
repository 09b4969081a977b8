"""One request, as a client's protocol sees it: an id, a role, two states."""

from __future__ import annotations

from typing import Any, Final

from vsgi_fcgi.protocol.state import Answering, Sending

_PARAMS: Final = Sending.PARAMS
_OPEN: Final = Answering.OPEN


class ClientRequest:
    """The handle of one request that this side has begun.

    Attributes:
        id: the request id, 1 to 65535 (section 3.3).
        role: the role that is wanted (section 5.1).
        sending: what is still to be sent of it.
        answering: what is still to come of its answer.
        context: left to the user of the connection.
    """

    __slots__ = ("answering", "context", "id", "role", "sending")

    def __init__(self, id: int, role: int) -> None:
        self.id = id
        self.role = role
        self.sending: Sending = _PARAMS
        self.answering: Answering = _OPEN
        self.context: Any = None

    def __repr__(self) -> str:
        states = f"{self.sending.name}/{self.answering.name}"
        return f"<ClientRequest {self.id} role {self.role} {states}>"
