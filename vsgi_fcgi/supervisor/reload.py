"""``--reload``: the supervisor of one process, which is replaced whenever a file changes."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Final

from vsgi_fcgi.listen.listeners import Listener
from vsgi_fcgi.supervisor.messages import Message
from vsgi_fcgi.supervisor.process import AppProcess
from vsgi_fcgi.supervisor.supervisor import Supervisor, exit_status, signals_as_bytes
from vsgi_fcgi.supervisor.watcher import Watch

_MAX_DRAINING: Final = 4
"""Old processes that may still finish requests; if there are more, the oldest is killed."""

_MAX_NAMES: Final = 5
"""Largest number of changed files in a log line."""

_logger = logging.getLogger("vsgi_fcgi.reload")


def supervise_and_watch(
    listeners: Sequence[Listener], extra: Sequence[str], grace: float, folder: str | None
) -> int:
    """Serve in one process, and replace it whenever a file changes.

    Args:
        listeners: the sockets on which the processes accept; they stay open here.
        extra: further files and folders to watch.
        grace: seconds that running requests have to end.
        folder: the working directory of the processes; None for that of this process.

    Returns:
        The exit status of the last process.

    Raises:
        UsageError: a path of ``extra`` does not exist.
    """
    with signals_as_bytes() as wakeups:
        supervisor = ReloadingSupervisor(listeners, wakeups, Watch(extra), grace, folder)
        with contextlib.closing(supervisor):
            return supervisor.run()


class ReloadingSupervisor(Supervisor):
    """Runs one process that serves, and older ones until their requests have ended.

    The old process stops accepting before the new one starts, so that no new connection reaches the
    old code. An app that cannot be loaded is replaced by a page that says why.

    Args:
        listeners: the sockets on which the processes accept.
        wakeups: receives a byte for each signal.
        watch: knows which files have changed.
        grace: seconds that running requests have to end.
        folder: the working directory of the processes; None for that of the supervisor.
    """

    watched = True
    fast = ()

    def __init__(
        self,
        listeners: Sequence[Listener],
        wakeups: socket.socket,
        watch: Watch,
        grace: float,
        folder: str | None,
    ) -> None:
        super().__init__(listeners, wakeups, count=1, grace=grace, folder=folder)
        self._watch = watch
        self._here = os.getcwd()
        self._begun = False
        self._restarted = False

    def act(self) -> None:
        """Start a process at first, and a new one if files have changed."""
        changed = self._watch.changes()
        if self._begun and not changed:
            return
        self._begun = True
        if changed:
            self._restarted = True
            self.status = 0
            _logger.info("%s changed; restarting the app", _names(changed, self._here))
            for path in changed:
                _remove_compiled(path)
        for process in self.processes:
            if not process.retired:
                # First, so that no new connection reaches the old code. New connections wait in
                # the backlog for the new process.
                self.retire(process)
        while len(self.processes) > _MAX_DRAINING:
            _logger.warning(
                "%d old processes still have requests; killing the oldest", len(self.processes)
            )
            self.kill_and_wait(self.processes[0])
        if not self.start():
            self._watch.watch_folder(self._here, time.time())

    def select_timeout(self) -> float | None:
        """Look for changes from time to time."""
        timeout = super().select_timeout()
        if self.stopping is not None:
            return timeout
        look = max(0.0, self._watch.next_look - time.monotonic())
        return look if timeout is None else min(look, timeout)

    def reported(self, process: AppProcess, message: Message) -> None:
        """Watch the files that a process has imported."""
        process.files.update(message["files"])
        self._watch.add(message["files"], message["since"])
        if message["state"] != process.state and not process.retired:
            if message["state"] == "serving":
                self._watch.keep_only(process.files)
            else:
                self._watch.watch_folder(self._here, process.started)
        super().reported(process, message)

    def asked_to_leave(self, process: AppProcess, reason: str) -> None:
        """Stop a process that got a signal."""
        if not process.retired:
            process.leaving = True
            self.retire(process)

    def ended(self, process: AppProcess) -> None:
        """Wait for a change after an unexpected end."""
        status = process.status or 0
        if self.stopping is not None or (process.retired and not process.leaving):
            super().ended(process)
            return
        self.status = exit_status(status)
        if status == 2 and not self._restarted:
            # It has reported an error that no change of a file can fix.
            self.give_up(self.status)
            return
        _logger.error(
            "the app's process %d has ended unexpectedly (%s); requests wait until a file changes",
            process.pid,
            process.describe_end(),
        )
        self._watch.watch_folder(self._here, process.started)

    def handle_signal(self, number: int) -> None:
        """Handle a signal. SIGHUP comes from a terminal that is closed."""
        if number == signal.SIGHUP:
            number = signal.SIGTERM
        super().handle_signal(number)


def _names(paths: Sequence[str], here: str) -> str:
    """Return the files for a log line: a few, relative to a folder if they are below it."""
    names = [path.removeprefix(os.path.join(here, "")) for path in paths]
    if len(names) > _MAX_NAMES:
        names[_MAX_NAMES:] = [f"{len(names) - _MAX_NAMES} more"]
    return ", ".join(names)


def _remove_compiled(path: str) -> None:
    """Remove the compiled file of a module.

    Python uses it if the size and the modification time in seconds of the source are unchanged.
    Without the removal, an edit of one letter within a second would have no effect.
    """
    with contextlib.suppress(OSError, NotImplementedError):
        os.unlink(importlib.util.cache_from_source(path))
