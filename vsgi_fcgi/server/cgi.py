"""Plain CGI (RFC 3875): the process is started for one request, answers it and ends.

It uses the same code as FastCGI for the environ, the checks of responses and the error pages, so
that a script behaves alike in both. `wsgiref.handlers.CGIHandler` does each of these differently;
for example, its stdin does not end with the body. gevent is not needed and not loaded, because the
start-up is most of the cost of a CGI request.
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

from vsgi_fcgi.descriptors import open_null, open_standard
from vsgi_fcgi.exceptions import ClientDisconnected, UsageError
from vsgi_fcgi.listen.listeners import has_passed_sockets, is_listening
from vsgi_fcgi.log.handlers import escape_controls
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.wsgi.environ import (
    ErrorStream,
    base_environ,
    content_length,
    make_environ,
    request_line,
)
from vsgi_fcgi.wsgi.response import App, error_response, run_app

P = ParamSpec("P")
T = TypeVar("T")

_READ = 65536
"""Bytes of a body that are read at a time."""

_WRITE = select.PIPE_BUF
"""Bytes that a pipe accepts without waiting when it is ready for writing."""

_poll: Any = getattr(select, "poll", None)
"""Saved before the app is loaded, because eventlet removes it."""

NO_RESPONDER = (
    "a CGI program needs an app that answers requests; authorizers and filters exist only in"
    " FastCGI"
)

_log = logging.getLogger("vsgi_fcgi")


def is_cgi(environ: Mapping[str, str]) -> bool:
    """Return whether a web server has started this process as a CGI program.

    Args:
        environ: the process's environment.

    Returns:
        True if the environment describes a request and there is no listening socket: neither on
        file descriptor 0 nor from systemd.
    """
    if not environ.get("REQUEST_METHOD") or has_passed_sockets(environ):
        return False
    return not is_listening(0)


def without_query(argv: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return the command line without the words of the query.

    Web servers append the words of a query without ``=`` to the command line of a CGI program
    (section 4.4). Without this function, any client could pass options to this program.

    Args:
        argv: the arguments without the program's name.
        environ: the process's environment.
    """
    query = environ.get("QUERY_STRING", "")
    if not query or "=" in query:
        return list(argv)
    # Apache puts a backslash before each character that is special to a shell, and ends a word at
    # a null character.
    words = [
        unquote(word, errors="surrogateescape").partition("\0")[0].replace("\\", "")
        for word in query.split("+")
    ]
    plain = [argument.replace("\\", "") for argument in argv]
    # Apache limits the number of words.
    own = next(k for k in range(len(plain) + 1) if plain[k:] == words[: len(plain) - k])
    return list(argv[:own])


def serve_cgi(app: App | None, config: Config) -> int:
    """Answer the request that this process was started for.

    Args:
        app: the WSGI app. The other roles of FastCGI do not exist in CGI.
        config: the settings. Only the limits of a body and the timeouts are used.

    Returns:
        The exit status: 0 if the request was answered, 1 if its response was cut off.

    Raises:
        UsageError: there is no app, or stdout is closed.
    """
    if app is None:
        raise UsageError(NO_RESPONDER)
    return CGIHandler(config).serve(app)


