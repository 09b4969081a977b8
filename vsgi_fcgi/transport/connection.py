"""One accepted connection of a web server: its socket, its protocol and its one writer."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol import Event, Inbound, Request, ServerProtocol
from vsgi_fcgi.transport.closing import ClosableConnection, Outcome, Peer
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.loop import READ, Watcher
from vsgi_fcgi.transport.thread_affinity import main_only
from vsgi_fcgi.transport.writer import Writer

_RECEIVE_SIZE: Final = 65536
"""Bytes that are read at a time."""

_DONT_WAIT: Final = socket.MSG_DONTWAIT
"""The kernel does not know that the socket must not block; see `Acceptor`."""

W = TypeVar("W", bound=Writer[Any])


class Connection(ClosableConnection, Generic[W]):
    """Drives one connection by watchers. Everything in it belongs to the main context.

    A subclass does the work: it makes the writer, takes events in `handle`, and answers and aborts
    requests.

    Args:
        connections: all connections.
        protocol: the protocol.
        sock: the accepted socket, non-blocking.
        peer: the peer.

    Attributes:
        connections: all connections.
        writer: the only object that sends on the socket.
    """

    __slots__ = ("_reader", "connections", "writer")

    writer: W

    def __init__(
        self,
        connections: Connections[Any],
        protocol: ServerProtocol,
        sock: socket.SocketType,
        peer: Peer,
    ) -> None:
        super().__init__(connections.loop, protocol, sock, peer)
        self.connections = connections
        # None until it is needed: a connection may be closed in the round that accepted it.
        self._reader: Watcher | None = None

    # A subclass implements these.

    def handle(self, events: Iterable[Event]) -> None:
        """Handle events of the protocol."""
        raise NotImplementedError

    @main_only
    def refuse(self, request: Request, status: int, reason: str) -> None:
        """Answer a request with an error, and discard the rest of its input.

        Args:
            request: the request, of which no response was sent.
            status: the HTTP status.
            reason: the reason, for the log.
        """
        raise NotImplementedError

    @main_only
    def abort(self, request: Request, outcome: Outcome) -> None:
        """Release everything that a request holds, after the web server has given it up."""
        raise NotImplementedError

    def has_begun_to_answer(self, request: Request) -> bool:
        """Whether a part of the response was sent before the request was complete."""
        return False

    def progress_of(self, request: Request) -> int:
        """Return a number that changes as long as an incomplete request makes progress."""
        return request.received

    def time_out(self, request: Request, reason: str) -> None:
        """End an incomplete request that makes no progress."""
        self.refuse(request, 408, reason)

    # Reading.

    @main_only
    def watch(self) -> None:
        """Start to read whenever something arrives."""
        if not self.paused and not self.closed and not self.input_over:
            if self._reader is None:
                self._reader = self.connections.loop.io(self.sock.fileno(), READ)
            handover = self.connections.handover
            if handover is None:
                self._reader.start(self.on_readable)
            else:
                handover.watch(self, self._reader)

    def stop_reading(self) -> None:
        """Stop to read until `watch` is called. An app's child process calls it as well."""
        if self._reader is not None:
            self._reader.stop()

    @main_only
    def on_readable(self) -> None:
        """Read once. The callback of a watcher: no exception may leave it, or it would stop."""
        try:
            connections, writer, protocol = self.connections, self.writer, self.protocol
            scratch = connections.scratch
            if writer.blocked and connections.memory.is_exceeded:
                writer.hold_input()
                return
            try:
                if protocol.left and scratch is not None:
                    # A body arrives, and its owner copies it to its place.
                    data: bytes | memoryview = scratch[
                        : self.sock.recv_into(scratch, 0, _DONT_WAIT)
                    ]
                else:
                    data = self.sock.recv(_RECEIVE_SIZE, _DONT_WAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._input_ended()
                return
            if self._ending and self.is_lingering:
                self._receive_late(data)
                return
            self.last_active = self._loop.now()
            self.silent = False
            events: list[Event] = []
            try:
                protocol.receive_data(data, events)
            except RemoteProtocolError as error:
                # The events before the error count: an abort releases a worker and memory.
                self.handle(events)
                connections.log.warning("%s: %s; the connection is closed", self.peer, error)
                self.lose(Outcome.BROKEN)
                return
            if events:
                self.handle(events)
            if protocol.params_held != self.counted:
                self.count_params()
                if connections.params.used > connections.params.limit:
                    self._refuse_params()
            # `closing`: the discarded rest of a request may have ended just now.
            if (protocol.outgoing or protocol.closing) and not self.closed:
                writer.touch()
            if connections.stopping and not self.closed:
                self._note_input()
        except Exception as error:
            self.fail(error)

    @main_only
    def pause(self) -> None:
        """Stop reading until `resume` is called; may be nested."""
        self.paused += 1
        if not self.closed:
            self.stop_reading()

    @main_only
    def resume(self) -> None:
        """Read again, unless there is another reason not to."""
        self.paused -= 1
        self.watch()

    def read_on(self) -> None:
        """Read as far as the handover to another process allows."""
        self.stop_reading()
        self.watch()

    # Requests.

    @main_only
    def answer(self, request: Request, response: bytes) -> None:
        """Send a complete response, and discard the rest of the request's input."""
        if request.inbound < Inbound.ENDED:
            self.protocol.discard(request)
        self.protocol.respond(request, response)
        self.count_params()
        self.writer.touch()

    def count_params(self) -> None:
        """Charge unfinished requests to the quota, which limits them over all connections."""
        held = 0 if self.closed else self.protocol.params_held + self.writer.late
        self.connections.params.charge(held - self.counted)
        self.counted = held

    def _refuse_params(self) -> None:
        params = self.connections.params
        reason = f"the limit of {params.limit} bytes of params of unfinished requests is reached"
        # The latest first: the others may have sent most of their body.
        for request in reversed(list(self.protocol.requests.values())):
            if params.used <= params.limit:
                break
            if (
                request.inbound < Inbound.ENDED
                and not request.outbound
                and not self.has_begun_to_answer(request)
            ):
                self.refuse(request, 503, reason)
        self.protocol.shrink()

    # Closing.

    @main_only
    def is_idle(self) -> bool:
        """Whether no request has begun, and nothing waits to be sent."""
        writer = self.writer
        return not self.protocol.requests and not writer.blocked and not writer.dirty

    def refuse_rest(self) -> None:
        """Stop watching the input, refuse incomplete requests, and send these answers."""
        self.stop_reading()
        for event in self.protocol.refuse_incomplete():
            self.abort(event.request, Outcome.STOPPED)
        self.count_params()
        if self.protocol.outgoing or self.protocol.closing:
            self.writer.touch()
            self.connections.flush_dirty()

    @main_only
    def lose(self, outcome: Outcome = Outcome.CANCELLED) -> None:
        """Abort all requests and close the connection.

        Args:
            outcome: the reason, for the access log.
        """
        if not self.closed:
            for event in self.protocol.receive_eof():
                self.abort(event.request, outcome)
            self.close()

    @main_only
    def close(self) -> None:
        """Close the socket and forget the connection, on which no request is active."""
        if self.closed:
            return
        self.closed = True
        if self._reader is not None:
            self._reader.stop()
            self._reader.close()
            self._reader = None
        self.writer.close()
        if self._linger is not None:
            self._stop_lingering()
        if self.counted:
            self.count_params()
        self.sock.close()
        self.connections.forget(self)

    def fail(self, error: Exception) -> None:
        """Close the connection after an error in this package."""
        self.connections.report_bug(error, f"{self.peer} is closed")
        self.lose(Outcome.BROKEN)
