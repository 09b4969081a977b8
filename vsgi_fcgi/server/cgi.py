"""Plain CGI (RFC 3875): the process was started for one request, answers it and ends.

It is made of what serves requests under FastCGI: the same environ, the same checks of what an
app answers, the same error pages. `wsgiref.handlers.CGIHandler` would have its own of each (it
hands the app a stdin that does not end with the body, for one), and a script is to behave alike
wherever it is put. gevent is not needed here, and not loaded: starting up is most of what a CGI
request costs.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import IO, Any, ParamSpec, TypeVar
from urllib.parse import unquote

from vsgi_fcgi.exceptions import ClientDisconnected, UsageError
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.listeners import is_listening
from vsgi_fcgi.server.systemd import has_passed_sockets
from vsgi_fcgi.wsgi.environ import base_environ, content_length, make_environ, request_line
from vsgi_fcgi.wsgi.errors import ErrorStream
from vsgi_fcgi.wsgi.headers import error_response
from vsgi_fcgi.wsgi.runner import App, run_app

P = ParamSpec("P")
T = TypeVar("T")

_READ = 65536
"""Bytes that are read of a body at a time."""

_WRITE = select.PIPE_BUF
"""Bytes that a pipe takes without waiting, once it says that it takes any."""

NO_RESPONDER = (
    "a CGI program answers requests, and there is no app for that; authorizers and filters exist"
    " in FastCGI alone"
)

_log = logging.getLogger("vsgi_fcgi")


def is_cgi(environ: Mapping[str, str]) -> bool:
    """Whether a web server has started this process as a CGI program.

    Args:
        environ: the process's environment.

    Returns:
        True if it names a request, and there is no listening socket: neither that of FastCGI
        on fd 0 nor one of systemd.
    """
    if not environ.get("REQUEST_METHOD") or has_passed_sockets(environ):
        return False
    return not is_listening(0)


def without_query(argv: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The command line without the words of the query.

    Web servers append those of a query without ``=`` to the command line of a CGI program
    (section 4.4), where whoever sends the request could give us options.

    Args:
        argv: the arguments without the program's name.
        environ: the process's environment.
    """
    query = environ.get("QUERY_STRING", "")
    if not query or "=" in query:
        return list(argv)
    # Apache puts a backslash in front of what a shell would take as special, and ends a word
    # where a C string ends.
    words = [
        unquote(word, errors="surrogateescape").partition("\0")[0].replace("\\", "")
        for word in query.split("+")
    ]
    plain = [argument.replace("\\", "") for argument in argv]
    # There is a limit to how many it appends.
    own = next(k for k in range(len(plain) + 1) if plain[k:] == words[: len(plain) - k])
    return list(argv[:own])


def serve_cgi(app: App | None, config: Config) -> int:
    """Answer the request that this process was started for.

    Args:
        app: the WSGI app; the other roles of FastCGI do not exist here.
        config: the settings, of which the limits of a body and the timeouts matter here.

    Returns:
        The exit status: 0 if the request was answered, 1 if its answer was cut off.

    Raises:
        UsageError: there is no app, or no stdout to answer to.
    """
    if app is None:
        raise UsageError(NO_RESPONDER)
    return Gateway(config).serve(app)


