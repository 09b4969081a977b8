"""What flup's servers have in common: a script that serves an app until a signal comes."""

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

from vsgi_fcgi.addresses import Address, InetAddress, UnixAddress
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.cgi import is_cgi, serve_cgi
from vsgi_fcgi.server.config import Config

# Before an app can monkey-patch the modules that the server takes names from.
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.wsgi.runner import App, StartResponse

FCGI_RESPONDER = 1
FCGI_AUTHORIZER = 2
FCGI_FILTER = 3

BindAddress = str | os.PathLike[str] | tuple[str, int] | None
"""The path of a UNIX socket, a host and a port, or nothing for descriptor 0."""

_OVERRIDDEN = {
    "error": "an app that fails is answered with a page of the server",
    "handler": "wrap the app instead",
}
"""What subclasses of flup's servers define, and what is to be known about it."""


class Script:
    """An app, and how a script wants it to be served.

    Args:
        application: the WSGI app.
        environ: what is to be in the environ of each request.
        bind_address: where to listen.
        umask: what the mode of the UNIX socket lacks of 0777; that of the process if None.
        debug: whether tracebacks were to be shown.
        roles: those in which the app is served.
        force_cgi: whether to answer one request as a CGI program.
        threads: how many run the app; the server's own default if None.
        multiprocess: what the app finds as ``wsgi.multiprocess``.
        not_honoured: further arguments by their names, each with its value, None if it was not
            given, and with what is to be known about it.

    Raises:
        UsageError: a value cannot be used.
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
        not_honoured: Mapping[str, tuple[object, str]] | None = None,
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
            "debug": (debug or None, "tracebacks are in the log, and never shown to a client"),
            **(not_honoured or {}),
        }
        sentences = [
            f"{name}={value!r} is not honoured: {why}"
            for name, (value, why) in warned.items()
            if value is not None
        ]
        sentences += [
            f"the method {name}() is not called: {why}"
            for name, why in _OVERRIDDEN.items()
            if hasattr(self, name)
        ]
        for sentence in sentences:
            # Said of the line of the script that calls our subclass.
            warnings.warn(sentence, stacklevel=3)

    def run(self) -> bool:
        """Serve until SIGTERM, SIGINT or SIGHUP has let the requests that run end.

        Started as a CGI program, or told to be one, it answers that one request and leaves.

        Returns:
            Whether it was SIGHUP, after which a script may start anew or call this again.

        Raises:
            ListenError: it cannot be listened on.
            SystemExit: after a request of CGI.
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
        """The app, if the script wants it to be served in a role."""
        return self._app if role in self._roles else None

    @contextlib.contextmanager
    def _descriptor_0(self) -> Iterator[None]:
        """Put the socket back on descriptor 0 when there is to be another run.

        The server moves it away from there, and closes it at its end.
        """
        if self._address is not None:
            yield
            return
        try:
            kept = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        except OSError:
            # The server is going to say it, and what to do.
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
        """Take SIGHUP for a stop, as long as the server runs; unless nohup has it ignored."""
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
    """The same app with more in its environ."""

    def with_more(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ.update(more)
        return app(environ, start_response)

    return with_more


def _roles(roles: Iterable[int]) -> frozenset[int]:
    """The roles that a script names.

    Raises:
        UsageError: one of them is none, or there are none.
    """
    found = frozenset(roles)
    if not found or not found <= {FCGI_RESPONDER, FCGI_AUTHORIZER, FCGI_FILTER}:
        raise UsageError(
            f"roles is {roles!r}, but must be some of FCGI_RESPONDER (1), FCGI_AUTHORIZER (2) and"
            " FCGI_FILTER (3)"
        )
    return found


def _address(bind_address: BindAddress) -> Address | None:
    """Where to listen; None for descriptor 0.

    Raises:
        UsageError: it is no address.
    """
    match bind_address:
        case None:
            return None
        case str() | os.PathLike() if path := os.fspath(bind_address):
            return UnixAddress(path)
        case (str() as host, int() as port) if 0 <= port <= 65535:
            return InetAddress(host or "0.0.0.0", port)
        case _:
            raise UsageError(
                f"bindAddress is {bind_address!r}, but must be the path of a UNIX socket,"
                ' (host, port) such as ("127.0.0.1", 9000), or None for descriptor 0'
            )


def _umask() -> int:
    """The umask of the process, which can only be asked for by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
