"""One request and its response, from the end of its params to the last byte.

An `Exchange` is made when the params of a request have come, and it owns everything that belongs
to the request: the connection, the protocol's handle, the body, the response, and its state.

Two parties work on it. The main context reads the request and sends the response. A worker runs
the app. Neither waits for the other: the web server may give a request up at any moment, and the
app may end at any moment. So the state has to remember two facts, of which either may come first:
whether the response is still wanted, and whether a worker still has the exchange::

                 submit               finish             sent
      READING ----------> SUBMITTED ----------> FINISHED ------> ENDED
         |                    |                 |  ^   |           ^
         |                    |            hold |  | release       |
         |                    |                 v  |   |           |
         |                    |                 HELD   |           |
         |                    | cancel            |    | cancel    |
         |                    v        finish     v    v           |
         |                CANCELLED ------------> (ENDED) ---------+
         |                                                         |
         +----------------- refuse, cancel ------------------------+

READING
    More of the body is expected, or is on its way to a temporary file. The main context owns
    everything, and no worker knows of the exchange.
SUBMITTED
    A worker has the exchange, or will take it from the queue. The worker owns the params, the body
    and the app's environ; the main context sends what the worker writes.
FINISHED
    The worker is done. The main context owns everything again, and sends the rest of the response.
HELD
    The worker is done, and the app has asked to keep the request open (`vsgi_fcgi.push.held`). The
    main context sends published items, until it releases the exchange.
CANCELLED
    The web server has given the request up, or the connection is lost, but a worker still has the
    exchange. Nothing more is sent. `Exchange.cancelled` tells the worker.
ENDED
    Nothing is left to do: the response was sent (sent), the request was answered without an app
    (refuse) or given up (cancel), and no worker has the exchange.

Only the main context changes the state, in the order in which it learns of things, so that no lock
is needed. A worker never reads it. Every change goes through the table below; a hole in the table
is a bug in the server.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, Protocol, final

from vsgi_fcgi.children import exit_child
from vsgi_fcgi.exceptions import ClientDisconnected
from vsgi_fcgi.front_ends.registry import crashes_on_stderr
from vsgi_fcgi.log.handlers import escape_controls
from vsgi_fcgi.protocol import Request, ServerProtocol
from vsgi_fcgi.push.config import RESPONSE_TIMEOUT
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.disconnect import (
    Callbacks,
    DisconnectCallback,
    call_all_soon,
    discard_all,
    register,
)
from vsgi_fcgi.server.response_buffer import ResponseBuffer
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.transport.thread_affinity import main_only, worker_only
from vsgi_fcgi.wsgi.environ import ErrorStream
from vsgi_fcgi.wsgi.response import error_response

# Few servers hold requests, and these modules delay the start of every process.
if TYPE_CHECKING:
    from vsgi_fcgi.push.held import Answer, Held
    from vsgi_fcgi.push.instruction import Hold


class State(IntEnum):
    """Where an exchange is; see the module's docstring."""

    READING = 0
    SUBMITTED = 1
    FINISHED = 2
    HELD = 3
    CANCELLED = 4
    ENDED = 5


_R, _S, _F, _H, _C, _E = State

Row = tuple[State | None, ...]

TRANSITIONS: Final[dict[str, Row]] = {
    #           READING SUBMITTED FINISHED HELD CANCELLED ENDED
    "submit": (_S, None, None, None, None, None),
    "refuse": (_E, None, None, None, None, None),
    "cancel": (_E, _C, _E, _E, None, None),
    "finish": (None, _F, None, None, _E, None),
    "hold": (None, None, _H, None, None, None),
    "release": (None, None, None, _F, None, None),
    "sent": (None, None, _E, None, None, None),
}
"""One row for each thing that can happen; in it, by the state before, the state after. None cannot
happen."""

_SUBMIT, _REFUSE, _CANCEL, _FINISH, _HOLD, _RELEASE, _SENT = TRANSITIONS.values()

# Plain names: members of an enum are looked up slowly, and these are used for every request.
READING: Final = State.READING
SUBMITTED: Final = State.SUBMITTED
FINISHED: Final = State.FINISHED
HELD: Final = State.HELD
CANCELLED: Final = State.CANCELLED
ENDED: Final = State.ENDED

