"""A process that loads the app and serves, as the supervisor sees it."""

from __future__ import annotations

import _socket
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from vsgi_fcgi.supervisor.config import SUPERVISED_VARIABLE
from vsgi_fcgi.supervisor.messages import Message, receive, send

_MAX_UNREAD = 4096
"""Maximum number of published messages that wait for a process. More are dropped."""

_MAX_UNREAD_BYTES = 16 * 1024 * 1024
"""Maximum bytes of these messages. More are dropped."""


class AppProcess:
    """A process that is connected with the supervisor by a socket of messages.

    When the socket closes, the process knows that the supervisor has ended.

    Args:
        generation: the number of the reload that it belongs to.
        slot: its slot in the table of the numbers of connections; -1 if it has none.
        is_template: it only loads the app, and other processes are forked from it.

    Attributes:
        started: start time in seconds since the epoch.
        born: start time on the monotonic clock, in seconds.
        served: when it began to serve, on the monotonic clock; None before.
        state: its last reported state: ``loading``, ``serving`` or ``failed``.
        files: the files that it has reported as imported.
        leaving: it asked for a replacement.
        retired: it was asked to stop.
        idle: it had nothing to do for ``--idle-exit`` seconds.
        kill_at: monotonic time at which to kill it; None if it was not asked to stop.
        closed: it has closed the socket and sends no more messages.
        unread: published messages that wait until it reads.
        dropped: published messages that it did not get, until this was logged.
        pid: the process id; 0 until a forked process has reported it.
        status: exit status, or minus the number of a signal; None while it runs.
    """

    def __init__(self, generation: int, slot: int, *, is_template: bool = False) -> None:
        self.generation = generation
        self.slot = slot
        self.is_template = is_template
        self.started = time.time()
        self.born = time.monotonic()
        self.served: float | None = None
        self.state = "loading"
        self.files: set[str] = set()
        self.leaving = False
        self.retired = False
        self.idle = False
        self.kill_at: float | None = None
        self.closed = False
        self.unread: deque[Message] = deque()
        self._unread_bytes = 0
        self.dropped = 0
        self.pid = 0
        self.status: int | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._control, self._theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._control.setblocking(False)

    def start(
        self,
        command: Sequence[str],
        folder: str | None,
        given: Mapping[str, object],
        fds: Sequence[int],
    ) -> None:
        """Start the process.

        Args:
            command: the command line.
            folder: the working directory; None for that of this process.
            given: what `vsgi_fcgi.supervisor.child.Supervised` gets, as JSON.
            fds: the descriptors that it names.

        Raises:
            OSError: the system allows no more processes, or no more descriptors.
        """
        control = self._theirs.fileno()
        given = {
            **given,
            "control": control,
            "slot": self.slot,
            "is_template": self.is_template,
        }
        try:
            self._popen = subprocess.Popen(  # nosec B603 # the command line of this process
                command,
                cwd=folder,
                env={**os.environ, SUPERVISED_VARIABLE: json.dumps(given)},
                pass_fds=[control, *fds],
            )
        except BaseException:
            self._control.close()
            raise
        finally:
            self._theirs.close()
        self.pid = self._popen.pid

    def fork(self, slot: int) -> AppProcess | None:
        """Let a template fork a process that serves.

        Args:
            slot: the slot of the process in the table of the numbers of connections.

        Returns:
            The process; None if the template takes no messages.
        """
        process = AppProcess(self.generation, slot)
        sent = self.tell({"do": "fork", "slot": slot}, [process._theirs.fileno()])
        process._theirs.close()
        if sent:
            return process
        process.close()
        return None

    @property
    def is_up(self) -> bool:
        """Whether it accepts connections and may continue to do so."""
        up = self.state != "loading" and not self.retired and self.status is None
        return up and not self.is_template

    def fileno(self) -> int:
        """Return the descriptor that is readable when there are messages."""
        return self._control.fileno()

    def messages(self) -> Iterator[tuple[Message, list[int]]]:
        """Yield the messages since the last call. Sets `closed` at the end of the socket."""
        while not self.closed:
            try:
                found = receive(self._control)
            except BlockingIOError:
                return
            if found is None:
                self.closed = True
            else:
                yield found

    def tell(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Send a message.

        Returns:
            Whether it was sent. It was not if the process has ended or reads no messages.
        """
        try:
            send(self._control, message, fds)
        except OSError:
            return False
        return True

    def relay(self, message: Message) -> None:
        """Send what another process has published, now or when this process reads."""
        if not self.unread and self.tell(message):
            return
        size = self._unread_bytes + len(message["published"])
        if len(self.unread) < _MAX_UNREAD and size <= _MAX_UNREAD_BYTES:
            self.unread.append(message)
            self._unread_bytes = size
        else:
            self.dropped += 1

    def relay_unread(self) -> None:
        """Send published messages that wait, as many as it takes."""
        while self.unread and self.tell(self.unread[0]):
            self._unread_bytes -= len(self.unread.popleft()["published"])

    def stop(self, message: Message, within: float) -> None:
        """Ask the process to stop.

        Args:
            message: how.
            within: seconds after which it may be killed.
        """
        self.retired = True
        kill_at = time.monotonic() + within
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)
        if not self.tell(message):
            self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        # The status is known as soon as the number may belong to another process.
        if self.status is None and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def ended(self, status: int) -> None:
        """Take note of the end.

        Args:
            status: the exit status, or minus the number of a signal.
        """
        self.status = status
        if self._popen is not None:
            # It must not wait for the process again.
            self._popen.returncode = status

    def close(self) -> None:
        """Close the socket to the process, which has ended."""
        self.unread.clear()
        self._control.close()

    def describe_end(self) -> str:
        """Describe how it has ended."""
        status = self.status or 0
        if status >= 0:
            return f"status {status}"
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"


def starting_command() -> list[str]:
    """Return the command line that starts this program again.

    A script is started directly if its first line names the interpreter that runs it. If the script
    is reached through a symbolic link to a release, a reload then uses the Python of the new
    release, with its packages. Otherwise it is this interpreter, with the same flags.
    """
    words = sys.orig_argv
    try:
        with open(words[1], "rb") as file:
            first = file.readline(1024)
    except (OSError, IndexError):
        first = b""
    if first.strip() == b"#!" + os.fsencode(words[0]) and os.access(words[1], os.X_OK):
        return words[1:]
    return [sys.executable, *words[1:]]
