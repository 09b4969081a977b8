"""Common base class of the servers with flup's interface."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from vsgi_fcgi.addresses import EVERY_IPV4, Address, InetAddress, UnixAddress
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.cgi import is_cgi, serve_cgi
from vsgi_fcgi.server.config import Config

# Imported early, before an app can monkey-patch the modules from which the server imports names.
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.wsgi.response import App, StartResponse

FCGI_RESPONDER = 1
FCGI_AUTHORIZER = 2
FCGI_FILTER = 3

BindAddress = str | os.PathLike[str] | tuple[str, int] | None
"""Path of a UNIX socket, or a host and a port, or None for descriptor 0."""

_OVERRIDDEN = {
    "error": "the server sends its own error page if the app fails",
    "handler": "wrap the app instead",
}
"""Methods that subclasses of flup's servers override, and why they are not called."""


class Script:
    """App with the settings of a script.

    Args:
        application: the WSGI app.
        environ: additional keys for the environ of each request.
        bind_address: address to listen on.
        umask: permission bits that the UNIX socket does not get; the process's umask if None.
        debug: True if the script asked for tracebacks in responses.
        roles: roles in which the app is served.
        force_cgi: answer one request as a CGI program.
        threads: number of threads that run the app; the server's default if None.
        multiprocess: value of ``wsgi.multiprocess`` in the environ.
        ignored: further arguments that have no effect, by name. Each has its value (None if it
            was not given) and a reason or advice for the warning.

    Raises:
        UsageError: a value is invalid.
    """

    def __init__(
        self,
        application: App,
        environ: Mapping[str, Any] | None,
        *,
        bind_address: BindAddress,
        umask: int | None,
        debug: bool,
        roles: Iterable[int],
        force_cgi: bool,
        threads: int | None,
        multiprocess: bool = False,
        ignored: Mapping[str, tuple[object, str]] | None = None,
    ) -> None:
        more = dict(environ or {})
        if threads == 1:
            more["wsgi.multithread"] = False
        if multiprocess:
            more["wsgi.multiprocess"] = True
        self._app = _with_more(application, more) if more else application
        self._address = _address(bind_address)
        settings: dict[str, Any] = {} if threads is None else {"threads": threads}
        if isinstance(self._address, UnixAddress):
            settings["socket_mode"] = 0o777 & ~(_umask() if umask is None else umask)
        self._config = Config(**settings)
        self._roles = _roles(roles)
        self._force_cgi = force_cgi
        self._reload = False
        warned = {
            "debug": (
                debug or None,
                "tracebacks are written to the log and never sent to a client",
            ),
            **(ignored or {}),
        }
        sentences = [
            f"{name}={value!r} is ignored: {why}"
            for name, (value, why) in warned.items()
            if value is not None
        ]
        sentences += [
            f"the method {name}() is not called: {why}"
            for name, why in _OVERRIDDEN.items()
            if hasattr(self, name)
        ]
        for sentence in sentences:
            # With this level, the warning names the script's line that creates the server.
            warnings.warn(sentence, stacklevel=3)

    def run(self) -> bool:
        """Serve until SIGTERM, SIGINT or SIGHUP, and finish the running requests.

        If the script was started as a CGI program, or forced to be one, answer one request and
        exit.

        Returns:
            True after SIGHUP; the script may then call this method again, or restart.

        Raises:
            ListenError: the server cannot listen on the address.
            SystemExit: a CGI request was answered.
        """
        forced = self._force_cgi or os.environ.get("FCGI_FORCE_CGI", "")[:1] in ("Y", "y")
        if forced or (self._address is None and is_cgi(os.environ)):
            sys.exit(serve_cgi(self._in_role(FCGI_RESPONDER), self._config))
        self._reload = False
        with self._descriptor_0(), self._hangup():
            server = Server(
                self._in_role(FCGI_RESPONDER),
                authorizer=self._in_role(FCGI_AUTHORIZER),
                filter=self._in_role(FCGI_FILTER),
                config=self._config,
            )
            server.listen(self._address)
            server.run()
        return self._reload

    def _in_role(self, role: int) -> App | None:
        """Return the app if the script serves it in a role, else None."""
        return self._app if role in self._roles else None

    @contextlib.contextmanager
    def _descriptor_0(self) -> Iterator[None]:
        """Restore the socket on descriptor 0 for another run.

        The server moves the socket to another descriptor, and closes it when it stops.
        """
        if self._address is not None:
            yield
            return
        try:
            kept = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        except OSError:
            # Descriptor 0 is closed. The server reports this with advice.
            yield
            return
        try:
            yield
            if self._reload:
                os.dup2(kept, 0)
        finally:
            os.close(kept)

    @contextlib.contextmanager
    def _hangup(self) -> Iterator[None]:
        """Stop on SIGHUP while the server runs, unless the signal is ignored, as under nohup."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if not in_main_thread or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            yield
            return
        before = signal.signal(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        self._reload = True
        os.kill(os.getpid(), signal.SIGTERM)


def _with_more(app: App, more: Mapping[str, Any]) -> App:
    """Return an app that calls another with additional keys in the environ."""

    def with_more(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ.update(more)
        return app(environ, start_response)

    return with_more


def _roles(roles: Iterable[int]) -> frozenset[int]:
    """Return the roles of a script.

    Raises:
        UsageError: a role is unknown, or there is none.
    """
    found = frozenset(roles)
    if not found or not found <= {FCGI_RESPONDER, FCGI_AUTHORIZER, FCGI_FILTER}:
        raise UsageError(
            f"roles is {roles!r}, but must be some of FCGI_RESPONDER (1), FCGI_AUTHORIZER (2) and"
            " FCGI_FILTER (3)"
        )
    return found


def _address(bind_address: BindAddress) -> Address | None:
    """Return the address to listen on, or None for descriptor 0.

    Raises:
        UsageError: the value is not an address.
    """
    match bind_address:
        case None:
            return None
        case str() | os.PathLike() if path := os.fspath(bind_address):
            return UnixAddress(path)
        case (str() as host, int() as port) if 0 <= port <= 65535:
            return InetAddress(host or EVERY_IPV4, port)
        case _:
            raise UsageError(
                f"bindAddress is {bind_address!r}, but must be the path of a UNIX socket,"
                ' (host, port) such as ("127.0.0.1", 9000), or None for descriptor 0'
            )


def _umask() -> int:
    """Return the umask of the process, which can be read only by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