class Gateway:
    """The web server at the other end of fd 0 and fd 1.

    Both are taken over at once: what an app prints, and what its child processes print, must
    not become part of the answer, and goes to stderr.

    Args:
        config: the settings.

    Raises:
        UsageError: there is no stdout to answer to.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        # The one that httpoxy is about (CVE-2016-5385): a header of the client that HTTP
        # clients, and child processes, would take for their proxy.
        os.environ.pop("HTTP_PROXY", None)
        try:
            self._output = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        except OSError as error:
            raise UsageError(
                "stdout is closed, and a CGI program answers to it; start me from a web server"
            ) from error
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        # A stdin that is closed has become /dev/null by that, and there is no body.
        self._input = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        os.dup2(null, 0)
        try:
            os.dup2(2, 1)
        except OSError:
            os.dup2(null, 1)
        if null > 2:
            os.close(null)

    def serve(self, app: App) -> int:
        """Answer the request.

        Args:
            app: the WSGI app.

        Returns:
            The exit status: 0 if the request was answered, 1 if its answer was cut off.
        """
        # Django's LOGGING disables what it does not name; a server must not go mute.
        _log.disabled = False
        # The bytes of the variables as latin-1, which is what PEP 3333 wants.
        params = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in os.environb.items()
        }
        reply = _Reply(self._output, self._config.send_timeout)
        try:
            body, size = self._receive(params)
        except _Refused as refusal:
            _log.info("%s was answered %d: %s", request_line(params), refusal.status, refusal)
            head_only = params.get("REQUEST_METHOD") == "HEAD"
            reply.finish(error_response(refusal.status, head_only=head_only))
            return reply.exit_status
        calls = _Calls()
        base = base_environ(multithread=False, multiprocess=True, vsgi_fcgi__main_context=calls)
        base["wsgi.run_once"] = True
        errors = ErrorStream(reply)
        with body:
            mount = self._config.mount_point
            run_app(app, make_environ(params, (), base, body, size, errors, mount), reply)
        errors.flush()
        return reply.exit_status

    def _receive(self, params: Mapping[str, str]) -> tuple[IO[bytes], int]:
        """Read the body before the app runs, as under FastCGI.

        A web server may send all of it before it reads any answer (Apache does), and would wait
        for ever for an app that answers first.

        Returns:
            The body and the bytes in it.

        Raises:
            _Refused: it is not for the app.
        """
        try:
            length = content_length(params) or 0
        except ValueError as error:
            raise _Refused(400, str(error)) from None
        limit = self._config.max_body_bytes
        if length > limit:
            raise _Refused(413, f"its body is larger than {limit} bytes")
        if not length:
            return BytesIO(), 0
        import tempfile

        # 0 would mean to it that no size is too large for the memory.
        in_memory = max(self._config.body_memory_bytes, 1)
        body: Any = tempfile.SpooledTemporaryFile(
            in_memory, dir=self._config.spool_dir, prefix="vsgi-fcgi-"
        )
        try:
            self._fill(body, length)
        except BaseException:
            body.close()
            raise
        return body, length

    def _fill(self, body: IO[bytes], length: int) -> None:
        """Read the body into a file, and not a byte more.

        Raises:
            _Refused: not all of it comes, or it cannot be kept.
        """
        left = length
        while left:
            if not _is_ready(self._input, select.POLLIN, self._config.receive_timeout):
                seconds = self._config.receive_timeout
                raise _Refused(408, f"nothing more of it came for {seconds:g} seconds")
            try:
                data = os.read(self._input, min(left, _READ))
            except OSError:
                data = b""
            if not data:
                raise _Refused(400, f"{length - left} bytes of a body of {length} came")
            left -= len(data)
            try:
                body.write(data)
            except OSError as error:
                _log.error("cannot write a request body to a temporary file: %s", error)
                raise _Refused(503, "a temporary file cannot be written") from error
        body.seek(0)


class _Refused(Exception):
    """A request that is answered with an error and not by the app."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Reply:
    """The answer on its way to the web server: a `ResponseSink` and an `ErrorSink`."""

    def __init__(self, fd: int, timeout: float) -> None:
        self.cancelled = False
        self.exit_status = 1
        self._fd = fd
        self._timeout = timeout
        self._open = True

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self.cancelled:
                raise ClientDisconnected("the web server gave the request up")
            if _is_ready(self._fd, select.POLLOUT, self._timeout):
                try:
                    view = view[os.write(self._fd, view[:_WRITE]) :]
                except OSError:
                    self.cancelled = True
            else:
                _log.warning("nothing could be sent for %g seconds", self._timeout)
                self.cancelled = True

    def finish(self, data: bytes = b"", app_status: int = 0) -> None:
        if not self._open:
            return
        try:
            self.write(data)
            self.exit_status = 1 if self.cancelled else 0
        except ClientDisconnected:
            pass
        self._close()

    def break_off(self) -> None:
        # CGI has no other sign of it: a client that was told a length notices.
        if self._open:
            self._close()

    def _close(self) -> None:
        """Let the web server know the end now: who knows how long the app's own end takes."""
        self._open = False
        os.close(self._fd)

    def report(self, message: str, error: BaseException | None = None) -> None:
        _log.error("%s", message, exc_info=error)

    def write_error(self, text: str) -> None:
        # No log record: stderr is the web server's error log already.
        if sys.stderr is not None:
            with contextlib.suppress(OSError):
                sys.stderr.write(text)
                sys.stderr.flush()


class _Calls:
    """``environ["vsgi_fcgi.main_context"]`` of a process that has one thread and one request."""

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function(*args, **kwargs)``."""
        return function(*args, **kwargs)


def _is_ready(fd: int, events: int, timeout: float) -> bool:
    """Wait until a descriptor can be read or written, for so many seconds at most."""
    monkey = sys.modules.get("gevent.monkey")
    # What an app may have put in its place looks at nothing but sockets and pipes.
    poll = (monkey.get_original("select", "poll") if monkey else select.poll)()
    poll.register(fd, events)
    return bool(poll.poll(timeout * 1000))
