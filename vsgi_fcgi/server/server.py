"""The server: listeners in front, the main context behind, and its life from start to stop."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.event import Event

from vsgi_fcgi.addresses import Address, parse_bind
from vsgi_fcgi.descriptors import raise_limit
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.native import start_thread
from vsgi_fcgi.server.acceptor import Acceptor
from vsgi_fcgi.server.assembler import Assembler
from vsgi_fcgi.server.cgi import is_cgi, serve_cgi
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.context import MainContext
from vsgi_fcgi.server.figures import Figures
from vsgi_fcgi.server.gates import ThreadGate
from vsgi_fcgi.server.line_file import open_sink
from vsgi_fcgi.server.line_writer import LineWriter
from vsgi_fcgi.server.listeners import Listener, default_address, open_listener
from vsgi_fcgi.server.log import Log
from vsgi_fcgi.server.notifier import Notifier
from vsgi_fcgi.server.patching import check_patching
from vsgi_fcgi.server.peers import allowed_peers
from vsgi_fcgi.server.roles import Apps
from vsgi_fcgi.server.signals import Signals
from vsgi_fcgi.server.socket_ownership import SocketOwnership
from vsgi_fcgi.server.systemd import forget_sockets
from vsgi_fcgi.settings import make_settings
from vsgi_fcgi.wsgi.runner import App

_LOG_FLUSH = 2.0
"""Seconds that the log gets to write what waits when the process ends."""

_LAST_SWITCH_INTERVAL = 0.0001
"""Seconds that a computing thread keeps the others waiting once the process is to end at once."""


class Server:
    """Serves a WSGI app over FastCGI.

    ::

        server = Server(app, threads=8)
        server.listen("unix:/run/app.sock")
        sys.exit(server.run())

    Args:
        app: the WSGI app; None if only the others are served.
        authorizer: the app that is asked whether the web server may let a request through.
        filter: the app that gets a file of the web server beside the request.
        config: all settings at once.
        **settings: single settings, by the names of `Config`'s fields.

    Attributes:
        at_exit: functions to call when a second signal comes, or the grace is over, and the
            process ends at once: by ``os._exit``, without any ``finally`` and without `atexit`.
        at_start: functions to call in the main context once it accepts connections.
        before_stop: functions to call in a greenlet of the main context, with the seconds that
            running requests get, before a graceful stop goes on; they may wait.

    Raises:
        UsageError: a setting that does not exist, or is out of its bounds, or no app.
    """

    _assembler: Callable[[MainContext], Assembler] | None = None

    def __init__(
        self,
        app: App | None,
        *,
        authorizer: App | None = None,
        filter: App | None = None,
        config: Config | None = None,
        **settings: Any,
    ) -> None:
        self.config = make_settings(Config, config, settings, "Server")
        self.at_exit: list[Callable[[], object]] = []
        self.at_start: list[Callable[[], object]] = []
        self.before_stop: list[Callable[[float], object]] = []
        self._begun_to_stop = False
        self._apps = Apps(app, authorizer, filter)
        self._listeners: list[Listener] = []
        self._acceptors: list[Acceptor] = []
        self._log = self.log = Log(self.config.max_log_records, self.config.max_log_bytes)
        self._context: MainContext | None = None
        self._done: Event | None = None
        self._ended: ThreadGate | None = None
        self._notifier: Notifier | None = None
        self._lost = 0

    # Listening.

    def listen(self, address: Address | str | None = None) -> None:
        """Listen on an address; may be called several times.

        Args:
            address: as ``--bind`` takes it, such as ``unix:/run/app.sock`` or
                ``127.0.0.1:9000``; if None, the sockets that systemd passes, else file
                descriptor 0.

        Raises:
            ListenError: it cannot be listened on.
            UsageError: it is no address, or the owner of UNIX sockets is nobody here.
        """
        if address is None:
            address = default_address(os.environ)
        elif isinstance(address, str):
            address = parse_bind(address)
        ownership = SocketOwnership.of(self.config)
        self.add_listeners(open_listener(address, self.config.backlog, ownership))

    def add_listeners(self, listeners: Iterable[Listener]) -> None:
        """Take over listeners that are open already."""
        self._listeners.extend(listeners)

    @property
    def uris(self) -> list[str]:
        """What it listens on, in VSGI's form, such as ``fcgi://127.0.0.1:9000/``."""
        return [listener.uri for listener in self._listeners]

    @property
    def figures(self) -> Figures:
        """Its connections and requests in numbers, from its last start on; all 0 before it."""
        return Figures() if self._context is None else self._context.calls.figures

    def close(self) -> None:
        """Close the listeners of a server that does not run."""
        while self._listeners:
            self._listeners.pop().close()

    # Running.

    def run(self, *, process_ends: bool = False) -> int:
        """Serve until SIGTERM or SIGINT, in the calling thread, which becomes the main context.

        SIGUSR1 stops it too, if nobody else in the process handles or ignores it.

        If nothing was listened on and a web server has started this process as a CGI program,
        it answers that one request instead.

        Args:
            process_ends: the process ends when this returns; until then a late signal of the
                same stop is not to kill it. Else the handlers of before are back.

        Returns:
            The exit status, 0 if every request was answered, 1 if some were cut off.

        Raises:
            ListenError: nothing was listened on, and file descriptor 0 is no listening socket.
        """
        if not self._listeners:
            if is_cgi(os.environ):
                return serve_cgi(self._apps.responder, self.config)
            self.listen()
        # Here the process is ours; a server that is embedded with `start` is a guest in it.
        sys.setswitchinterval(self.config.switch_interval)
        in_main_thread = threading.current_thread() is threading.main_thread()
        forget_sockets(os.environ)
        return self._serve(
            with_signals=in_main_thread, with_notifier=True, process_ends=process_ends
        )

    def start(self) -> None:
        """Serve in a thread of its own, without signals, until `stop`.

        Raises:
            ListenError: as `run`.
            UsageError: it runs already.
        """
        if self._ended is not None:
            raise UsageError("the server runs already")
        if not self._listeners:
            self.listen()
        ready, self._ended = ThreadGate(), ThreadGate()
        failure: list[BaseException] = []

        def serve() -> None:
            assert self._ended is not None
            try:
                self._serve(on_ready=ready.open)
            except BaseException as error:
                failure.append(error)
                ready.open()
            finally:
                gevent.get_hub().destroy(destroy_loop=True)
                self._ended.open()

        start_thread(serve, "vsgi-fcgi-main")
        ready.wait(None)
        if failure:
            self._ended = None
            raise failure[0]

    def stop(self, timeout: float | None = None) -> bool:
        """Stop a server that was started with `start`: gracefully, then not.

        Args:
            timeout: seconds that running requests get; the graceful timeout if None.

        Returns:
            Whether every request was answered.
        """
        if self._ended is None or self._context is None:
            return True
        grace = self.config.graceful_timeout if timeout is None else timeout
        self._context.mailbox.post(self._begin_stop, grace)
        self._ended.wait(None)
        self._ended = None
        return not self._lost

    def _serve(
        self,
        *,
        on_ready: Callable[[], object] | None = None,
        with_signals: bool = False,
        with_notifier: bool = False,
        process_ends: bool = False,
    ) -> int:
        config, log = self.config, self._log
        check_patching(config.worker)
        allowed = allowed_peers(os.environ)
        raise_limit(config.max_connections + 2 * config.max_queued)
        access_lines = _open_access_log(config, log)
        log.start()
        self._lost = 0
        self._begun_to_stop = False
        self._done = Event()
        context = self._context = MainContext(
            self._apps, config, log, access_lines, type(self)._assembler
        )
        signals = None
        try:
            self._acceptors = [Acceptor(context, listener, allowed) for listener in self._listeners]
            context.on_room = self._has_room
            if with_signals:
                signals = Signals(
                    context.loop, config.graceful_timeout, self._on_signal, self._exit_now
                )
                signals.install()
            for listener in self._listeners:
                self._announce(listener, allowed)
            for acceptor in self._acceptors:
                acceptor.start()
            if with_notifier:
                self._notifier = Notifier.wanted(context, self.uris)
                if self._notifier is not None:
                    self._notifier.ready()
            for begin in self.at_start:
                begin()
            if on_ready is not None:
                on_ready()
            self._done.wait()
        finally:
            for acceptor in self._acceptors:
                acceptor.stop()
            self._acceptors = []
            if self._notifier is not None:
                self._notifier.close()
                self._notifier = None
            context.close()
            self.close()
            if signals is not None:
                signals.restore(process_ends)
            if access_lines is not None:
                access_lines.stop(_LOG_FLUSH)
            log.info("stopped")
            log.stop(_LOG_FLUSH)
        return 1 if self._lost else 0

    def _announce(self, listener: Listener, allowed: frozenset[str] | None) -> None:
        self._log.info("listening on %s", listener.uri)
        if listener.open_to_others and allowed is None:
            self._log.warning(
                "%s is open to other machines and FCGI_WEB_SERVER_ADDRS is not set: whoever "
                "reaches it can send any request in anyone's name (forge REMOTE_USER and "
                "REMOTE_ADDR); set FCGI_WEB_SERVER_ADDRS to the web server's address, or listen "
                "on the loopback interface or a UNIX socket",
                listener.uri,
            )

    def _has_room(self) -> None:
        for acceptor in self._acceptors:
            acceptor.has_room()

    # Stopping.

    def _on_signal(self, name: str) -> None:
        self._log.info("%s: stopping", name)
        self._begin_stop(None)

    def _begin_stop(self, grace: float | None) -> None:
        """Stop, but first let those do so that stand before us. In the main context."""
        if self._begun_to_stop:
            return
        self._begun_to_stop = True
        if self._notifier is not None:
            self._notifier.stopping()
        if self.before_stop:
            gevent.spawn(self._stop_in_turn, grace)
        else:
            self._stop_accepting(grace)

    def _stop_in_turn(self, grace: float | None) -> None:
        for end in self.before_stop:
            end(self.config.graceful_timeout if grace is None else grace)
        self._stop_accepting(grace)

    def _stop_accepting(self, grace: float | None) -> None:
        """Accept what is queued, close the listeners, let requests end. In the main context."""
        context, done = self._context, self._done
        assert context is not None
        assert done is not None
        acceptors, self._acceptors = self._acceptors, []
        for acceptor in acceptors:
            listener = acceptor.listener
            if not listener.inherited:
                # No one finds it any more; whoever had connected is served. A listener that was
                # inherited belongs to others too, and what waits there is left to them.
                listener.unlink()
                acceptor.accept(self.config.backlog + 1)
            acceptor.stop()
            listener.close()
        self._listeners.clear()
        context.on_empty = done.set
        context.begin_stopping()
        if not context.channels:
            done.set()
        elif grace is not None:
            timer = context.loop.timer(grace)
            timer.start(self._give_up)

    def _give_up(self) -> None:
        assert self._context is not None
        assert self._done is not None
        self._lost = len(self._context.channels)
        self._log.warning("%d connections still had requests and are cut off", self._lost)
        self._done.set()

    def _exit_now(self, why: str) -> None:
        """End the process. In a native thread, while the main context may be busy for ever."""
        # An app that computes would hold up each step of what is left to do.
        sys.setswitchinterval(_LAST_SWITCH_INTERVAL)
        context = self._context
        count = len(context.channels) if context is not None else 0
        self._log.warning("%s: leaving with %d connections open", why, count)
        try:
            for listener in self._listeners:
                listener.unlink()
            for tidy_up in self.at_exit:
                tidy_up()
            if context is not None and context.access_log is not None:
                context.access_log.cut_off(context.channels, _LOG_FLUSH)
            self._log.flush(_LOG_FLUSH)
        finally:
            os._exit(1)


def _open_access_log(config: Config, log: Log) -> LineWriter | None:
    """Open the access log, if there is to be one; its thread starts with the first line.

    Raises:
        UsageError: it cannot be opened.
    """
    if config.access_log is None:
        return None
    return LineWriter(open_sink(config.access_log), config.max_log_records, log)
