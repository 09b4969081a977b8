"""The supervisor: holds the listening sockets, and keeps processes running that serve on them.

It never imports the app and never runs an event loop of gevent, so that the app cannot harm it. It
waits for messages of its processes and for signals with `selectors`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.listen.listeners import Listener
from vsgi_fcgi.listen.sharing import SLOTS, Sharing, make_table
from vsgi_fcgi.log.handlers import reopen_files
from vsgi_fcgi.server.early_signals import (
    IF_FREE,
    STOPPING,
    EarlySignals,
    is_free,
    under_multiwatch,
)
from vsgi_fcgi.service_manager import ServiceManager
from vsgi_fcgi.status.scoreboard import Scoreboard
from vsgi_fcgi.supervisor.config import SupervisorConfig
from vsgi_fcgi.supervisor.messages import Message, close_all
from vsgi_fcgi.supervisor.process import AppProcess, starting_command

_KILL_AFTER: Final = 3.0
"""Seconds after the graceful timeout before a process is killed. It usually stops itself."""

_SAME_SIGNAL: Final = 0.5
"""Seconds within which signals count as one: a shell may add one to that of Ctrl-C."""

_YOUNG: Final = 1.0
"""Seconds of serving after which the end of a process does not count as a failed start."""

_REPLACED_YOUNG: Final = 3.0
"""Seconds of serving after which a wish to be replaced does not count as a failed start.

