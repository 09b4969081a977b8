"""The supervisor, as a process that it has started sees it."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.listen.listeners`
import errno
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from vsgi_fcgi.addresses import DescriptorAddress
from vsgi_fcgi.exceptions import AppLoadError, UsageError
from vsgi_fcgi.listen.listeners import Listener, open_listener
from vsgi_fcgi.listen.sharing import Sharing
from vsgi_fcgi.native_threads import allocate_lock, start_new_thread
from vsgi_fcgi.supervisor.messages import (
    Message,
    PublishedParts,
    close_all,
    receive,
    send,
    split_published,
)

if TYPE_CHECKING:
    from vsgi_fcgi.server.server import Server
    from vsgi_fcgi.supervisor.watched import ErrorPage, ImportedFiles

_INTERVAL = 1.0
"""Seconds between two checks for newly imported modules, under ``--reload``."""

_logger = logging.getLogger("vsgi_fcgi.supervisor")

# Taken before gevent can patch them: its `fork` watches the child with a loop of this process.
_fork, _waitpid = os.fork, os.waitpid


class Supervised:
    """Follows the supervisor's messages, and reports to it. Stops this process when it ends.

    Args:
        given: what the supervisor has put into `SUPERVISED_VARIABLE`.

    Attributes:
        listeners: the listening sockets of the supervisor.
        is_template: whether this process only loads the app, for `fork`.
        sharing: how many connections each process has.
        scoreboard: the descriptor of the scoreboard of all processes; None if there is none.
        host: identifies the supervisor, among those that use the same bus.
        on_published: gets the items that another process has published, in a native thread.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self._control = _socket.socket(fileno=given["control"])
        self.listeners: list[Listener] = []
        self._inherited: list[bool] = []
        for fd, uri, shared, inherited in given["listeners"]:
            (listener,) = open_listener(DescriptorAddress(fd), 0)
            listener.uri, listener.shared, listener.supervised = uri, shared, True
            self.listeners.append(listener)
            self._inherited.append(bool(inherited))
        self._imports: ImportedFiles | None = None
        if given["watched"]:
            from vsgi_fcgi.supervisor.watched import ImportedFiles

            self._imports = ImportedFiles(self._send_files)
        self.host = str(given["host"])
        self.on_published: Callable[[bytes], object] | None = None
        self._published = PublishedParts()
        self.is_template = bool(given["is_template"])
        self.scoreboard: int | None = given["scoreboard"]
        for kept in (given["control"], given["table"], self.scoreboard):
            if kept is not None:
                os.set_inheritable(kept, False)
        self.sharing = Sharing(given["table"], given["slot"])
        self._control.settimeout(None if self._imports is None else _INTERVAL)
        self._state = "loading"
        self._state_when_up = "serving"
        self._lock = allocate_lock()
        self._server: Server | None = None
        # What the supervisor has asked for before the server ran.
        self._waiting: Message | None = None
        self._alone = False

    def start(self) -> None:
        """Start to report. Call it before the app is loaded, because the import may hang.

        Raises:
            UsageError: this host allows no more threads.
        """
        # Not with `threading`: an app cannot monkey-patch it after a thread was started.
        try:
            start_new_thread(self._run, ())
        except RuntimeError as error:
            raise UsageError(
                "a process needs a thread for its supervisor, but this host allows no more;"
                " lower --processes or --threads"
            ) from error

    def fork(self) -> None:
        """Fork a process whenever the supervisor asks for one. Returns in each of these processes.

        Call this when the app is loaded. The memory of the app is shared until it is written to.
        """
        gc.collect()
        # The collector would write to every object, and each process would get its own copy.
        gc.freeze()
        self._state = "serving"
        self._tell()
        while True:
            found = receive(self._control)
            if found is None or found[0]["do"] != "fork":
                os._exit(0)
            message, (fd,) = found
            between = _fork()
            if not between:
                # A process without a parent becomes a child of the supervisor.
                if _fork():
                    os._exit(0)
                break
            _waitpid(between, 0)
            os.close(fd)
        self.sharing.slot = message["slot"]
        self._control.close()
        self._control = _socket.socket(fileno=fd)
        self._state = "loading"
        self._send({"state": self._state, "pid": os.getpid()})
        self.start()

    def stand_in(self, error: UsageError) -> ErrorPage:
        """Log why the app could not be loaded, and return a page that says so.

        Args:
            error: the exception of `load_app`.

        Returns:
            The app to serve instead.
        """
        from vsgi_fcgi.supervisor.watched import ErrorPage, files_of_traceback

        traceback = error.traceback if isinstance(error, AppLoadError) else ""
        _logger.error("%s%s", traceback, error)
        # Not before the page is served: the supervisor passes connections to a process that is up.
        self._state_when_up = "failed"
        self._tell(files_of_traceback(traceback))
        return ErrorPage(error, traceback)

    def accompany(self, server: Server) -> None:
        """Report when the server accepts connections, and stop it when the supervisor says so."""

        def serving() -> None:
            for listener, inherited in zip(self.listeners, self._inherited, strict=True):
                # A stop of all processes must serve the connections in the backlog.
                listener.inherited = inherited
            with self._lock:
                self._server = server
            if self._waiting is not None:
                # The signal for it may have come when the server handled signals already. For the
                # server it is a wish to be replaced, which the supervisor does not need any more.
                self._follow(self._waiting, [])
            # The supervisor sends no SIGUSR1 to a template and to a process that loads the app.
            server.log.reopen()
            if self._state == "loading":
                self._state = self._state_when_up
            self._tell()

        server.at_start.append(serving)
        server.supervisor = self

    def leave(self, reason: str) -> bool:
        """Ask for a replacement.

        Returns:
            False if there is no supervisor any more.
        """
        return not self._alone and self._send({"leave": reason})

    def idle(self, is_idle: bool) -> bool:
        """Report whether this process has nothing to do.

        Returns:
            False if there is no supervisor any more.
        """
        return not self._alone and self._send({"idle": is_idle})

    def pass_on(self, fd: int, state: Message) -> bool:
        """Hand a connection over to another process.

        Args:
            fd: its descriptor.
            state: what the other process must know.

        Returns:
            False if it must be tried again later.

        Raises:
            OSError: there is no supervisor any more.
        """
        try:
            send(self._control, {"connection": state}, (fd,))
        except OSError as error:
            # ETOOMANYREFS: this user has too many descriptors on their way.
            if error.errno in (errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS):
                return False
            raise
        return True

    def publish(self, body: bytes) -> None:
        """Send items to the other processes of the supervisor. Waits until the supervisor reads.

        Args:
            body: the items, as JSON.
        """
        try:
            for message in split_published(body, os.getpid()):
                self._send_published(message)
        except OSError as error:
            if not self._alone:
                _logger.error(
                    "published items did not reach the other processes: %s", error.strerror
                )

    def _send_published(self, message: Message) -> None:
        while not self._alone:
            try:
                send(self._control, message, wait=True)
                return
            except TimeoutError:
                # The timeout is for messages from the supervisor.
                continue

    def _send(self, message: Message) -> bool:
        try:
            send(self._control, message)
        except OSError:
            # The supervisor has ended or is stopped.
            return False
        return True

    # Messages from the supervisor, in a native thread

    def _run(self) -> None:
        """Follow messages until the supervisor ends."""
        try:
            while True:
                try:
                    found = receive(self._control)
                except TimeoutError:
                    if self._imports is not None and self._imports.may_be_more:
                        self._tell()
                    continue
                if found is None:
                    break
                self._follow(*found)
        except OSError as error:
            _logger.debug("the supervisor cannot be reached: %s", error)
        self._alone = True
        if self._server is not None:
            # Otherwise the log would only have the signal. This does not wait for the log.
            self._server.log.error("the supervisor has ended unexpectedly; this process stops, too")
        os.kill(os.getpid(), signal.SIGTERM)

    def _follow(self, message: Message, fds: list[int]) -> None:
        with self._lock:
            server = self._server
            if server is None and "do" in message:
                self._waiting = message
        if "published" in message:
            body = self._published.add(message)
            if body is not None and self.on_published is not None:
                self.on_published(body)
        elif "connection" in message:
            if server is None:
                close_all(fds)
            elif fds:
                server.take_over(fds[0], message["connection"])
            else:
                _logger.error(
                    "a connection was lost: this process or its supervisor can open no more files;"
                    " raise their limit (LimitNOFILE= or ulimit -n)"
                )
        elif server is None:
            # It is still loading the app. This interrupts the import.
            os.kill(os.getpid(), signal.SIGTERM)
        elif message["do"] == "stop":
            server.end(message["grace"])
        elif message["do"] == "retire":
            server.retire()

    def _tell(self, more: Iterable[str] = ()) -> None:
        """Send the state, and the files that the supervisor does not know yet."""
        if self._imports is None:
            self._send({"state": self._state})
            return
        with self._lock:
            self._imports.report(more)

    def _send_files(self, files: list[str], since: float) -> bool:
        return self._send({"state": self._state, "files": files, "since": since})
