"""``--reload``: a parent that holds the sockets, and runs the app in a child that it renews."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from vsgi_fcgi.cli.app_process import AppProcess
from vsgi_fcgi.cli.options import Options
from vsgi_fcgi.cli.watching import Watch
from vsgi_fcgi.server.listeners import Listener

_MOST_DRAINING = 4
"""Children that may still end requests with code that has changed; past it, one is killed."""

_KILL_AFTER = 3.0
"""Seconds past the graceful timeout, which a child keeps by itself if it can."""

_APART = 0.5
"""Seconds: signals that come closer together are one wish (Ctrl-C, and what a shell adds)."""

_MOST_NAMES = 5
"""Files that are named when many have changed."""

_STOPPING = (signal.SIGTERM, signal.SIGINT)

_logger = logging.getLogger("vsgi_fcgi.reload")


def supervise(listeners: Sequence[Listener], options: Options, folder: str | None) -> int:
    """Run the same command again in a child, and renew it whenever a file changes.

    The parent never imports the app: nothing that the app does can harm it.

    Args:
        listeners: what the children accept on; they stay open here.
        options: the settings.
        folder: where this process was started, and where the children are; None for here.

    Returns:
        The exit status: that of the last child.

    Raises:
        UsageError: watchfiles is missing, or a path of ``--reload-extra``.
    """
    sending, receiving = socket.socketpair()
    with sending, receiving:
        for end in (sending, receiving):
            end.setblocking(False)

        def wake() -> None:
            # A full socket wakes as well.
            with contextlib.suppress(BlockingIOError):
                sending.send(b"\0")

        watch = Watch(options.reload_extra, wake)
        supervisor = Supervisor(listeners, options.graceful_timeout, folder, watch, receiving)
        with _signals_into(sending):
            watch.start()
            try:
                return supervisor.run()
            finally:
                watch.stop()
                supervisor.close()


@contextlib.contextmanager
def _signals_into(sending: socket.socket) -> Iterator[None]:
    """Have the number of each signal that comes sent as a byte.

    The signals that stop do nothing afterwards: this process is about to end, and one more of
    them must not keep it from removing the files of its sockets.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        """Do nothing: that there is a handler makes Python send the byte."""

    wakeup = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    for number in _STOPPING:
        signal.signal(number, handle)
    on_child = signal.signal(signal.SIGCHLD, handle)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGCHLD, on_child)