A process looks at its memory once per second.
"""

_FIRST_PAUSE: Final = 0.1
"""Seconds before a start that follows two failed ones. Each further one doubles the pause."""

_MAX_PAUSE: Final = 10.0
"""Longest pause in seconds between failed starts."""

_MAX_MOVING: Final = 256
"""Maximum number of connections on their way between processes. More wait in the process."""

_RETRY: Final = 0.02
"""Seconds until the next try to pass on a connection, if no process takes it."""

_MAX_PROCESSES: Final = 1000
"""Largest number of processes that SIGTTIN can ask for."""

_logger = logging.getLogger("vsgi_fcgi.supervisor")


def supervise(
    listeners: Sequence[Listener],
    config: SupervisorConfig,
    grace: float,
    folder: str | None,
    scoreboard: Scoreboard | None = None,
) -> int:
    """Serve in as many processes as the settings say.

    Args:
        listeners: the sockets on which the processes accept; they stay open here.
        config: the settings.
        grace: seconds that running requests have to end.
        folder: the working directory of the processes; None for that of this process.
        scoreboard: where the processes say what they do; None for nowhere.

    Returns:
        The exit status.

    Raises:
        UsageError: no process could be started.
    """
    for listener in listeners:
        listener.shared = True
    more = (signal.SIGQUIT, signal.SIGTTIN, signal.SIGTTOU)
    with signals_as_bytes(more) as wakeups:
        supervisor = Supervisor(
            listeners,
            wakeups,
            count=config.process_count,
            grace=grace,
            folder=folder,
            start_timeout=config.start_timeout,
            preload=config.preload,
            scoreboard=scoreboard,
        )
        with contextlib.closing(supervisor):
            return supervisor.run()


@contextlib.contextmanager
def signals_as_bytes(
    more: Sequence[signal.Signals] = (),
) -> Iterator[socket.socket]:
    """Return a socket that receives the number of each signal as a byte.

    Afterwards the signals that stop have no effect: this process is about to end, and another
    signal must not prevent the removal of its socket files.

    Args:
        more: signals that are handled besides those that stop, reload and reopen files.
    """
    connected = False

    def handle(number: int, frame: FrameType | None) -> None:
        """Send the byte until Python does. A second one would count as the same signal."""
        if not connected:
            sending.send(bytes((number,)))

    sending, receiving = socket.socketpair()
    with sending, receiving:
        sending.setblocking(False)
        receiving.setblocking(False)
        early = EarlySignals.installed()
        came = [] if early is None else early.hand_over(handle)
        wakeup = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
        connected = True
        for number in (*STOPPING, *filter(is_free, (*IF_FREE, *more))):
            signal.signal(number, handle)
        on_child = signal.signal(signal.SIGCHLD, handle)
        for early_one in came:
            sending.send(bytes((early_one,)))
        try:
            yield receiving
        finally:
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGCHLD, on_child)


class Supervisor:
    """Keeps a number of processes serving, and replaces them.

    A subclass may start them for another reason than that one is missing; see `act`.

    Args:
        listeners: the sockets on which the processes accept.
        wakeups: receives a byte for each signal.
        count: the number of processes.
        grace: seconds that running requests have to end.
        folder: the working directory of the processes; None for that of the supervisor.
        start_timeout: seconds that a process may take to load the app; None for no limit.
        preload: whether processes are forked from one that has loaded the app.
        scoreboard: where the processes say what they do; None for nowhere.

    Attributes:
        processes: all processes that run, the oldest first.
        stopping: when the stop began, on the monotonic clock; None before.
        status: the exit status of the supervisor.
        watched: whether the processes report the files that the app has imported.
        fast: the signals that stop without waiting for requests.
    """

    watched = False
    fast: tuple[int, ...] = (signal.SIGINT, signal.SIGQUIT)

    def __init__(
        self,
        listeners: Sequence[Listener],
        wakeups: socket.socket,
        *,
        count: int,
        grace: float,
        folder: str | None,
        start_timeout: float | None = None,
        preload: bool = False,
        scoreboard: Scoreboard | None = None,
    ) -> None:
        self.processes: list[AppProcess] = []
        self.stopping: float | None = None
        self.status = 0
        self._listeners = listeners
        self._wakeups = wakeups
        self._count = count
        self._grace = grace
        self._folder = folder
        self._start_timeout = start_timeout
        self._preload = preload
        self._scoreboard = scoreboard
        if preload:
            _adopt_orphans()
        self._selector = selectors.DefaultSelector()
        self._selector.register(wakeups, selectors.EVENT_READ)
        self._command = starting_command()
        self._usr1_stops = under_multiwatch()
        self._generation = self._newest = 0
        self._has_served = False
        self._reloading = False
        self._failures = 0
        self._not_before = 0.0
        self._could_not_start = False
        self._manager = ServiceManager.wanted(os.environ, self._report)
        self._alive_at = 0.0
        self._moving: deque[tuple[Message, list[int]]] = deque()
        self._turn = -1
        self._table = make_table()
        self._sharing = Sharing(os.dup(self._table), -1)
        # What every process gets.
        board = None if scoreboard is None else scoreboard.fd
        sockets = [
            (each.sock.fileno(), each.uri, each.shared, each.inherited) for each in listeners
        ]
        self._given = {
            "listeners": sockets,
            "watched": self.watched,
            "table": self._table,
            "scoreboard": board,
            # Identifies this supervisor, among those that use the same bus.
            "host": secrets.token_hex(8),
        }
        self._fds = [self._table, *(fd for fd, *_ in sockets), *([] if board is None else [board])]

    def _report(self, problem: str) -> None:
        _logger.warning("%s", problem)

    def run(self) -> int:
        """Run processes until a signal stops the supervisor.

        Returns:
            The exit status: 0 after a graceful stop in which no request was lost.
        """
        self.act()
        while self.stopping is None or self.processes:
            for key, _ in self._selector.select(self.select_timeout()):
                if key.fileobj is self._wakeups:
                    self._handle_signals()
                elif key.data in self.processes:
                    # A signal may have removed the process meanwhile.
                    self._receive(key.data)
            self._reap()
            # After the messages: one may have come while this process was stopped by SIGSTOP.
            self._kill_overdue()
            if self.stopping is None:
                self.act()
            self._pass_on()
            self._relay_unread()
            self._keep_alive()
        return self.status

    def close(self) -> None:
        """Kill all processes, after an error."""
        for process in list(self.processes):
            self.kill_and_wait(process)
        self._drop_moving()
        self._selector.close()
        os.close(self._table)
        if self._manager is not None:
            self._manager.close()

    # Processes

    def act(self) -> None:
        """Start the processes that are missing, and retire those that were replaced."""
        processes = [each for each in self.processes if not each.is_template]
        current = [each for each in processes if each.generation == self._generation]
        staying = [each for each in current if not each.leaving and not each.retired]
        up = [each for each in staying if each.is_up]
        others = [each for each in processes if each not in staying and each.is_up]
        if processes and all(each.is_up and each.idle for each in processes):
            _logger.info("stopping: all processes are idle")
            self.stop(self._grace)
            return
        # A process retires when another one serves in its place.
        spare = len(up) + len(others) - self._count
        for each in (*others, *up)[: max(0, spare)]:
            self.retire(each)
        if self._reloading and len(up) >= self._count:
            self._reloading = False
            if self._scoreboard is not None:
                self._scoreboard.count("reloads")
            self._stop_templates()
            _logger.info("reloaded: all processes serve the new version")
            self._say_ready()
        # The first one of a generation shows whether the app can be loaded.
        missing = min(self._count - len(staying), self._count if up else 1 - len(staying))
        if time.monotonic() >= self._not_before:
            for _ in range(missing):
                if not self.start():
                    break

    def start(self) -> bool:
        """Start a process.

        Returns:
            False if no further one can be started now. It is tried again later.

        Raises:
            UsageError: not even the first one could be started.
        """
        templates = [each for each in self.processes if each.is_template and not each.retired]
        template = next((each for each in templates if each.generation == self._generation), None)
        if template is not None and template.state == "loading":
            return False
        try:
            process = self._start_from(template)
        except OSError as error:
            if not self._has_served and not self.watched:
                raise UsageError(
                    f"no process could be started: {error.strerror}; raise the limit of processes"
                    " (ulimit -u), or check the working directory and the Python interpreter"
                ) from error
            self._pause()
            if not self._could_not_start:
                self._could_not_start = True
                _logger.error(
                    "no further process can be started: %s; %d continue to serve",
                    error.strerror,
                    sum(each.is_up for each in self.processes),
                )
            return False
        self._could_not_start = False
        if process is None:
            return False
        if self._start_timeout is not None:
            process.kill_at = process.born + self._start_timeout
        self.processes.append(process)
        self._selector.register(process, selectors.EVENT_READ, process)
        return not process.is_template

    def _start_from(self, template: AppProcess | None) -> AppProcess | None:
        used = {each.slot for each in self.processes}
        slot = next((slot for slot in range(SLOTS) if slot not in used), -1)
        if template is not None:
            return template.fork(slot)
        process = AppProcess(
            self._generation, -1 if self._preload else slot, is_template=self._preload
        )
        process.start(self._command, self._folder, self._given, self._fds)
        return process

    def _stop_templates(self) -> None:
        """Stop the templates of other generations than the current one."""
        for each in self.processes:
            if each.is_template and each.generation != self._generation and not each.retired:
                each.stop({"do": "stop"}, _KILL_AFTER)

    def retire(self, process: AppProcess) -> None:
        """Let a process stop, while others continue."""
        _logger.info("process %d retires", process.pid)
        process.stop({"do": "retire"}, self._grace + _KILL_AFTER)

    def _receive(self, process: AppProcess) -> None:
        """Receive the messages of a process."""
        for message, fds in process.messages():
            if "state" in message:
                self.reported(process, message)
            elif "leave" in message:
                self.asked_to_leave(process, message["leave"])
            elif "idle" in message:
                process.idle = message["idle"]
            elif "published" in message:
                self._relay(process, message)
            elif "connection" in message:
                self._moving.append((message, fds))
                if len(self._moving) >= _MAX_MOVING and process.status is None:
                    # The rest waits in its socket.
                    self._forget(process)
                    break
        if process.closed:
            self._forget(process)
            if not process.pid:
                # It has ended before it could report its number.
                process.ended(-signal.SIGKILL)
                self._remove(process)
                self.ended(process)

    def _relay(self, sender: AppProcess, message: Message) -> None:
        """Pass what a process has published on to all others, also to those that retire."""
        for process in self.processes:
            # Also to those that start: one may hold a request before it is reported to serve. While
            # a process loads the app, its thread drops the items.
            if process is not sender and not process.is_template:
                process.relay(message)
                if process.dropped == 1:
                    _logger.error(
                        "process %d reads too slowly: published items do not reach the requests"
                        " that it holds",
                        process.pid,
                    )

    def _relay_unread(self) -> None:
        """Send the messages that wait for processes that read slowly."""
        for process in self.processes:
            process.relay_unread()
            if process.dropped and not process.unread:
                _logger.error(
                    "process %d reads again; it did not get everything that was published",
                    process.pid,
                )
                process.dropped = 0

    def _pass_on(self) -> None:
        """Pass connections on from processes that retire to those that serve, in turn."""
        if not self._moving:
            return
        takers = [each for each in self.processes if each.is_up]
        if self.stopping is not None:
            # A process that stops reads the connection a last time, and then closes it.
            takers = [each for each in self.processes if each.served and not each.is_template]
        while self._moving and takers:
            message, fds = self._moving[0]
            self._turn = (self._turn + 1) % len(takers)
            if not takers[self._turn].tell(message, fds):
                # Its socket is full, or it has ended.
                del takers[self._turn]
                self._turn = -1
                continue
            self._moving.popleft()
            close_all(fds)
        if not self.processes:
            self._drop_moving()
        elif len(self._moving) < _MAX_MOVING:
            known = self._selector.get_map()
            for process in self.processes:
                if not process.closed and process.fileno() not in known:
                    self._selector.register(process, selectors.EVENT_READ, process)

    def _drop_moving(self) -> None:
        while self._moving:
            close_all(self._moving.popleft()[1])

    def reported(self, process: AppProcess, message: Message) -> None:
        """Handle the state that a process has reported."""
        process.pid = message.get("pid", process.pid)
        if process.state == message["state"]:
            return
        process.state = message["state"]
        if process.state != "serving":
            return
        process.served = time.monotonic()
        process.kill_at = None
        if process.retired:
            # The message came while it loaded the app. Requests may have begun since.
            process.kill_at = process.served + self._grace + _KILL_AFTER
        if not self._has_served and not process.is_template:
            self._has_served = True
            self._say_ready()

    def asked_to_leave(self, process: AppProcess, reason: str) -> None:
        """Handle a process that wants to be replaced."""
        if not process.leaving and not process.retired:
            process.leaving = True
            age = time.monotonic() - (process.served or process.born)
            level = logging.INFO
            if age >= _REPLACED_YOUNG:
                self._failures, self._not_before = 0, 0.0
            else:
                # The app may need more than --max-memory. Its starts must not use all CPU time.
                if self._failures:
                    level = logging.WARNING
                self._pause()
            _logger.log(
                level, "process %d is replaced: %s (after %.1f s)", process.pid, reason, age
            )

    def _forget(self, process: AppProcess) -> None:
        """Stop waiting for messages of a process."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(process)

    def kill_and_wait(self, process: AppProcess) -> None:
        """Kill a process and wait for its end."""
        process.send_signal(signal.SIGKILL)
        if process.status is None and process.pid:
            _, status = os.waitpid(process.pid, 0)
            process.ended(os.waitstatus_to_exitcode(status))
        self._remove(process)

    def _remove(self, process: AppProcess) -> None:
        self.processes.remove(process)
        self._sharing.free(process.slot)
        self._forget(process)
        process.close()

    def _reap(self) -> None:
        """Handle the processes that have ended. As process 1 of a container, also orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self._scoreboard is not None:
                self._scoreboard.take_over(pid)
            for process in [each for each in self.processes if each.pid == pid]:
                process.ended(os.waitstatus_to_exitcode(status))
                self._receive(process)
                self._remove(process)
                self.ended(process)

    def ended(self, process: AppProcess) -> None:
        """Handle the end of a process."""
        status = process.status or 0
        if self.stopping is not None:
            # -SIGTERM: it was stopped before it handled signals.
            if status not in (0, -signal.SIGTERM):
                self.status = max(self.status, exit_status(status))
            return
        if process.retired:
            if status:
                _logger.warning("process %d retired with %s", process.pid, process.describe_end())
            return
        if not self._has_served and status == 2:
            # It has written an error that the user must correct.
            self.give_up(status)
            return
        age = time.monotonic() - (process.served or process.born)
        what = "while it loaded the app" if process.served is None else f"after {age:.1f} s"
        if self._scoreboard is not None:
            self._scoreboard.count("worker_deaths")
        _logger.error(
            "process %d has ended unexpectedly (%s) %s", process.pid, process.describe_end(), what
        )
        if process.served is not None and age >= _YOUNG:
            self._failures, self._not_before = 0, 0.0
        elif not self._has_served:
            self.give_up(exit_status(status) or 1)
        elif self._is_first_of_reload(process):
            self._abandon_reload()
        else:
            self._pause()

    def _pause(self) -> None:
        """Delay the next start, if it is not the first one that failed."""
        pause = min(_MAX_PAUSE, _FIRST_PAUSE * 2 ** (self._failures - 1)) if self._failures else 0.0
        self._failures = min(self._failures + 1, 20)
        self._not_before = time.monotonic() + pause

    # Reloading

    def reload(self) -> None:
        """Replace all processes by new ones, which load the app again."""
        _logger.info("SIGHUP: reloading")
        # Type=notify-reload compares this time with that of its signal (systemd 253).
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify(RELOADING=1, MONOTONIC_USEC=now, STATUS="reloading")
        for each in list(self.processes):
            if each.state == "loading":
                # It may have reported that it serves.
                self._receive(each)
            if each.state == "loading" and not each.retired:
                # This interrupts the import. A process that begins to serve meanwhile retires.
                each.stop({"do": "retire"}, _KILL_AFTER)
        self._reloading = True
        self._newest += 1
        self._generation = self._newest
        self._failures, self._not_before = 0, 0.0

    def _is_first_of_reload(self, process: AppProcess) -> bool:
        return (
            self._reloading
            and process.generation == self._generation
            and not any(
                each.is_up and each.generation == self._generation for each in self.processes
            )
        )

    def _abandon_reload(self) -> None:
        """Continue with the processes of the last version that could be loaded."""
        self._reloading = False
        up = [each.generation for each in self.processes if each.is_up]
        self._generation = max(up, default=self._generation)
        self._stop_templates()
        _logger.error(
            "the new version cannot be loaded; processes of the old version that continue: %d",
            len(up),
        )
        self._say_ready("the last reload failed")

    def _resize(self, more: int) -> None:
        self._count = max(1, min(_MAX_PROCESSES, self._count + more))
        _logger.info("the number of processes is %d now", self._count)

    # Service manager

    def _notify(self, **state: object) -> None:
        if self._manager is not None:
            self._manager.send(**state)

    def _say_ready(self, problem: str = "") -> None:
        names = ", ".join(listener.uri for listener in self._listeners[:3])
        status = f"serving on {names}; processes: {self._count}{problem and f'; {problem}'}"
        self._notify(READY=1, MAINPID=os.getpid(), STATUS=status)

    @property
    def _watchdog(self) -> float | None:
        """Seconds within which the service manager's watchdog expects a message, or None."""
        return self._manager.watchdog if self._has_served and self._manager is not None else None

    def _keep_alive(self) -> None:
        """Tell the service manager's watchdog that this process is not stuck."""
        now, watchdog = time.monotonic(), self._watchdog
        if watchdog is not None and now >= self._alive_at:
            self._alive_at = now + watchdog / 2
            self._notify(WATCHDOG=1)

    # Signals

    def _handle_signals(self) -> None:
        try:
            numbers = self._wakeups.recv(4096)
        except BlockingIOError:
            return
        for number in numbers:
            self.handle_signal(number)

    def handle_signal(self, number: int) -> None:
        """Handle a signal."""
        if number == signal.SIGUSR1 and not self._usr1_stops:
            self._reopen_logs()
        elif number in (*STOPPING, signal.SIGQUIT, signal.SIGUSR1):
            self._stop(signal.Signals(number))
        elif self.stopping is not None:
            return
        elif number == signal.SIGHUP:
            self.reload()
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            self._resize(1 if number == signal.SIGTTIN else -1)
        elif number == signal.SIGUSR2:
            self._signal_processes(signal.SIGUSR2)

    def _reopen_logs(self) -> None:
        for problem in reopen_files():
            _logger.warning("%s", problem)
        self._signal_processes(signal.SIGUSR1)

    def _signal_processes(self, number: signal.Signals) -> None:
        for process in self.processes:
            # The signal would end a template, and a process that does not handle signals yet.
            if process.state != "loading" and not process.is_template:
                process.send_signal(number)

    def _stop(self, number: signal.Signals) -> None:
        """Stop at the first signal, and immediately at a second one."""
        now = time.monotonic()
        if self.stopping is None:
            _logger.info("%s: stopping", number.name)
            self.stop(0.0 if number in self.fast else self._grace)
        elif now - self.stopping >= _SAME_SIGNAL:
            _logger.warning("a second signal came (%s): exiting immediately", number.name)
            for process in list(self.processes):
                self.kill_and_wait(process)
            self.status = 1

    def stop(self, grace: float) -> None:
        """Stop all processes. They serve the connections that wait in the backlog.

        Args:
            grace: seconds that running requests have to end.
        """
        self.stopping = time.monotonic()
        self._notify(STOPPING=1, STATUS="stopping")
        for listener in self._listeners:
            listener.unlink()
            listener.refuse()
        for process in self.processes:
            process.stop({"do": "stop", "grace": grace}, grace + _KILL_AFTER)

    def give_up(self, status: int) -> None:
        """Stop because of an error.

        Args:
            status: the exit status.
        """
        self.stop(self._grace)
        self.status = status

    def _kill_overdue(self) -> None:
        """Kill the processes that did not start or stop in time, as one that hangs cannot stop."""
        for process in self.processes:
            if process.kill_at is None or time.monotonic() < process.kill_at:
                continue
            if process.retired:
                _logger.warning("process %d does not stop; killing it", process.pid)
            else:
                _logger.error(
                    "process %d has not loaded the app within %g s; killing it",
                    process.pid,
                    self._start_timeout,
                )
            process.kill_at = None
            process.send_signal(signal.SIGKILL)

    def select_timeout(self) -> float | None:
        """Return the seconds until there is something to do without a message or a signal."""
        now = time.monotonic()
        times = [each.kill_at for each in self.processes if each.kill_at is not None]
        if self._moving or any(each.unread for each in self.processes):
            times.append(now + _RETRY)
        if self._not_before > now and self.stopping is None:
            times.append(self._not_before)
        if self._watchdog is not None:
            times.append(self._alive_at)
        return max(0.0, min(times) - now) if times else None


def _adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends, as those that a template forks."""
    import ctypes

    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def exit_status(status: int) -> int:
    """Return the exit status as a shell shows it: 128 + N for signal N, but 1 for SIGKILL."""
    if status == -signal.SIGKILL:
        return 1
    return status if status >= 0 else 128 - status
