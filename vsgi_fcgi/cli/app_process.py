"""The process that runs the app under ``--reload``, as its parent sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from vsgi_fcgi.server.listeners import Listener

VARIABLE = "VSGI_FCGI_RELOAD_FDS"
"""The environment variable that tells a child which descriptors it was given."""

MESSAGE_SIZE = 64 * 1024
"""Bytes of a message of a child, at the most."""


class AppProcess:
    """One child: its own interpreter, with the listening sockets of its parent.

    The socket between the two is one of messages (JSON). By its end, the child learns that the
    parent is gone.

    Args:
        command: the command line that starts it.
        folder: where to start it; None for here.
        listeners: what it is to accept on.

    Attributes:
        started: when, in seconds of the epoch.
        files: what it has said that it imported.
        state: what it has said of itself: ``loading``, ``serving`` or ``failed``.
        kill_at: the monotonic time at which it has had long enough to stop, once it was told to.
        silent: it will not say anything more.

    Raises:
        OSError: the system allows no more processes, or no more descriptors.
    """

    def __init__(
        self, command: Sequence[str], folder: str | None, listeners: Sequence[Listener]
    ) -> None:
        self.started = time.time()
        self.files: set[str] = set()
        self.state = "loading"
        self.kill_at: float | None = None
        self.silent = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        shared = [(listener.sock.fileno(), listener.uri) for listener in listeners]
        given = {"control": theirs.fileno(), "listeners": shared}
        try:
            self._popen = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, VARIABLE: json.dumps(given)},
                pass_fds=[theirs.fileno(), *(fd for fd, _ in shared)],
            )
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()

    def fileno(self) -> int:
        """The descriptor that is readable when `receive` has something."""
        return self._control.fileno()

    def receive(self) -> list[dict[str, Any]]:
        """What it has said since this was last asked; `silent` is set when nothing will follow."""
        said: list[dict[str, Any]] = []
        while not self.silent:
            try:
                data = self._control.recv(MESSAGE_SIZE)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if data:
                said.append(json.loads(data))
            else:
                self.silent = True
        return said

    def status(self) -> int | None:
        """Its exit status, minus the number of the signal that ended it; None if it runs."""
        return self._popen.poll()

    def ask_to_stop(self, grace: float) -> None:
        """Have it stop gracefully.

        Args:
            grace: seconds after which `kill_at` has come.
        """
        if self.kill_at is None:
            self.kill_at = time.monotonic() + grace
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()

    def wait(self) -> None:
        """Wait for its end."""
        self._popen.wait()

    def close(self) -> None:
        """Let go of it; it has ended."""
        self._control.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._popen.pid
