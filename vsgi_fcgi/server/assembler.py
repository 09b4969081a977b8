"""Gathers what the protocol reports into complete requests, and answers what cannot become one."""

from __future__ import annotations

from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from vsgi_fcgi.protocol import (
    Event,
    Outbound,
    Request,
    RequestAborted,
    RequestRejected,
    RequestStarted,
    Role,
    RoleRefused,
    StdinEnded,
    StdinReceived,
)
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.contract import main_only
from vsgi_fcgi.server.endings import Ending
from vsgi_fcgi.server.reply import Reply
from vsgi_fcgi.server.roles import ROLE_NAMES
from vsgi_fcgi.wsgi.environ import content_length, join_repeated, request_line
from vsgi_fcgi.wsgi.front_ends import forgets_end
from vsgi_fcgi.wsgi.headers import error_response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vsgi_fcgi.server.channel import Channel
    from vsgi_fcgi.server.context import MainContext

_ENDED = Outbound.ENDED
_RESPONDER: Final = int(Role.RESPONDER)

_SPOOL_STEP = 262144
"""Bytes that are gathered before another write to a temporary file that exists already."""

_RETRY_AFTER = 1
"""Seconds after which a client may come again when the server was overloaded."""

_CHUNKED: Final = "-1"
"""What Caddy 2.6 says of a body without a length, where others say nothing."""


