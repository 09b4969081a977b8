"""The answer to one request: what a worker writes to, and what the main context sends from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vsgi_fcgi.exceptions import ClientDisconnected
from vsgi_fcgi.protocol import Request
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.contract import main_only, worker_only
from vsgi_fcgi.server.output import Output
from vsgi_fcgi.wsgi.errors import ErrorStream
from vsgi_fcgi.wsgi.front_ends import dies_of_stderr

_WHOLE: Final = 65528
"""Up to this many bytes, which fit one record, an answer leaves in one piece."""

if TYPE_CHECKING:
    from vsgi_fcgi.server.channel import Channel


class Reply:
    """One request in the hands of a worker, and its answer.

    It is a `vsgi_fcgi.wsgi.runner.ResponseSink` and an `ErrorSink`.

    Args:
        channel: the connection that the request came on.
        request: the request, complete.
        body: its body, or None.

    Attributes:
        cancelled: the web server gave the request up. The main context sets it, workers read it.
        output: what waits to be sent; None as long as nothing had to wait.
        software: the param SERVER_SOFTWARE; the worker's.
        queued: it has a place in its channel's round; the main context's.
        begun: some of its STDOUT has been sent; the main context's.
        finished: the worker has done with it; the main context's.
        final: the last piece of STDOUT, once finished.
        has_stderr: the app wrote to ``wsgi.errors``.
        app_status: for END_REQUEST.
        broken: the answer is to be broken off instead of ended.
    """

    __slots__ = (
        "_closed",
        "_stderr",
        "_stderr_size",
        "app_status",
        "begun",
        "body",
        "broken",
        "cancelled",
        "channel",
        "errors",
        "final",
        "finished",
        "has_stderr",
        "output",
        "queued",
        "request",
        "software",
    )

    _stderr: list[str]
    software: str | None

    def __init__(self, channel: Channel, request: Request, body: Body | None) -> None:
        self.channel = channel
        self.request = request
        self.body = body
        self.cancelled = False
        self.output: Output | None = None
        self.queued = False
        self.begun = False
        self.finished = False
        self.final = b""
        self.app_status = 0
        self.broken = False
        self.errors: ErrorStream | None = None
        self.has_stderr = False
        self._stderr_size = 0
        self._closed = False

    # What a worker does with it.

    @worker_only
    def write(self, data: bytes) -> None:
        """Send a piece of STDOUT; wait when its reader is far behind.

        Raises:
            ClientDisconnected: the request was given up.
        """
        if self.cancelled:
            raise ClientDisconnected("the web server gave the request up")
        output = self.output
        if output is None:
            output = self.output = Output(self)
        output.write(data)

    @worker_only
    def finish(self, data: bytes = b"", app_status: int = 0) -> None:
        """Send the last piece and end the request; a second time it does nothing."""
        if self._closed:
            return
        self._closed = True
        channel = self.channel
        context = channel.context
        # The stream refers to the reply, and the reply to the stream: parted here, so that both
        # go without the garbage collector.
        errors, self.errors = self.errors, None
        if errors is not None:
            errors.flush()
        if data:
            memory = context.memory
            if self.output is None and len(data) <= _WHOLE and memory.used < memory.limit:
                self.final = data
            else:
                try:
                    self.write(data)
                except ClientDisconnected:
                    app_status = 1
                except BaseException as error:
                    # It must end all the same, or it never would.
                    self.report("the end of an answer is lost", error)
                    self.broken = True
                    app_status = 1
        self.app_status = app_status
        # The worker rings when it has looked for its next request: see `ThreadPool`.
        if not context.mailbox.post_quietly(channel.writer.finish, self):
            self._abandon()

    @worker_only
    def break_off(self) -> None:
        """End the request so that its client sees a broken answer."""
        if not self._closed:
            self.broken = True
            self.finish(app_status=1)

    @worker_only
    def report(self, message: str, error: BaseException | None = None) -> None:
        """Log a failure of the app."""
        self.channel.context.log.error("%s", message, error=error)

    @worker_only
    def write_error(self, text: str) -> None:
        """Take text of ``wsgi.errors``: to the log at once, to STDERR at the end."""
        context = self.channel.context
        context.log.app_error(text)
        room = context.config.max_stderr_bytes - self._stderr_size
        if room > 0:
            if dies_of_stderr(self.software):
                return
            if not self.has_stderr:
                self.has_stderr = True
                self._stderr = []
            self._stderr.append(text[:room])
            self._stderr_size += len(text)

    def _abandon(self) -> None:
        """Give back what it holds: the main context has ended, and nobody else will."""
        if self.body is not None:
            self.body.release(self.channel.context.disk)
        if self.output is not None:
            self.output.close()

    # What the main context does with it.

    @main_only
    def stderr(self) -> bytes:
        """The STDERR stream of a finished reply."""
        # Characters may be longer in bytes; cut where no character is split.
        limit = self.channel.context.config.max_stderr_bytes
        data = "".join(self._stderr).encode("utf-8", "backslashreplace")
        return data[:limit].decode("utf-8", "ignore").encode() if len(data) > limit else data

    @main_only
    def hold(self) -> None:
        """Have the last piece of a finished reply counted, which cannot be sent at once."""
        if self.output is None and self.final:
            self.output = Output(self)
            self.output.hold(self.final)
            self.final = b""

    @main_only
    def cancel(self) -> None:
        """Say that nobody waits for the answer any more, and release a waiting worker."""
        self.cancelled = True
        output = self.output
        if output is not None:
            output.cancel()
            if self.finished and not output.loading:
                # Nobody else will: the worker has left it to the reader, who is gone.
                output.close()
