"""The command with ``--processes``, whose processes are told apart by their answers."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

from support.processes import ProcessGroup, wait_until
from support.project import SAYS, Project, Reloading

SAYS_PID = SAYS.format("?").replace("'?'", "repr((__import__('os').getpid(), {}))")


def pids_app(value: str = "None") -> str:
    """An app that answers its process id and a value."""
    return SAYS_PID.format(value)


class Supervised(Reloading):
    """The command with ``--processes``, on a UNIX socket."""

    def __init__(
        self,
        group: ProcessGroup,
        project: Project,
        count: str = "2",
        *options: str,
        stdin: socket.socket | None = None,
    ) -> None:
        super().__init__(group, project, "--processes", count, *options, stdin=stdin, reload=False)

    def ready(self, count: int = 2) -> None:
        """Wait until so many processes serve that have begun so far."""
        wait_until(lambda: self.served() >= count, f"{count} processes", 20, log=self.log)

    def served(self) -> int:
        """How many processes have begun to serve."""
        return self.log().count("listening on ")

    def answers(self) -> set[str]:
        """What the processes answer, over many connections."""
        return {self.get().body.decode() for _ in range(20)}

    def wait_for_answers(self, right: Callable[[set[str]], bool]) -> None:
        """Wait until what the processes answer is right."""
        wait_until(lambda: right(self.answers()), "the right answers", 20, log=self.log)

    def reload(self) -> None:
        """Send SIGHUP, and wait until all processes are new and the old ones are asked to end."""
        before = self.log().count("reloaded: ")
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log().count("reloaded: ") > before, "a reload", 20, log=self.log)
