"""One connection of a web server to the relay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from vsgi_fcgi.client.relay_writer import RelayWriter
from vsgi_fcgi.client.relayed import Relayed
from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.loop import READ, Watcher
from vsgi_fcgi.protocol import (
    DataEnded,
    Event,
    Inbound,
    Request,
    RequestAborted,
    RequestRejected,
    RequestStarted,
    Role,
    ServerConnection,
    StdinEnded,
)
from vsgi_fcgi.wsgi.environ import request_line
from vsgi_fcgi.wsgi.headers import error_response

if TYPE_CHECKING:
    from vsgi_fcgi.client.relay import Relay

_RECEIVE_SIZE: Final = 65536
"""Bytes that are read at a time."""
_RETRY_AFTER: Final = 1
"""Seconds after which a client may come again when there was no room."""

ROLES: Final = frozenset(map(int, Role))
"""All of them: which ones are served is the application's business."""


class RelayChannel:
    """Drives one connection by watchers; everything in it belongs to the loop's thread.

    Args:
        relay: what it belongs to.
        sock: the accepted socket, non-blocking.
        peer: who is on the other side, for log lines.

    Attributes:
        connection: the protocol.
        writer: what sends on it, and nothing else does.
        paused: how many reasons there are not to read.
        silent: nothing was ever received.
        idle: the relay knows that nothing has begun on it.
        parting: it was found idle while the relay stops, and is looked at a last time.
        closed: it is over.
    """

    __slots__ = (
        "_params",
        "_reader",
        "closed",
        "connection",
        "idle",
        "parting",
        "paused",
        "peer",
        "relay",
        "silent",
        "sock",
        "writer",
    )

    def __init__(self, relay: Relay, sock: Any, peer: str) -> None:
        self.relay = relay
        self.sock = sock
        self.peer = peer
        self.connection = ServerConnection(relay.limits, relay.values, ROLES, raw_params=True)
        self.writer = RelayWriter(self)
        self.paused = 0
        self.silent = True
        self.idle = False
        self.parting = False
        self.closed = False
        self._params = 0
        self._reader: Watcher = relay.loop.io(sock.fileno(), READ)

    def start(self) -> None:
        """Begin to read. What the web server sent with its connect is taken at once."""
        self.on_readable()
        if not self.closed and not self.paused:
            self._reader.start(self.on_readable)

    # Reading.

    def on_readable(self) -> None:
        """Read once. The callback of a watcher: nothing may escape, or the watcher is deaf."""
        try:
            try:
                data = self.sock.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.lose()
                return
            self.silent = False
            connection = self.connection
            self._handle(connection.receive_data(data))
            if connection.params_held != self._params:
                self._count_params()
                if self.relay.params.used > self.relay.params.limit:
                    self._refuse_params()
            if self.idle and connection.requests:
                self.relay.became_busy(self)
            # `closing`: the discarded rest of a request may have come to its end just now.
            if connection.outgoing or connection.closing:
                self.writer.touch()
        except RemoteProtocolError as error:
            self.relay.log.warning("%s: %s; the connection is closed", self.peer, error)
            self.lose()
        except Exception as error:
            self.fail(error)

    def _handle(self, events: Iterable[Event]) -> None:
        for event in events:
            kind = type(event)
            request = event.request
            if kind is RequestStarted:
                relayed = request.context = Relayed(self, request)
                self.relay.queue.begin(relayed)
            elif isinstance(event, RequestRejected):
                self.refuse(request, event.status, event.reason)
            elif (relayed := request.context) is None:
                # Answered early, perhaps by an event just before.
                continue
            elif kind is RequestAborted:
                relayed.close()
            elif kind is StdinEnded or kind is DataEnded:
                relayed.end_input()
            else:
                relayed.put(event.data)  # type: ignore[union-attr]

    def pause(self) -> None:
        """Stop reading until `resume`; may be nested."""
        self.paused += 1
        if not self.closed:
            self._reader.stop()

    def resume(self) -> None:
        """Read again, if there is no other reason not to."""
        self.paused -= 1
        if not self.paused and not self.closed:
            self._reader.start(self.on_readable)

    # Answers.

    def refuse(self, request: Request, status: int, reason: str) -> None:
        """Answer a request with an error; what still comes of it is discarded.

        Args:
            request: the request, of which no answer was sent in front.
            status: the HTTP status.
            reason: why, for the log.
        """
        relayed: Relayed | None = request.context
        params = relayed.params if relayed is not None else {}
        log = self.relay.log.warning if status in (502, 504) else self.relay.log.info
        log("%s: %s was answered %d: %s", self.peer, request_line(params), status, reason)
        if relayed is not None:
            relayed.close()
        connection = self.connection
        if request.inbound < Inbound.ENDED:
            connection.discard(request)
        response = error_response(
            status,
            head_only=params.get("REQUEST_METHOD") == "HEAD",
            retry_after=_RETRY_AFTER if status == 503 else None,
        )
        connection.respond(request, response)
        self.writer.touch()

    def give_up(self, relayed: Relayed, status: int, reason: str) -> None:
        """End a request that makes no progress.

        Args:
            relayed: the request.
            status: the HTTP status that says so, if nothing was answered yet.
            reason: why, for the log.
        """
        if relayed.begun:
            self.break_off(relayed, reason)
        else:
            self.refuse(relayed.request, status, reason)

    def break_off(self, relayed: Relayed, reason: str) -> None:
        """End an answer of which a part was sent, so that the web server sees that it is broken."""
        self.relay.log.warning(
            "%s: the answer to %s is broken off: %s",
            self.peer,
            request_line(relayed.params),
            reason,
        )
        request = relayed.request
        relayed.close()
        if len(self.connection.requests) == 1:
            # Only the end of the connection tells the web server so.
            self.connection.break_off(request)
        else:
            self.connection.end_request(request, 1)
        self.writer.touch()

    # Limits.

    def _count_params(self) -> None:
        """Count what has come of params that have not ended: it is bounded over all connections."""
        held = 0 if self.closed else self.connection.params_held
        self.relay.params.force(held - self._params)
        self._params = held

    def _refuse_params(self) -> None:
        limit = self.relay.params.limit
        for request in list(self.connection.requests.values()):
            if request.block:
                reason = f"{limit} bytes of params of unfinished requests are held"
                self.refuse(request, 503, reason)
        self._count_params()

    # The end.

    def is_idle(self) -> bool:
        """Whether nothing has begun on it, and nothing waits to be sent."""
        return not self.connection.requests and not self.writer.blocked and not self.writer.dirty

    def last_read(self) -> None:
        """Take what can be read, and close the connection if nothing came of it."""
        if self.closed:
            return
        # Unless it is closed here, it is found idle once more.
        self.relay.became_busy(self)
        if not self.paused:
            self.on_readable()
        if not self.closed and self.is_idle():
            self.close()

    def lose(self) -> None:
        """The web server is gone, or is not to be listened to: abort all its requests behind."""
        if self.closed:
            return
        for event in self.connection.receive_eof():
            relayed: Relayed | None = event.request.context
            if relayed is not None:
                relayed.close()
        self.close()

    def close(self) -> None:
        """Close the socket and forget the connection, on which nothing is active."""
        if self.closed:
            return
        self.closed = True
        self._reader.stop()
        self._reader.close()
        self.writer.close()
        self._count_params()
        self.sock.close()
        self.relay.forget(self)

    def fail(self, error: Exception) -> None:
        """End the connection after an error that should not have happened."""
        self.relay.log.warning("a bug in the relay: %r; %s is closed", error, self.peer)
        self.lose()
