"""A server that takes notes of its web server; the others have none of this on their way."""

from __future__ import annotations

import os
import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, cast

from vsgi_fcgi.addresses import InetAddress
from vsgi_fcgi.exceptions import ParamsError
from vsgi_fcgi.protocol import Event, RecordType, Request, Role, ServerConnection
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.protocol.pairs import decode_pairs, iter_pairs
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.reply import Reply
from vsgi_fcgi.server.role_assembler import RoleAssembler
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.wsgi.seen import SEEN, Arrival, Habits, Seen

if TYPE_CHECKING:
    from vsgi_fcgi.server.channel import Channel
    from vsgi_fcgi.server.context import MainContext

_AT_ONCE: Final = 0.5
"""Seconds: who closes a connection within them has not kept it for another request."""


class InspectedConnection(ServerConnection):
    """Counts its requests, and notes whether it was asked for values.

    Args:
        *args: those of a `ServerConnection`.
        numbers: gives each connection its number.
        habits: where to note how it ended.

    Attributes:
        number: its number.
        begun: requests that have begun on it.
        asked_values: GET_VALUES came.
    """

    __slots__ = ("_habits", "_last_begun", "_wants_keeping", "asked_values", "begun", "number")

    def __init__(self, *args: Any, numbers: count[int], habits: Habits) -> None:
        super().__init__(*args, raw_params=True)
        self.number = next(numbers)
        self.begun = 0
        self.asked_values = False
        self._habits = habits
        self._last_begun = 0.0
        self._wants_keeping = False

    def note(self, request: Request) -> None:
        """Take note that a request has begun."""
        self.begun += 1
        self._last_begun = time.monotonic()
        self._wants_keeping = request.keep_conn
        if self.begun > 1:
            self._habits.used_again()

    def receive_eof(self) -> list[Event]:
        """Take the end, and note whether a connection was closed that was to be kept."""
        answered = self.begun == 1 and not self.requests
        if answered and self._wants_keeping and time.monotonic() - self._last_begun < _AT_ONCE:
            self._habits.dropped()
        return super().receive_eof()

    def _other(self, kind: int, id: int, content: bytes, events: list[Event]) -> None:
        self.asked_values = self.asked_values or kind == RecordType.GET_VALUES
        super()._other(kind, id, content, events)


class InspectingAssembler(RoleAssembler):
    """Puts a `Seen` into the environ of each request.

    A request that the server would refuse for want of a REQUEST_METHOD passes as a GET: it is to
    be told what is missing.
    """

    __slots__ = ("_habits",)

    def __init__(self, context: MainContext) -> None:
        super().__init__(context)
        self._habits = Habits()
        make: Any = context.make_connection
        context.make_connection = cast(
            Any,
            partial(InspectedConnection, *make.args, numbers=count(1), habits=self._habits),
        )

    def _started(self, channel: Channel, request: Request) -> None:
        block, most = request.raw_params, self._context.config.max_params_count
        try:
            request.params, request.repeated = decode_pairs(block, most)
        except ParamsError as error:
            request.params, request.repeated = {}, ()
            self.refuse(channel, request, error.status, str(error))
            return
        connection = channel.connection
        assert isinstance(connection, InspectedConnection)
        connection.note(request)
        in_flight = [len(other.connection.requests) for other in self._context.channels]
        self._habits.began(sum(in_flight), max(in_flight, default=0))
        seen = Seen(
            pairs=tuple(iter_pairs(block, block.decode("latin-1"))),
            role=request.role,
            id=request.id,
            keep_conn=request.keep_conn,
            connection=connection.number,
            turn=connection.begun,
            neighbours=len(connection.requests) - 1,
            asked_values=connection.asked_values,
            address=_address(channel),
            arrival=Arrival(),
            habits=self._habits,
        )
        params: dict[str, Any] = request.params
        params[SEEN] = seen
        if not params.get("REQUEST_METHOD"):
            params["REQUEST_METHOD"] = "GET"
        super()._started(channel, request)

    def _received(
        self, channel: Channel, request: Request, body: Body | Reply | None, data: Buffer
    ) -> None:
        if request.role == Role.RESPONDER and not isinstance(body, Reply):
            # Until it is handed over, the params are not an app's yet.
            arrival = cast(dict[str, Any], request.params)[SEEN].arrival
            arrival.ended = time.monotonic()
            arrival.size += len(data)
        super()._received(channel, request, body, data)


class InspectingServer(Server):
    """A `Server` whose apps find what the web server does in ``environ["vsgi_fcgi.seen"]``."""

    _assembler = InspectingAssembler


def _address(channel: Channel) -> str:
    """Where a connection came to, as ``--bind`` takes it."""
    name: Any = channel.sock.getsockname()
    if isinstance(name, tuple):
        return str(InetAddress(*name[:2]))
    if isinstance(name, bytes):
        return f"unix:@{name[1:].decode('utf-8', 'replace')}" if name else ""
    # Bound to a relative path, it would be another one for a web server.
    return f"unix:{os.path.abspath(name)}" if name else ""