_MAX_TEXTS: Final = 256
"""Number of texts of ``wsgi.errors`` after which they are joined."""

_WHOLE: Final = 139264
"""Up to this many bytes, a response is sent in one piece: a body of 128 KiB and its headers."""
_UNCHARGED: Final = 16384
"""Up to this many bytes, such a piece is not charged on its way to the main context."""


class Reader(Protocol):
    """What reads requests, as an exchange sees it."""

    def refuse(self, exchange: Exchange, status: int, reason: str) -> None:
        """Answer a request with an error, without running an app."""

    def complete_body(self, exchange: Exchange) -> None:
        """Submit a request whose body is complete."""


class Sender(Protocol):
    """The writer of a connection, as an exchange sees it."""

    def put(self, exchange: Exchange) -> None:
        """Queue the posted pieces of a response."""

    def finish(self, exchange: Exchange) -> None:
        """End an exchange whose worker is done."""

    def answer_instead(self, exchange: Exchange, response: bytes) -> None:
        """Answer a submitted request, whose worker may continue."""

    def queue(self, exchange: Exchange) -> None:
        """Queue an exchange that has something to send."""

    def end_held(self, exchange: Exchange) -> None:
        """End an exchange that was held."""


class Carrier(Protocol):
    """The connection that carries an exchange, as the exchange sees it."""

    @property
    def peer(self) -> str:
        """The name of the peer, for log lines."""

    @property
    def services(self) -> Services:
        """The services of the server."""

    @property
    def protocol(self) -> ServerProtocol:
        """The protocol of the connection."""

    @property
    def reader(self) -> Reader:
        """What reads its requests."""

    @property
    def writer(self) -> Sender:
        """What sends on it."""

    def ended_badly(self, what: str) -> None:
        """Have the recording of the connection written, if there is one."""

    def pause(self) -> None:
        """Stop reading until `resume` is called; may be nested."""

    def resume(self) -> None:
        """Read again, unless there is another reason not to."""

    def answer(self, request: Request, response: bytes) -> None:
        """Send a complete response, and discard the rest of the request."""


