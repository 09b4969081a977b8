"""An app under ``--reload`` whose files a test edits."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from pathlib import Path

from support.fcgi.peer import Address, Answer, Client
from support.front_ends.servers import command
from support.processes import Process, ProcessGroup, wait_until

SAYS = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [{0!r}.encode()]
"""


class Project:
    """A folder with an app, which is edited.

    Args:
        folder: where it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._saves = 0

    def save(self, name: str, text: str, *, at: float | None = None) -> None:
        """Save a file as many editors do: a new one that takes the place of the old one.

        Args:
            name: its path in the folder.
            text: the content.
            at: when it says that it was saved, in seconds of the epoch; None for now.
        """
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        if name.endswith(".py"):
            # Python takes a compiled module for current if the time of its source, in whole
            # seconds, and the size are those of the file. So no two saves have the same size.
            self._saves += 1
            text += "\n" * (100 * self._saves)
        new.write_text(text)
        if at is not None:
            os.utime(new, (at, at))
        new.replace(path)

    def says(self, text: str) -> None:
        """Save an app that answers a text."""
        self.save("app.py", SAYS.format(text))


class Reloading:
    """The command with ``--reload``, on a UNIX socket.

    Args:
        group: the group that it belongs to.
        project: its working folder.
        *options: more options.
        app: the app's name; None for no argument.
        stdin: the socket to be its descriptor 0, on which it listens instead.
        reload: whether to use that option.
    """

    def __init__(
        self,
        group: ProcessGroup,
        project: Project,
        *options: str,
        app: str | None = "app",
        stdin: socket.socket | None = None,
        reload: bool = True,
    ) -> None:
        self.group = group
        self.project = project
        self.socket = group.folder / "app.sock"
        self.address: Address = str(self.socket)
        where = ["--socket", self.address]
        if stdin is not None:
            self.address = stdin.getsockname()
            where = []
        argv = [sys.executable, str(command(group)), *where, *options, *([app] if app else [])]
        if reload:
            argv.append("--reload")
        # What Python has compiled of an older version must not be in the way of the newer one.
        env = {"PYTHONDONTWRITEBYTECODE": ""}
        self.process: Process = group.start(
            argv, name="server", cwd=project.folder, stdin=stdin, env=env
        )
        if stdin is None:
            wait_until(self._listens, "it to listen", log=self.log)

    def _listens(self) -> bool:
        if not self.process.running:
            return True
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def ready(self) -> None:
        """Wait until the first child serves."""
        self.process.wait_for_log("listening on ")

    def connect(self) -> Client:
        """Open a connection; it waits while no process accepts."""
        return Client(self.address)

    def get(self, path: str = "/") -> Answer:
        """Ask, over a connection of its own."""
        with self.connect() as client:
            return client.get(path)

    def wait_for(self, text: str, path: str = "/") -> Answer:
        """Ask until the answer holds a text."""

        def asked() -> Answer | None:
            answer = self.get(path)
            return answer if text.encode() in answer.body else None

        answer = wait_until(asked, f"{text!r} as an answer", 20, log=self.log)
        assert answer is not None
        return answer

    def log(self) -> str:
        return self.process.log()

    def changes(self) -> list[str]:
        """What it says has changed, restart by restart."""
        return re.findall(r"INFO (.*) changed; restarting the app", self.log())

    def children(self) -> list[int]:
        """The processes that serve, or end requests."""
        pid = self.process.pid
        try:
            found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        return [child for child in map(int, found) if self.group.owns(child)]

    def interrupt(self) -> None:
        """Press Ctrl-C: every process in the foreground gets a SIGINT."""
        os.killpg(self.process.pid, signal.SIGINT)