class Supervisor:
    """Keeps one child that serves, and those before it until their requests have ended.

    Args:
        listeners: what the children accept on.
        grace: seconds that their running requests get.
        folder: where they are started; None for here.
        watch: says which files have changed.
        wakeups: brings a byte for each signal, and one when the watch has something.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        grace: float,
        folder: str | None,
        watch: Watch,
        wakeups: socket.socket,
    ) -> None:
        self._listeners = listeners
        self._grace = grace
        self._folder = folder
        self._watch = watch
        self._here = os.getcwd()
        self._wakeups = wakeups
        self._selector = selectors.DefaultSelector()
        self._selector.register(wakeups, selectors.EVENT_READ)
        # As this process was started: by a script, or by `python -m`, with the same flags.
        self._command = [sys.executable, *sys.orig_argv[1:]]
        self._child: AppProcess | None = None
        self._draining: list[AppProcess] = []
        self._stopping: float | None = None
        self._hopeless = False
        self._renewed = False
        self._status = 0

    def run(self) -> int:
        """Keep a child until a signal says to stop.

        Returns:
            The exit status of the last child.
        """
        self._begin()
        while not self._is_over():
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._wakeups:
                    self._take_signals()
                else:
                    self._hear(key.data)
            self._bury()
            self._insist()
            self._renew()
        return self._status

    def _is_over(self) -> bool:
        asked = self._stopping is not None or self._hopeless
        return asked and self._child is None and not self._draining

    def close(self) -> None:
        """Leave no child behind, after an error."""
        for process in self._processes():
            self._end(process)
        self._selector.close()

    def _processes(self) -> list[AppProcess]:
        return [*self._draining, *([] if self._child is None else [self._child])]

    # Children.

    def _begin(self) -> None:
        """Start a child."""
        try:
            self._child = AppProcess(self._command, self._folder, self._listeners)
        except OSError as error:
            _logger.error(
                "the app's process cannot be started: %s; it is tried again when a file changes",
                error.strerror,
            )
            self._watch.search(self._here, time.time())
            return
        self._selector.register(self._child, selectors.EVENT_READ, self._child)

    def _hear(self, process: AppProcess) -> None:
        """Take note of what a child has imported."""
        for message in process.receive():
            files = {
                path: None if stamp is None else (stamp[0], stamp[1], stamp[2])
                for path, stamp in message["files"].items()
            }
            process.files.update(files)
            self._watch.know(files)
            if message["state"] != process.state and process is self._child:
                process.state = message["state"]
                if process.state == "serving":
                    self._watch.forget_all_but(process.files)
                else:
                    self._watch.search(self._here, process.started)
        if process.silent:
            self._forget(process)

    def _forget(self, process: AppProcess) -> None:
        """Listen no more to a child that says nothing more."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(process)

    def _renew(self) -> None:
        """Replace the child if files have changed."""
        changed = self._watch.take()
        if not changed or self._stopping is not None or self._hopeless:
            return
        _logger.info("%s changed; restarting the app", _names(changed, self._here))
        self._renewed = True
        for path in changed:
            _remove_compiled(path)
        if self._child is not None:
            # First of all, so that nobody who comes from now on sees the old code: they wait
            # in the backlog for the new one.
            self._child.ask_to_stop(self._grace + _KILL_AFTER)
            self._draining.append(self._child)
            self._child = None
        while len(self._draining) > _MOST_DRAINING:
            oldest = self._draining.pop(0)
            _logger.warning(
                "%d processes of older versions still have requests: the oldest is killed",
                _MOST_DRAINING + 1,
            )
            self._end(oldest)
        self._begin()

    def _end(self, process: AppProcess) -> None:
        """Kill a child, and wait for its end, which nothing can put off."""
        process.kill()
        process.wait()
        self._forget(process)
        process.close()

    def _bury(self) -> None:
        """See which children have ended."""
        for process in self._processes():
            status = process.status()
            if status is None:
                continue
            self._hear(process)
            self._forget(process)
            process.close()
            if process is self._child:
                self._child = None
                self._lost_child(process, status)
            else:
                self._draining.remove(process)

    def _lost_child(self, process: AppProcess, status: int) -> None:
        """The child has ended: because it was told to, or by itself."""
        if self._stopping is not None:
            # Told to stop before it had begun to serve.
            self._status = 0 if status == -signal.SIGTERM else _as_exit_status(status)
            return
        self._status = _as_exit_status(status)
        if status == 2 and not self._renewed:
            # It has said what has to be mended, and no file can mend it.
            self._hopeless = True
            return
        _logger.error(
            "the app's process %d has ended by itself (%s); requests wait until a file changes",
            process.pid,
            _manner(status),
        )
        self._watch.search(self._here, process.started)

    # Stopping.

    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._wakeups.recv(4096):
                if number in _STOPPING:
                    self._stop(signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        """The first signal stops gracefully, a second one at once."""
        now = time.monotonic()
        if self._stopping is None:
            self._stopping = now
            if self._child is None:
                _logger.info("%s: stopping", number.name)
            else:
                self._child.ask_to_stop(self._grace + _KILL_AFTER)
        elif now - self._stopping >= _APART:
            _logger.warning("a second signal came (%s): leaving at once", number.name)
            for process in self._processes():
                self._end(process)
            self._child = None
            self._draining.clear()
            self._status = 1

    def _insist(self) -> None:
        """Kill the children that did not stop in time; one that hangs cannot do it by itself."""
        for process in self._processes():
            if process.kill_at is not None and time.monotonic() >= process.kill_at:
                _logger.warning("the app's process %d does not stop: it is killed", process.pid)
                process.kill_at = None
                process.kill()

    def _patience(self) -> float | None:
        """Seconds until a child has had long enough to stop; None if none was told to."""
        times = [process.kill_at for process in self._processes() if process.kill_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None


def _names(paths: Sequence[str], here: str) -> str:
    """The files for a log line: relative to a folder if they are below it, and not too many."""
    names = [path.removeprefix(os.path.join(here, "")) for path in paths]
    if len(names) > _MOST_NAMES:
        names[_MOST_NAMES:] = [f"{len(names) - _MOST_NAMES} more"]
    return ", ".join(names)


def _remove_compiled(path: str) -> None:
    """Remove what Python has compiled of a file.

    Python takes it as current if the size of the source and the second in which it was saved
    are the same: an edit of one letter, saved twice in a second, would go unseen.
    """
    with contextlib.suppress(OSError, NotImplementedError):
        os.unlink(importlib.util.cache_from_source(path))


def _as_exit_status(status: int) -> int:
    """What a shell makes of it (a signal is 128 and its number); 1 for one that was killed."""
    if status == -signal.SIGKILL:
        return 1
    return status if status >= 0 else 128 - status


def _manner(status: int) -> str:
    """How a process has ended, in words."""
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