class CGIHandler:
    """Reads the request from file descriptor 0 and writes the response to file descriptor 1.

    Both are replaced immediately. Text that the app or its child processes print goes to stderr,
    so that it does not become part of the response.

    Args:
        config: the settings.

    Raises:
        UsageError: stdout is closed.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        # httpoxy (CVE-2016-5385): this variable is a header of the client, but HTTP clients and
        # child processes would use it as their proxy.
        os.environ.pop("HTTP_PROXY", None)
        try:
            self._output = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        except OSError as error:
            raise UsageError(
                "stdout is closed, but a CGI program writes its response there; start it from a web"
                " server"
            ) from error
        # If stdin is closed, there is no body.
        open_standard((0, 2))
        self._input = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        null = open_null()
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)

    def serve(self, app: App) -> int:
        """Answer the request.

        Args:
            app: the WSGI app.

        Returns:
            The exit status: 0 if the request was answered, 1 if its answer was cut off.
        """
        # Django's LOGGING disables loggers that it does not name. This one must still work.
        _log.disabled = False
        # PEP 3333 requires the bytes of the variables as latin-1.
        params = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in os.environb.items()
        }
        response = _CGIResponse(self._output, self._config.send_timeout)
        try:
            body, size = self._receive(params)
        except _Refused as refusal:
            _log.info("%s was answered %d: %s", request_line(params), refusal.status, refusal)
            head_only = params.get("REQUEST_METHOD") == "HEAD"
            response.finish(error_response(refusal.status, head_only=head_only))
            return response.exit_status
        calls = _Calls()
        base = base_environ(multithread=False, multiprocess=True, vsgi_fcgi__main_context=calls)
        base["wsgi.run_once"] = True
        base["vsgi_fcgi.request"] = _Request(response)
        errors = ErrorStream(response)
        with body:
            mount = self._config.mount_point
            run_app(app, make_environ(params, (), base, body, size, errors, mount), response)
        errors.flush()
        return response.exit_status

    def _receive(self, params: dict[str, str]) -> tuple[IO[bytes], int]:
        """Read the body before the app runs, as under FastCGI.

        Some web servers (Apache) send the whole body before they read the response. With an app
        that answers first, both sides would wait forever.

        Returns:
            The body and its size in bytes.

        Raises:
            _Refused: the request is answered with an error.
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

        # At least 1, because SpooledTemporaryFile takes 0 as no limit.
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
        """Read exactly the body into a file.

        Raises:
            _Refused: a part of the body is missing, or the file cannot be written.
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
    """The request is answered with an error instead of by the app."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _CGIResponse:
    """Writes the response to the web server. It is a `ResponseSink` and an `ErrorSink`."""

    def __init__(self, fd: int, timeout: float) -> None:
        self.cancelled = False
        self.exit_status = 1
        self._fd = fd
        self._timeout = timeout
        self.closed = False

    def write(self, data: bytes, last: bool = False) -> None:
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

    def finish(self, data: bytes = b"", app_status: int = 0, more: bytes = b"") -> None:
        if self.closed:
            return
        try:
            self.write(data)
            if more:
                self.write(more)
            self.exit_status = 1 if self.cancelled else 0
        except ClientDisconnected:
            pass
        self._close()

    def client_disconnected(self) -> bool:
        """Return whether the web server has closed the pipe, as it does when the client leaves."""
        if not self.closed and not self.cancelled:
            # Without an event to wait for, this reports only errors: the pipe has no reader.
            self.cancelled = _is_ready(self._fd, 0, 0)
        return self.cancelled

    def break_off(self) -> None:
        # CGI cannot report a broken response. A client notices it by the Content-Length.
        if not self.closed:
            self._close()

    def _close(self) -> None:
        """Close the pipe now, because the app may take long to end."""
        self.closed = True
        os.close(self._fd)

    def report(self, message: str, error: BaseException | None = None) -> None:
        _log.error("%s", message, exc_info=error)

    def write_error(self, text: str) -> None:
        # Without a log record, because stderr is the web server's error log.
        if sys.stderr is not None:
            with contextlib.suppress(OSError):
                sys.stderr.write(escape_controls(text))
                sys.stderr.flush()


class _Calls:
    """The ``environ["vsgi_fcgi.main_context"]`` of a process with one thread and one request."""

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function(*args, **kwargs)``."""
        return function(*args, **kwargs)


class _Request:
    """The ``environ["vsgi_fcgi.request"]`` of such a process."""

    def __init__(self, response: _CGIResponse) -> None:
        self.client_disconnected = response.client_disconnected

    def on_disconnect(self, callback: Callable[[], object]) -> contextlib.nullcontext[None]:
        """Do nothing: no main context watches the pipe while the app runs."""
        return contextlib.nullcontext()


def _is_ready(fd: int, events: int, timeout: float) -> bool:
    """Wait for at most ``timeout`` seconds until a descriptor can be read or written."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and not monkey.is_module_patched("select"):
        monkey = None
    # The original, because a replacement by the app may support only sockets and pipes.
    poller = (monkey.get_original("select", "poll") if monkey else _poll)()
    poller.register(fd, events)
    return bool(poller.poll(timeout * 1000))
