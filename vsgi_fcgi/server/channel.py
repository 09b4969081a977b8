"""One accepted connection: its socket, its protocol, its single writer."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.loop import READ
from vsgi_fcgi.protocol import Inbound, Request, ServerConnection
from vsgi_fcgi.server.contract import main_only
from vsgi_fcgi.server.endings import Ending
from vsgi_fcgi.server.writer import Writer

if TYPE_CHECKING:
    from vsgi_fcgi.server.context import MainContext

_RECEIVE_SIZE = 65536
"""Bytes that are read at a time."""


class Channel:
    """Drives one connection by watchers; everything in it belongs to the main context.

    Args:
        context: the main context.
        sock: the accepted socket, non-blocking.
        peer: who is on the other side, for log lines.

    Attributes:
        connection: the protocol.
        writer: what sends on it, and nothing else does.
        last_active: the loop's time when something was last received, in seconds.
        silent: nothing was ever received.
        paused: how many reasons there are not to read.
        closed: it is over.
    """

    __slots__ = (
        "_params",
        "_reader",
        "closed",
        "connection",
        "context",
        "last_active",
        "paused",
        "peer",
        "silent",
        "sock",
        "writer",
    )

    def __init__(self, context: MainContext, sock: socket.SocketType, peer: str) -> None:
        self.context = context
        self.sock = sock
        self.peer = peer
        self.connection: ServerConnection = context.make_connection()
        self.writer = Writer(self)
        self.last_active = context.loop.now()
        self.silent = True
        self._params = 0
        self.paused = 0
        self.closed = False
        self._reader = context.loop.io(sock.fileno(), READ)

    def start(self) -> None:
        """Begin to read. What the web server sent with its connect is taken at once."""
        self.on_readable()
        if not self.closed and not self.paused:
            self._reader.start(self.on_readable)

    # Reading.

    @main_only
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
            context = self.context
            self.last_active = context.loop.now()
            self.silent = False
            connection = self.connection
            events = connection.receive_data(data)
            if events:
                context.assembler.handle(self, events)
                context.hand_over()
            if connection.params_held != self._params:
                self._count_params()
                if context.params.used > context.params.limit:
                    self._refuse_params()
            # `closing`: the discarded rest of a request may have come to its end just now.
            if (connection.outgoing or connection.closing) and not self.closed:
                if self.writer.dirty:
                    context.flush_dirty()
                else:
                    self.writer.flush()
        except RemoteProtocolError as error:
            self.context.log.warning("%s: %s; the connection is closed", self.peer, error)
            self.lose(Ending.BROKEN)
        except Exception as error:
            self.fail(error)

    @main_only
    def pause(self) -> None:
        """Stop reading until `resume`; may be nested."""
        self.paused += 1
        if not self.closed:
            self._reader.stop()

    @main_only
    def resume(self) -> None:
        """Read again, if there is no other reason not to."""
        self.paused -= 1
        if not self.paused and not self.closed:
            self._reader.start(self.on_readable)

    # Requests.

    @main_only
    def answer(self, request: Request, response: bytes) -> None:
        """Answer a request without an app; what still comes of it is discarded."""
        if request.inbound < Inbound.ENDED:
            self.connection.discard(request)
        self.connection.send_stdout(request, response)
        self.connection.end_request(request)
        self._count_params()
        self.writer.touch()

    @main_only
    def abort(self, request: Request, ending: Ending) -> None:
        """Give a request up, whatever has become of it."""
        self.context.assembler.abort(self, request, ending)

    def _count_params(self) -> None:
        """Count what has come of params that have not ended: it is bounded over all connections."""
        held = 0 if self.closed else self.connection.params_held
        self.context.params.force(held - self._params)
        self._params = held

    def _refuse_params(self) -> None:
        limit = self.context.params.limit
        reason = f"{limit} bytes of params of unfinished requests are held"
        for request in list(self.connection.requests.values()):
            if request.block:
                self.context.assembler.refuse(self, request, 503, reason)

    # The end.

    @main_only
    def is_idle(self) -> bool:
        """Whether nothing has begun on it, and nothing waits to be sent."""
        writer = self.writer
        return not self.connection.requests and not writer.blocked and not writer.dirty

    @main_only
    def last_read(self) -> None:
        """Take what can be read, and close the connection if nothing came of it."""
        if not self.closed and not self.paused:
            self.on_readable()
        if not self.closed and self.is_idle():
            self.close()

    @main_only
    def lose(self, ending: Ending = Ending.CANCELLED) -> None:
        """The web server is gone, or is not to be listened to: give up all its requests.

        Args:
            ending: why, for the access log.
        """
        if not self.closed:
            for event in self.connection.receive_eof():
                self.abort(event.request, ending)
            self.close()

    @main_only
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
        self.context.forget(self)

    def fail(self, error: Exception) -> None:
        """End the connection after an error that should not have happened."""
        self.context.log.error("a bug in the server; %s is closed", self.peer, error=error)
        self.lose(Ending.BROKEN)