class Exchange:
    """One request and its response.

    For the app it is a `vsgi_fcgi.wsgi.response.ResponseSink` and an `ErrorSink`.

    Args:
        connection: the connection that the request came on.
        request: the protocol's handle of the request.

    Attributes:
        state: the state; the main context's.
        body: the body, or None if there is none.
        data: the file that the web server sends to a filter, or None.
        cancelled: the response is not wanted any more. The main context sets it, the worker reads
            it.
        callbacks: what the app wants called when the response is not wanted any more; None if it
            has registered nothing.
        response: the part of the response that waits to be sent; None if nothing had to wait.
        software: the param SERVER_SOFTWARE; the worker's until it is done.
        held: how the request is held, or was held; None if its app has not asked for it. The worker
            sets it, then it is the main context's.
        queued: the exchange is in its writer's queue; the main context's.
        begun: some of STDOUT has been sent; the main context's.
        final: the last piece of STDOUT, after the worker has posted it.
        more: bytes of STDOUT that follow ``final``; only if nothing was sent before.
        early_stderr: the text that the app wrote to ``wsgi.errors`` before its first piece of
            STDOUT. The worker sets it before it posts that piece.
        has_stderr: the app wrote to ``wsgi.errors``, and not all of it was sent.
        app_status: the application status for END_REQUEST.
        closed: the worker is done; the worker's.
        broken: the web server must notice that the response is incomplete.
    """

    __slots__ = (
        "_stderr",
        "_stderr_sent",
        "_stderr_size",
        "app_status",
        "begun",
        "body",
        "broken",
        "callbacks",
        "cancelled",
        "closed",
        "connection",
        "data",
        "early_stderr",
        "errors",
        "final",
        "has_stderr",
        "held",
        "more",
        "queued",
        "request",
        "response",
        "software",
        "state",
    )

    # Set together with `has_stderr`.
    _stderr: list[str]
    _stderr_sent: int
    early_stderr: str
    software: str | None

    def __init__(self, connection: Carrier, request: Request) -> None:
        self.connection = connection
        self.request = request
        request.owner = self
        self.state: State = READING
        self.body: Body | None = None
        self.data: Body | None = None
        self.cancelled = False
        self.callbacks: Callbacks | None = None
        self.response: ResponseBuffer | None = None
        self.held: Held | None = None
        self.queued = False
        self.begun = False
        self.final = b""
        self.more = b""
        self.app_status = 0
        self.broken = False
        self.errors: ErrorStream | None = None
        self.software = None
        self.has_stderr = False
        self._stderr_size = 0
        self.closed = False

    def _impossible(self, event: str) -> AssertionError:
        return AssertionError(f"{event}: impossible for an exchange that is {self.state.name}")

    @property
    def params(self) -> dict[str, str]:
        """The params of the request; empty if they have not all come."""
        return getattr(self.request, "params", {})

    @property
    def services(self) -> Services:
        """The services of the server."""
        return self.connection.services

    # The main context, while the request is read.

    @main_only
    def refuse(self, status: int, reason: str) -> None:
        """Answer with an error, without running an app."""
        self.connection.reader.refuse(self, status, reason)

    @main_only
    def complete_body(self) -> None:
        """Take note that a body is complete."""
        self.connection.reader.complete_body(self)

    @main_only
    def submit(self) -> None:
        """Take note that a worker will get the exchange."""
        state = _SUBMIT[self.state]
        if state is None:
            raise self._impossible("submit")
        self.state = state

    @main_only
    def answer(self, response: bytes) -> None:
        """Send a complete response, and end the exchange without a worker."""
        state = _REFUSE[self.state]
        if state is None:
            raise self._impossible("refuse")
        self.state = state
        self.request.owner = None
        self.connection.answer(self.request, response)
        self._release_bodies()

    # The worker.

    @worker_only
    def note_begin(self) -> None:
        """Take note that the app is about to run, if something needs this."""

    @worker_only
    def note_end(self) -> None:
        """Take note that the app is done, if something needs this."""

    @worker_only
    def write(self, data: bytes, last: bool = False) -> None:
        """Send a piece of STDOUT; wait if the web server reads too slowly.

        Args:
            data: the piece.
            last: no other piece follows, but the app has not ended yet.

        Raises:
            ClientDisconnected: the web server gave the request up.
        """
        if self.cancelled:
            raise ClientDisconnected("the web server gave the request up")
        response = self.response
        if response is None:
            self._hand_over_stderr()
            connection = self.connection
            services = connection.services
            memory = services.memory
            if last and len(data) <= _UNCHARGED and memory.used < memory.limit:
                # Most responses of frameworks: one piece, and an iterable that ends at once. If it
                # has ended when the main context looks, the piece goes out with END_REQUEST.
                self.final = data
                services.mailbox.post_soon(connection.writer.put, self)
                return
            response = self.response = ResponseBuffer(services, self)
        response.write(data)

    def post_pieces(self) -> bool:
        """Have the main context take the posted pieces of STDOUT.

        Returns:
            False if the main context has ended.
        """
        connection = self.connection
        return connection.services.mailbox.post(connection.writer.put, self)

    @worker_only
    def finish(self, data: bytes = b"", app_status: int = 0, more: bytes = b"") -> None:
        """Send the last piece and end the request; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        callbacks, self.callbacks = self.callbacks, None
        if callbacks is not None and not self.cancelled:
            discard_all(callbacks)
        connection = self.connection
        services = connection.services
        # The stream refers to the exchange, and the exchange to the stream. The cycle is broken
        # here, so that both are freed without the garbage collector.
        errors, self.errors = self.errors, None
        if errors is not None and errors.rest:
            errors.flush()
        if data:
            memory = services.memory
            size = len(data) + len(more)
            if self.response is None and size <= _WHOLE and memory.used < memory.limit:
                self.final = data
                self.more = more
                if size > _UNCHARGED:
                    memory.charge(size)
            else:
                try:
                    self.write(data)
                    if more:
                        self.write(more)
                except ClientDisconnected:
                    app_status = 1
                except BaseException as error:
                    # The request must end all the same, or it never would.
                    self.report("the end of a response is lost", error)
                    self.broken = True
                    app_status = 1
        self.app_status = app_status
        self.note_end()
        # The worker rings when it has looked for its next request: see `ThreadPool`.
        if not services.mailbox.post_quietly(connection.writer.finish, self):
            if services.in_child:
                exit_child(None, app_status)
            self._abandon()

    @worker_only
    def break_off(self) -> None:
        """End the request so that its client sees a broken answer, or a 500 if nothing was sent."""
        if self.closed:
            return
        # In this order, because the main context sets `response` before it empties `final`.
        if not self.final and self.response is None:
            self.finish(error_response(500), app_status=1)
        else:
            self.broken = True
            self.finish(app_status=1)

    @worker_only
    def rescue(self) -> None:
        """End the request after an exception in this package, wherever it was raised."""
        if not self.closed:
            self.break_off()
        else:
            # The exception may have come before the end was posted.
            self.connection.services.mailbox.post(self._finish_once, None)

    @worker_only
    def report(self, message: str, error: BaseException | None = None) -> None:
        """Log a failure of the app."""
        services = self.connection.services
        if services.in_child and isinstance(error, SystemExit):
            exit_child(error)
        services.log.error("%s", message, error=error)

    @worker_only
    def write_error(self, text: str) -> None:
        """Take text of ``wsgi.errors``: to the log at once, to STDERR before or after STDOUT."""
        services = self.connection.services
        # nginx writes STDERR to its log as it is, and apps write texts of clients.
        text = escape_controls(text)
        services.log.app_error(text)
        room = services.config.max_stderr_bytes - self._stderr_size
        if room > 0:
            if crashes_on_stderr(self.software):
                return
            if not self.has_stderr:
                if not self._stderr_size:
                    self._stderr_sent = 0
                    self.early_stderr = ""
                self._stderr = []
                self.has_stderr = True
            self._stderr.append(text[:room])
            if len(self._stderr) >= _MAX_TEXTS:
                # A line of two characters takes sixty bytes.
                self._stderr = ["".join(self._stderr)]
            self._stderr_size += len(text)

    def _hand_over_stderr(self) -> None:
        """Have the text of ``wsgi.errors`` sent before STDOUT.

        nginx searches for the text of its ``fastcgi_catch_stderr`` only in what it reads of STDERR
        before the response headers.
        """
        if self.errors is not None:
            self.errors.flush()
        if self.has_stderr:
            self.early_stderr = "".join(self._stderr)
            self._stderr = []

    def _abandon(self) -> None:
        """Release everything, because the main context has ended."""
        self._release_bodies()
        if self.response is not None:
            self.response.close()

    # The main context, while the response is sent.

    @main_only
    def end_run(self) -> bool:
        """Take the exchange back from its worker.

        Returns:
            Whether the response is still wanted.
        """
        state = _FINISH[self.state]
        if state is None:
            raise self._impossible("finish")
        self.state = state
        if self.body is not None:
            self._release_bodies()
        size = len(self.final) + len(self.more)
        if size > _UNCHARGED:
            self.connection.services.memory.release(size)
        if state is FINISHED:
            return True
        if self.held is not None:
            # It will not be held; this breaks the reference cycle.
            self.held.outlet = None
        response = self.response
        if response is not None and not response.loading:
            response.close()
        return False

    def _finish_once(self, nothing: None) -> None:
        if self.state is SUBMITTED or self.state is CANCELLED:
            self.connection.writer.finish(self)

    @main_only
    def take_stderr(self) -> bytes:
        """Take what can be sent of STDERR: the early text, and the rest if the worker is done."""
        text, self.early_stderr = self.early_stderr, ""
        if self.state is not SUBMITTED:
            text += "".join(self._stderr)
            self.has_stderr = False
        data = text.encode("utf-8", "backslashreplace")
        # Characters may be longer in bytes; cut where no character is split.
        room = self.connection.services.config.max_stderr_bytes - self._stderr_sent
        if len(data) > room:
            data = data[:room].decode("utf-8", "ignore").encode()
        self._stderr_sent += len(data)
        return data

    @main_only
    def hold(self) -> None:
        """Keep the request open, as its app has asked for."""
        state = _HOLD[self.state]
        if state is None:
            raise self._impossible("hold")
        self.state = state
        head, self.final = self.final, b""
        assert self.held is not None
        assert self.services.held is not None
        self.services.held.begin(self.held, head)

    def send_held(self) -> None:
        """Send the pieces of a held stream, soon."""
        if not self.queued:
            self.connection.writer.queue(self)

    @main_only
    def end_held(self, last: bytes) -> None:
        """Send the last piece of a held request, and end it."""
        self.release()
        self.final = last
        self.connection.writer.end_held(self)

    @main_only
    def release(self) -> None:
        """Take note that the request is held no longer."""
        state = _RELEASE[self.state]
        if state is None:
            raise self._impossible("release")
        self.state = state

    @main_only
    def queue_final(self) -> None:
        """Queue the last piece of the response, which cannot be sent with its end at once."""
        if self.response is None and self.final:
            self.response = ResponseBuffer(self.connection.services, self)
            self.response.hold(self.final)
            self.final = b""
            if self.more:
                self.response.hold(self.more)
                self.more = b""

    @main_only
    def end(self) -> None:
        """Take note that the last piece is about to be sent."""
        state = _SENT[self.state]
        if state is None:
            raise self._impossible("sent")
        self.state = state
        # The exchange refers to the request. The cycle is broken here, so that both are freed
        # without the garbage collector.
        self.request.owner = None
        if self.response is not None:
            self.response.close()

    @main_only
    def cancel(self) -> None:
        """Take note that the response is not wanted any more, and wake a waiting worker."""
        was, state = self.state, _CANCEL[self.state]
        if state is None:
            raise self._impossible("cancel")
        self.state = state
        self.cancelled = True
        callbacks = self.callbacks
        if callbacks:
            call_all_soon(self.connection.services, callbacks)
        if was is HELD:
            assert self.held is not None
            assert self.services.held is not None
            self.services.held.lose(self.held)
        self.request.owner = None
        if was is READING:
            self._release_bodies()
        response = self.response
        if response is not None:
            response.cancel()
            if state is ENDED and not response.loading:
                # The worker has left this to the main context.
                response.close()

    def _release_bodies(self) -> None:
        for body in (self.body, self.data):
            if body is not None:
                body.release()
        self.body = self.data = None

    def forked(self) -> None:
        """Leave temporary files to the parent process, in a child that an app has forked."""
        self.cancelled = True
        for body in (self.body, self.data):
            if body is not None:
                body.forked()
        if self.response is not None:
            self.response.forked()


@final
class RequestHandle:
    """The request, as its app sees it: ``environ["vsgi_fcgi.request"]``.

    Attributes:
        wanted: what `hold` was called with; None if it was not called.
    """

    __slots__ = ("_exchange", "wanted")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.wanted: Hold | None = None

    def client_disconnected(self) -> bool:
        """Return whether the response is not wanted any more. This only reads a flag.

        The reason is that the web server has given the request up or has closed the connection,
        that ``request_timeout`` is over, or that the server stops and waits no longer.
        """
        return self._exchange.cancelled

    def on_disconnect(self, callback: Callable[[], object]) -> DisconnectCallback:
        """Have a function called when `client_disconnected` becomes true.

        It is called once, without arguments, in a greenlet of the main context. If the client has
        gone already, it is called at once. It must not block: all connections wait for it. An
        exception that it raises is logged. It is not called if the client leaves after the app has
        ended the request, which is after ``close()`` of the iterable.

        To be called by the worker that runs the app.

        Args:
            callback: the function.

        Returns:
            The registration, which as a context manager removes the callback.

        Raises:
            RuntimeError: 1000 callbacks are registered for this request.
        """
        return register(self._exchange, callback)

    def hold(
        self,
        *channels: str,
        mode: str = "stream",
        timeout: float = RESPONSE_TIMEOUT,
        keep_alive: bytes = b"",
        keep_alive_timeout: int = RESPONSE_TIMEOUT,
    ) -> None:
        """Have the request held when the app has answered it, as with the header Grip-Hold.

        To be called before ``start_response``, by the worker that runs the app.

        Args:
            *channels: the names of the channels on which the request is held.
            mode: "stream": the response continues with published items. "response": the first
                published item is the response, and the app's own response follows at the timeout.
            timeout: seconds until the timeout in the mode "response".
            keep_alive: bytes that are sent to a stream that is silent.
            keep_alive_timeout: seconds of silence after which they are sent.

        Raises:
            RuntimeError: the server runs without the setting ``push``.
            ValueError: the mode does not exist.
        """
        from vsgi_fcgi.push.instruction import HeldChannel, Hold, KeepAlive

        services = self._exchange.services
        if services.held is None:
            raise RuntimeError("hold() needs the setting push (--push)")
        if mode not in ("stream", "response"):
            raise ValueError(f"mode is {mode!r}, but must be 'stream' or 'response'")
        beat = KeepAlive(keep_alive, keep_alive_timeout) if keep_alive else None
        self.wanted = Hold(
            mode == "stream", [HeldChannel(name) for name in channels], timeout, beat
        )

    def hold_as(self, hold: Hold, answer: Answer, params: dict[str, str], head_only: bool) -> None:
        """Have the request held when its worker is done. For the layer that reads instructions."""
        from vsgi_fcgi.push.held import Held

        exchange = self._exchange
        exchange.held = Held(exchange, hold, answer, params, head_only)


if TYPE_CHECKING:
    # An `Exchange` is what these protocols ask for.
    from vsgi_fcgi.server.body import BodyOwner
    from vsgi_fcgi.server.disconnect import Cancellable
    from vsgi_fcgi.server.response_buffer import Producer

    def _check(exchange: Exchange) -> tuple[BodyOwner, Producer, Cancellable]:
        return exchange, exchange, exchange


# An exchange whose request gets a line in the access log.


class LoggedExchange(Exchange):
    """Keeps what the access log needs, noted where it happens.

    Times are in nanoseconds by `time.monotonic_ns`. They exist only if the log's format uses them,
    and those of the run only in a `TimedExchange`.

    Attributes:
        notes: the values that the format needs from the request, since a worker has the exchange;
            the main context's.
        head: the header block of a response that is not sent in one piece, once the worker has
            written it.
        run_began: the time when a worker began to run the app; 0 before that.
        run_ended: the time when the worker was done; 0 before that.
        ended: the time when the response was sent.
    """

    __slots__ = ("ended", "head", "notes", "run_began", "run_ended")

    notes: tuple[object, ...]
    head: bytes
    run_began: int
    run_ended: int
    ended: int

    @worker_only
    def write(self, data: bytes, last: bool = False) -> None:
        """Send a piece of STDOUT; the first one contains the whole header block."""
        if not self.head:
            self.head = _head_of(data)
        Exchange.write(self, data, last)

    @main_only
    def hold(self) -> None:
        """Keep the request open. Its first piece has the header block."""
        if self.held is not None and self.held.hold.stream:
            self.head = _head_of(self.final)
        Exchange.hold(self)

    @main_only
    def queue_final(self) -> None:
        """Queue the last piece, which may also be the first one."""
        if not self.head:
            self.head = _head_of(self.final)
        Exchange.queue_final(self)

    @property
    def submitted(self) -> bool:
        """Whether the request was submitted to the workers."""
        return self.state is not READING

    def count_sent(self) -> int:
        """Return the number of bytes of STDOUT that were sent, with the last piece."""
        sent = len(self.final) + len(self.more)
        if self.begun:
            if self.held is not None:
                sent += self.held.sent
            if self.response is not None:
                sent += self.response.sent
        return sent


class TimedExchange(LoggedExchange):
    """Keeps when the app began and ended as well."""

    __slots__ = ()

    @worker_only
    def note_begin(self) -> None:
        """Keep the time."""
        self.run_began = monotonic_ns()

    @worker_only
    def note_end(self) -> None:
        """Keep the time, before the main context gets the end of the response."""
        self.run_ended = monotonic_ns()


def _head_of(data: bytes) -> bytes:
    return data[: data.find(b"\r\n\r\n") + 4]