class Assembler:
    """One for all connections: what it knows of a request hangs at the request.

    ``request.context`` is None (no body yet), then a `Body`, then, from submission on, a `Reply`.

    Args:
        context: the main context.
    """

    __slots__ = ("_context", "_disk", "_memory", "_refused_roles", "_spool")

    def __init__(self, context: MainContext) -> None:
        self._context = context
        self._disk = context.disk
        self._memory = context.memory
        self._spool = context.spool
        self._refused_roles: set[str] = set()

    @main_only
    def handle(self, channel: Channel, events: Iterable[Event]) -> None:
        """Take what the protocol reported."""
        for event in events:
            kind = type(event)
            request = event.request
            if request.outbound is _ENDED:
                # Answered early, perhaps by an event just before; or aborted.
                if kind is RequestAborted:
                    self.abort(channel, request)
                elif kind is RoleRefused:
                    self._role_refused(channel, request)
            elif kind is RequestStarted:
                self._started(channel, request)
            elif kind is StdinEnded:
                if request.context is None:
                    self._context.dispatcher.submit(channel, request, None)
                else:
                    self._ended(channel, request, request.context)
            elif isinstance(event, StdinReceived):
                self._received(channel, request, request.context, event.data)
            elif isinstance(event, RequestRejected):
                self.refuse(channel, request, event.status, event.reason)
            else:
                self._data(channel, event)

    def _role_refused(self, channel: Channel, request: Request) -> None:
        """Say once what a web server asks for in vain: its configuration is wrong, or ours is."""
        role = ROLE_NAMES.get(request.role, "unknown")
        if role not in self._refused_roles:
            self._refused_roles.add(role)
            self._context.log.warning(
                "%s: a request for the role %s, which no app is served for: it was answered "
                "UNKNOWN_ROLE, and so are all others, without another line here; --authorizer and "
                "--filter name apps for these roles",
                channel.peer,
                role,
            )

    def _data(self, channel: Channel, event: Event) -> None:
        """Take a piece of DATA, or its end: only a filter has that."""

    def _started(self, channel: Channel, request: Request) -> None:
        params = request.params
        if request.repeated:
            # Before anything is decided by a value of which there is another one.
            join_repeated(params, request.repeated)
            request.repeated = ()
        if not params.get("REQUEST_METHOD"):
            self.refuse(channel, request, 400, "it has no REQUEST_METHOD")
        elif params.get("CONTENT_LENGTH"):
            if params["CONTENT_LENGTH"] == _CHUNKED:
                params["CONTENT_LENGTH"] = ""
                return
            try:
                expected = content_length(params)
            except ValueError as error:
                self.refuse(channel, request, 400, str(error))
                return
            if expected and expected > self._context.config.max_body_bytes:
                self._refuse_size(channel, request)
            elif expected:
                request.context = self._make_body(expected)
            elif request.role == _RESPONDER and forgets_end(params.get("SERVER_SOFTWARE")):
                # What comes of it later is no event any more, but some may be behind this one.
                channel.connection.discard(request)
                self._context.dispatcher.submit(channel, request, None)

    def _make_body(self, expected: int | None) -> Body:
        body = Body(expected, self._memory, self._spool)
        body.began = self._now()
        return body

    def _now(self) -> int:
        """The time in nanoseconds, for an access log; 0 if there is none."""
        return 0 if self._context.access_log is None else monotonic_ns()

    def _received(
        self, channel: Channel, request: Request, body: Body | Reply | None, data: Buffer
    ) -> None:
        if isinstance(body, Reply):
            return
        if body is None:
            expected = 0 if request.params.get("CONTENT_LENGTH") else None
            body = request.context = self._make_body(expected)
        config = self._context.config
        if body.expected is None and body.size + len(data) > config.max_body_bytes:
            self._refuse_size(channel, request)
            return
        body.append(data)
        if body.writing:
            return
        if body.in_file:
            if body.held >= _SPOOL_STEP:
                self._write_out(channel, request, body)
        elif body.held > config.body_memory_bytes or self._memory.used > self._memory.limit:
            self._write_out(channel, request, body)

    def _ended(self, channel: Channel, request: Request, body: Body | Reply) -> None:
        if isinstance(body, Reply):
            return
        body.ended = True
        if body.expected is not None and body.size < body.expected:
            reason = f"{body.size} bytes of a body of {body.expected} came"
            self.refuse(channel, request, 400, reason)
        elif body.in_file and not body.writing and body.held:
            self._write_out(channel, request, body)
        elif not body.writing:
            self._complete(channel, request, body)

    def _complete(self, channel: Channel, request: Request, body: Body) -> None:
        """All of a body is where it is to be."""
        self._context.dispatcher.submit(channel, request, body)

    def _write_out(self, channel: Channel, request: Request, body: Body) -> None:
        done = partial(self._written_out, channel, request, body)
        if body.write_out(self._disk, self._context.config.spool_dir, done):
            channel.pause()
        else:
            limit = self._spool.limit
            self._overloaded(channel, request, f"{limit} bytes of temporary files are in use")

    def _written_out(
        self, channel: Channel, request: Request, body: Body, error: OSError | None
    ) -> None:
        if request.outbound is _ENDED:
            body.release(self._disk)
        elif error is not None:
            self._context.log.error("cannot write a request body to a temporary file: %s", error)
            self._overloaded(channel, request, "a temporary file cannot be written")
        elif body.held and (body.ended or body.held >= _SPOOL_STEP):
            self._write_out(channel, request, body)
        elif body.ended:
            self._complete(channel, request, body)
            self._context.hand_over()
        channel.resume()

    def _refuse_size(self, channel: Channel, request: Request) -> None:
        limit = self._context.config.max_body_bytes
        self.refuse(channel, request, 413, f"its body is larger than {limit} bytes")

    def _overloaded(self, channel: Channel, request: Request, reason: str) -> None:
        self.refuse(channel, request, 503, reason)

    @main_only
    def refuse(self, channel: Channel, request: Request, status: int, reason: str) -> None:
        """Answer a request with an error, without running an app.

        Args:
            channel: its connection.
            request: the request; what still comes of it is discarded.
            status: the HTTP status.
            reason: why, for the log.
        """
        params = getattr(request, "params", {})
        self._context.log.info(
            "%s: %s was answered %d: %s",
            channel.peer,
            request_line(params),
            status,
            reason,
        )
        body = request.context
        request.context = None
        head_only = params.get("REQUEST_METHOD") == "HEAD"
        retry_after = _RETRY_AFTER if status == 503 else None
        response = error_response(status, head_only=head_only, retry_after=retry_after)
        log = self._context.access_log
        if log is not None:
            ending = Ending.TIMED_OUT if status == 408 else Ending.REFUSED
            log.refused(channel, request, body, response, ending)
        channel.answer(request, response)
        if isinstance(body, Body) and not body.writing:
            body.release(self._disk)

    @main_only
    def abort(self, channel: Channel, request: Request, ending: Ending = Ending.CANCELLED) -> None:
        """Let go of a request that the web server gave up, or that goes down with its connection.

        Args:
            channel: its connection.
            request: the request.
            ending: why, for the access log.
        """
        held = request.context
        request.context = None
        log = self._context.access_log
        if log is not None:
            log.given_up(channel, request, held, ending)
        if isinstance(held, Reply):
            held.cancel()
            if self._context.dispatcher.forget(held) and held.body is not None:
                held.body.release(self._disk)
        elif isinstance(held, Body) and not held.writing:
            held.release(self._disk)
