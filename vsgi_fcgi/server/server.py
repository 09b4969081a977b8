"""The server from start to stop: its listeners, its main context, and what they need."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, Self, Unpack

import gevent
from gevent import monkey
from gevent.event import Event

from vsgi_fcgi.addresses import Address, parse_bind
from vsgi_fcgi.build import BUILD
from vsgi_fcgi.children import give_up_in_children
from vsgi_fcgi.descriptors import open_standard, raise_limit
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.listen.listeners import Listener, default_address, forget_sockets, open_listener
from vsgi_fcgi.listen.ownership import SocketOwnership
from vsgi_fcgi.listen.tcp import allowed_peers
from vsgi_fcgi.log.background_writer import LineWriter, open_sink
from vsgi_fcgi.log.log import Log
from vsgi_fcgi.protocol import ServerProtocol
from vsgi_fcgi.server.cgi import is_cgi, serve_cgi
from vsgi_fcgi.server.config import Config, Settings
from vsgi_fcgi.server.connection import RequestReader
from vsgi_fcgi.server.mailbox import ThreadLatch
from vsgi_fcgi.server.main_context import MainContext
from vsgi_fcgi.server.main_context_calls import Stats
from vsgi_fcgi.server.roles import Apps
from vsgi_fcgi.server.signals import Signals
from vsgi_fcgi.server.workers.threads import WorkerThread
from vsgi_fcgi.service_manager import ServiceManager
from vsgi_fcgi.settings import make_settings
from vsgi_fcgi.transport.acceptor import Acceptor
from vsgi_fcgi.transport.handover import Handover, State
from vsgi_fcgi.transport.monkey_patching import check_patching
from vsgi_fcgi.transport.unpatched import Socket, start_thread
from vsgi_fcgi.wsgi.response import App

if TYPE_CHECKING:
    from vsgi_fcgi.listen.sharing import Sharing
    from vsgi_fcgi.server.notify import Notifier
    from vsgi_fcgi.server.publishing import Publisher

_LOG_FLUSH = 2.0
"""Seconds to write the queued log records when the process ends."""

_LAST_STEPS = 0.5
"""Seconds of the graceful timeout that are reserved for the steps after waiting for threads."""

_CLEAN_UP = 1.5
"""Seconds before the end of the graceful timeout at which the command cancels running requests, so
that their apps can clean up; not if the timeout is less than twice as long."""

_LAST_SWITCH_INTERVAL = 0.0001
"""Thread switch interval in seconds while the process ends immediately."""


class Supervisor(Protocol):
    """The supervisor, as a process that it has started sees it.

    Attributes:
        sharing: how many connections each of its processes has.
        scoreboard: the descriptor of the scoreboard of its processes; None if there is none.
    """

    sharing: Sharing
    scoreboard: int | None

    def leave(self, reason: str) -> bool:
        """Ask to be replaced.

        Returns:
            False if there is no supervisor any more.
        """

    def idle(self, is_idle: bool) -> bool:
        """Report whether this process has nothing to do.

        Returns:
            False if there is no supervisor any more.
        """

    def pass_on(self, fd: int, state: State) -> bool:
        """Hand a connection over to another process.

        Returns:
            False if it must be tried again later.

        Raises:
            OSError: there is no supervisor any more.
        """


class Server:
    """Serves a WSGI app over FastCGI.

    ::

        server = Server(app, threads=8)
        server.listen("unix:/run/app.sock")
        sys.exit(server.run())

    Args:
        app: the WSGI app; None if only other roles are served.
        authorizer: the app that decides whether the web server may serve a request.
        filter: the app that gets a file from the web server together with the request.
        config: all settings.
        **settings: single settings, named like the fields of `Config`.

    Attributes:
        at_exit: functions to call before the process ends immediately, because a second signal came
            or the graceful timeout is over. It ends by ``os._exit``, without ``finally`` blocks and
            without `atexit`.
        serves_status: something reads what the server does, in addition to `status_path`.
        at_start: functions to call in the main context when it accepts connections.
        before_stop: functions to call at the beginning of a graceful stop, in a greenlet of the
            main context. They get the seconds that running requests have, and may wait. They
            return False if they have cut off requests.
        supervisor: the supervisor that has started this process; None usually.

    Raises:
        UsageError: a setting does not exist or is out of its bounds, or there is no app.
    """

    _request_reader: type[RequestReader] | None = None
    _protocol: type[ServerProtocol] = ServerProtocol

    def __init__(
        self,
        app: App | None,
        *,
        authorizer: App | None = None,
        filter: App | None = None,
        config: Config | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self.config = make_settings(Config, config, settings, "Server").resolved()
        self.at_exit: list[Callable[[], object]] = []
        self.serves_status = False
        self.at_start: list[Callable[[], object]] = []
        self.before_stop: list[Callable[[float], object]] = []
        self.supervisor: Supervisor | None = None
        self._begun_to_stop = self._retiring = self._process_ends = False
        self._stop_until = 0.0
        self._apps = Apps(app, authorizer, filter)
        self._listeners: list[Listener] = []
        self._acceptors: list[Acceptor] = []
        self._log = self.log = Log(self.config.max_log_records, self.config.max_log_bytes)
        self._context: MainContext | None = None
        self._handover: Handover | None = None
        self._done: Event | None = None
        self._ended: ThreadLatch | None = None
        self._notifier: Notifier | None = None
        self._lost = 0
        self._signals: Signals | None = None
        self._ended_running = False

    # Listening.

    def listen(self, address: Address | str | None = None) -> None:
        """Listen on an address. May be called several times.

        Args:
            address: an address in the form of ``--bind``, such as ``unix:/run/app.sock`` or
                ``127.0.0.1:9000``. If None, the sockets that systemd passes, or else file
                descriptor 0.

        Raises:
            ListenError: the address cannot be used.
            UsageError: the address is invalid, or the owner of UNIX sockets is unknown here.
        """
        if address is None:
            address = default_address(os.environ)
        elif isinstance(address, str):
            address = parse_bind(address)
        # Opened first, so that the socket does not become a standard descriptor.
        open_standard()
        ownership = SocketOwnership.of(self.config)
        self.add_listeners(open_listener(address, self.config.backlog, ownership))

    def add_listeners(self, listeners: Iterable[Listener]) -> None:
        """Take over open listeners."""
        self._listeners.extend(listeners)

    @property
    def uris(self) -> list[str]:
        """The addresses of the listeners, in VSGI's form, such as ``fcgi://127.0.0.1:9000/``."""
        return [listener.uri for listener in self._listeners]

    @property
    def publisher(self) -> Publisher | None:
        """Writes the scoreboard of a running server; None if there is no scoreboard."""
        return None if self._context is None else self._context.publisher

    @property
    def stats(self) -> Stats:
        """Numbers of connections and requests since the last start; 0 before the first start."""
        return Stats() if self._context is None else self._context.calls.stats

    def close(self) -> None:
        """Close the listeners of a server that does not run."""
        while self._listeners:
            self._listeners.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop gracefully, if the server runs, and close the listeners."""
        self.stop()
        self.close()

    # Running.

    def run(self, *, process_ends: bool = False) -> int:
        """Serve until SIGTERM or SIGINT, in the calling thread, which becomes the main context.

        SIGHUP stops it too. SIGUSR1 opens the log files again, but stops a child of multiwatch.
        Both apply only if nothing else in the process handles or ignores the signal.

        If there is no listener and a web server has started this process as a CGI program, the
        server answers that one request instead.

        Args:
            process_ends: the process ends after this call. A late signal of the same stop does not
                kill it. If false, the previous signal handlers are restored.

        Returns:
            The exit status, which is 0 if every request was answered and 1 if some were cut off.

        Raises:
            ListenError: there is no listener, and file descriptor 0 is not a listening socket.
            UsageError: threading, socket or select is monkey-patched, and the server would hang.
        """
        if not self._listeners:
            if is_cgi(os.environ):
                return serve_cgi(self._apps.responder, self.config)
            self.listen()
        # Only here, because `start` runs in a process that belongs to other code.
        sys.setswitchinterval(self.config.switch_interval)
        in_main_thread = threading.current_thread() is threading.main_thread()
        forget_sockets(os.environ)
        return self._serve(
            with_signals=in_main_thread,
            # A supervisor sends the notifications of its processes.
            with_notifier=self.supervisor is None,
            process_ends=process_ends,
        )

    def start(self) -> None:
        """Serve in a separate thread, without signals, until `stop`.

        Raises:
            ListenError: like `run`.
            UsageError: the server runs already, or threading, socket or select is monkey-patched.
        """
        if self._ended is not None:
            raise UsageError("the server runs already")
        # Here too, because the thread would never begin in a process that eventlet has patched.
        check_patching(self.config.worker)
        if not self._listeners:
            self.listen()
        ready, self._ended = ThreadLatch(), ThreadLatch()
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
        """Stop a server that was started with `start`; cut off requests after the timeout.

        Args:
            timeout: seconds for running requests; None for the graceful timeout.

        Returns:
            Whether every request was answered.
        """
        ended = self._ended
        if ended is None or self._context is None:
            return True
        grace = self.config.graceful_timeout if timeout is None else timeout
        self._context.services.mailbox.post(self._begin_stop, grace)
        ended.wait(None)
        if self._ended is ended:
            self._ended = None
        ended.open()  # for other threads that stop it as well
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
        config.check_worker()
        config.check_spool_dir()
        if config.record is not None:
            from vsgi_fcgi.transport.recorder import check_record

            check_record(config.record)
        allowed = allowed_peers(os.environ)
        running = config.max_running if config.worker == "greenlet" else 0
        raise_limit(config.max_connections + 2 * (config.max_queued + running))
        access_lines = _open_access_log(config, log)
        log.start()
        self._lost = 0
        self._begun_to_stop = False
        self._done = Event()
        self._ended_running = False
        self._process_ends = process_ends and with_signals
        scoreboard = None
        if self.serves_status or config.status_path is not None:
            from vsgi_fcgi.status.scoreboard import Scoreboard

            fd = None if self.supervisor is None else self.supervisor.scoreboard
            scoreboard = Scoreboard.join(fd, config.max_running)
        context = self._context = MainContext(
            self._apps,
            config,
            log,
            access_lines,
            self._request_reader,
            self._protocol,
            multiprocess=any(listener.shared for listener in self._listeners),
            scoreboard=scoreboard,
        )
        signals = None
        try:
            self._acceptors = [
                Acceptor(
                    context.connections,
                    listener,
                    context.adopt,
                    allowed=allowed,
                    backoff=config.accept_backoff,
                )
                for listener in self._listeners
            ]
            context.connections.on_room = self._continue_accepting
            if self.supervisor is not None:
                context.connections.sharing = self.supervisor.sharing
                self.supervisor.sharing.set(0)
            if context.recycling is not None:
                context.recycling.on_due = self._leave
                context.recycling.on_idle = self._on_idle
            if context.run_limits is not None and self.supervisor is not None:
                context.run_limits.on_stuck = self.supervisor.leave
            if with_signals:
                signals = Signals(
                    context.services.loop,
                    config.graceful_timeout,
                    self._on_signal,
                    self._exit_now,
                    functools.partial(self._reopen_logs, access_lines),
                    context.connections.record_now,
                )
                signals.install()
                self._signals = signals
            give_up_in_children(self)
            # Imported here, because the package imports this module when it is asked for `Server`.
            from vsgi_fcgi import __version__

            log.info("vsgi_fcgi %s, %s", __version__, BUILD)
            for acceptor in self._acceptors:
                acceptor.start()
            if with_notifier:
                self._notifier = self._make_notifier(context)
            for begin in self.at_start:
                begin()
            # After the message to a supervisor: whatever waits for these lines may signal it now.
            for listener in self._listeners:
                self._announce(listener, allowed)
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
            self._ended_running = True
            context.close()
            self.close()
            if signals is not None:
                # The workers of requests that were cut off have to close their iterables.
                workers = self._lost > 0
                left = self._left(signals) - _LAST_STEPS
                if process_ends and not _threads_end(left, log, workers=workers):
                    self._lost += 1
                signals.restore(process_ends)
            if access_lines is not None:
                access_lines.stop(_LOG_FLUSH)
            context.connections.report_late()
            if self._handover is not None and self._handover.moved:
                log.info("connections that moved to other processes: %d", self._handover.moved)
            log.info("stopped")
            log.stop(_LOG_FLUSH)
            self._lost += context.connections.late
        return 1 if self._lost else 0

    def _make_notifier(self, context: MainContext) -> Notifier | None:
        """Report to the service manager that connections are accepted, if it expects that."""
        manager = ServiceManager.wanted(os.environ, functools.partial(self._log.warning, "%s"))
        if manager is None:
            return None
        from vsgi_fcgi.server.notify import Notifier

        what = context.services, context.calls.stats, context.dispatcher
        notifier = Notifier(manager, *what, self.uris)
        notifier.ready()
        return notifier

    def _announce(self, listener: Listener, allowed: frozenset[str] | None) -> None:
        self._log.info("listening on %s", listener.uri)
        if listener.open_to_others and allowed is None:
            self._log.warning(
                "%s is open to other machines and FCGI_WEB_SERVER_ADDRS is not set: every machine "
                "that reaches it can send requests with a forged REMOTE_USER and REMOTE_ADDR; set "
                "FCGI_WEB_SERVER_ADDRS to the web server's address, or listen on the loopback "
                "interface or a UNIX socket",
                listener.uri,
            )

    def _continue_accepting(self) -> None:
        for acceptor in self._acceptors:
            acceptor.continue_accepting()

    def forked(self) -> None:
        """Leave everything to the parent process, in a child that an app has forked."""
        context = self._context
        self._log.forked()
        if (
            self._done is None
            or context is None
            or context.services.in_child
            or self._ended_running
        ):
            return
        for listener in self._listeners:
            listener.forked()
        in_hub = context.forked()
        if self._signals is not None:
            self._signals.forked(stop=in_hub)
        if self._notifier is not None:
            self._notifier.forked(stop=in_hub)
        if in_hub:
            for acceptor in self._acceptors:
                acceptor.stop()
            # A stop that has begun in the parent must not end the child.
            self._done = Event()
            context.connections.on_empty = None
        self._acceptors = []

    # Stopping.

    def end(self, grace: float | None) -> None:
        """Stop a running server. Callable from any thread; returns at once.

        Args:
            grace: seconds for running requests; None for no limit.
        """
        if self._context is not None:
            self._context.services.mailbox.post(self._end, grace)

    def _end(self, grace: float | None) -> None:
        if not self._begun_to_stop:
            self._begin_stop(grace)
            return
        # It retires, or it stops with more time.
        context = self._context
        if context is not None and grace is not None:
            if context.connections.handover is not None:
                context.connections.begin_stopping(grace)
            context.services.loop.timer(grace).start(self._give_up)

    def retire(self) -> None:
        """Stop accepting, while other processes continue to accept on the same listeners.

        Connections move to the other processes, if there is a supervisor that hands them over.
        Callable from any thread; returns at once.
        """
        if self._context is not None:
            self._context.services.mailbox.post(self._begin_to_retire, None)

    def _begin_to_retire(self, _: None) -> None:
        for listener in self._listeners:
            # The connections in the backlog are for the other processes.
            listener.inherited = True
        self._retiring = True
        self._begin_stop(self.config.graceful_timeout)

    def take_over(self, fd: int, state: State) -> None:
        """Take over a connection from a process that retires. Callable from any thread."""
        sock = Socket(fileno=fd)
        sock.setblocking(False)
        context = self._context
        if context is None or not context.services.mailbox.post(
            functools.partial(context.adopt_moved, sock), state
        ):
            sock.close()

    def _on_signal(self, name: str) -> None:
        if self.supervisor is not None and self.supervisor.leave(name):
            # The new process may need longer to load the app than requests have to end.
            assert self._signals is not None
            self._signals.forget()
            return
        self._log.info("%s: stopping", name)
        if self._begun_to_stop:
            self._end(self.config.graceful_timeout)
        else:
            self._begin_stop(None)

    def _leave(self, reason: str) -> None:
        """Stop, or let the supervisor replace this process."""
        if self.supervisor is None or not self.supervisor.leave(reason):
            self._log.info("stopping: %s", reason)
            self._begin_stop(self.config.graceful_timeout)

    def _on_idle(self, idle: bool) -> None:
        if self.supervisor is not None and self.supervisor.idle(idle):
            return
        if idle:
            self._log.info("stopping: no request for %g s", self.config.idle_exit)
            self._begin_stop(self.config.graceful_timeout)

    def _reopen_logs(self, access_lines: LineWriter | None) -> None:
        self._log.reopen()
        if access_lines is not None:
            access_lines.reopen()
        self._log.info("SIGUSR1: the log files were opened again")

    def _begin_stop(self, grace: float | None) -> None:
        """Begin a graceful stop with the functions of `before_stop`. In the main context."""
        if self._begun_to_stop:
            return
        self._begun_to_stop = True
        if self.publisher is not None:
            self.publisher.begin_stopping()
        if grace is not None:
            self._stop_until = time.monotonic() + grace
        if self._notifier is not None:
            self._notifier.stopping()
        whole = self.config.graceful_timeout if grace is None else grace
        if self._context is not None and self._context.services.held is not None:
            gevent.spawn(self._context.end_held, min(self.config.push_stop_spread, whole / 2))
        if self._process_ends and whole >= 2 * _CLEAN_UP:
            whole = grace = whole - _CLEAN_UP
        if self.before_stop:
            gevent.spawn(self._stop_in_turn, whole, grace)
        else:
            self._stop_accepting(grace)

    def _stop_in_turn(self, seconds: float, grace: float | None) -> None:
        until = time.monotonic() + seconds
        for end in self.before_stop:
            try:
                if end(max(until - time.monotonic(), 0)) is False:
                    self._lost += 1
            except BaseException as error:
                self._log.error("the server stops, but a step before that failed", error=error)
        # Not in this greenlet: workers in the loop begin only in the hub's.
        if self._context is not None:
            left = None if grace is None else max(until - time.monotonic(), 0)
            self._context.services.mailbox.post(self._stop_accepting, left)

    def _stop_accepting(self, grace: float | None) -> None:
        """Accept queued connections, close the listeners, and let requests end.

        In the hub of the main context.
        """
        context, done = self._context, self._done
        assert context is not None
        assert done is not None
        acceptors, self._acceptors = self._acceptors, []
        for acceptor in acceptors:
            acceptor.close(self.config.backlog + 1)
        self._listeners.clear()
        connections = context.connections
        if connections.sharing is not None:
            connections.sharing.free()
        connections.on_empty = done.set
        if self._retiring and self.supervisor is not None:
            connections.wants_idle = True
            stop = functools.partial(connections.begin_stopping, self.config.graceful_timeout)
            self._handover = Handover(connections, self.supervisor.pass_on, stop)
            connections.handover = self._handover
            self._handover.begin()
        else:
            connections.begin_stopping(self.config.graceful_timeout)
        if not context.connections:
            done.set()
        elif grace is not None:
            timer = context.services.loop.timer(grace)
            timer.start(self._give_up)

    def _left(self, signals: Signals) -> float:
        """Return the seconds that are left of the graceful timeout."""
        return max(signals.left(), self._stop_until - time.monotonic())

    def _give_up(self) -> None:
        assert self._context is not None
        assert self._done is not None
        self._lost += self._context.connections.count_busy()
        self._done.set()

    def _exit_now(self, why: str) -> None:
        """End the process. In a native thread, because the main context may be blocked forever."""
        # Otherwise an app that computes would delay each of the last steps.
        sys.setswitchinterval(_LAST_SWITCH_INTERVAL)
        context = self._context
        count = len(context.connections) if context is not None else 0
        self._log.warning("%s: leaving; open connections: %d", why, count)
        try:
            for listener in self._listeners:
                listener.unlink()
            for tidy_up in self.at_exit:
                tidy_up()
            if context is not None and context.access_log is not None:
                context.access_log.cut_off(context.open_exchanges(), _LOG_FLUSH)
            self._log.flush(_LOG_FLUSH)
        finally:
            os._exit(1)


def _threads_end(seconds: float, log: Log, *, workers: bool) -> bool:
    """Wait for the jobs and threads of the app that Python itself would wait for.

    Args:
        seconds: maximum time to wait.
        log: the log, for the names of threads that are cut off.
        workers: whether to wait for worker threads, too.

    Returns:
        Whether all have ended.
    """
    latch = ThreadLatch()

    def join() -> None:
        try:
            # Executors end their threads here, when all jobs are done.
            for end in reversed(threading._threading_atexits):  # type: ignore[attr-defined]
                end()
            # Threads may start other threads.
            while left := _left(workers):
                for thread in left:
                    thread.join()
        finally:
            latch.open()

    if monkey.is_module_patched("threading"):
        # They are greenlets, for which the loop has to run.
        gevent.spawn(join).join(max(seconds, 0))
    else:
        try:
            start_thread(join, "vsgi-fcgi-join")
        except RuntimeError:
            return True
        latch.wait(max(seconds, 0))
    left = _left(workers)
    if left:
        names = ", ".join(thread.name for thread in left)
        log.warning("threads of the app that still ran are cut off: %s", names)
    return not left


def _left(workers: bool) -> list[threading.Thread]:
    main = threading.main_thread()
    executors = sys.modules.get("concurrent.futures.thread")
    # If the main context is a daemon, threads of executors are daemons too. Python waits for them
    # nevertheless, and so does this function.
    pooled = getattr(executors, "_threads_queues", {})
    return [
        thread
        for thread in threading.enumerate()
        if (not thread.daemon or thread in pooled)
        and thread is not main
        and (workers or not isinstance(thread, WorkerThread))
    ]


def _open_access_log(config: Config, log: Log) -> LineWriter | None:
    """Open the access log, or return None if there is none.

    Its thread starts with the first line.

    Raises:
        UsageError: the file cannot be opened.
    """
    if config.access_log is None:
        return None
    return LineWriter(
        open_sink(config.access_log), config.max_log_records, config.max_log_bytes, log
    )
