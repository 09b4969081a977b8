"""A supervisor that reloads under load, again and again, with a connection count of its own."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from support.front_ends.servers import APPS, command, find
from support.processes import Process, ProcessGroup, free_port, wait_until
from support.restarts import Restarts

FRONTS = ("client", "nginx", "haproxy", "lighttpd")
"""Who asks. lighttpd starts the supervisor itself, with the socket on descriptor 0."""

_LIGHTTPD = """
server.modules = ("mod_fastcgi")
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{folder}"
server.errorlog = "/dev/stderr"
fastcgi.server = ("/" => ((
    "bin-path" => "{command}",
    "socket" => "{folder}/app.sock",
    "max-procs" => 1,
    "check-local" => "disable",
    "fix-root-scriptname" => "enable",
)))
"""


class Reloads(Restarts):
    """Asks without a pause, each request a POST of its own, while a supervisor reloads.

    Args:
        group: the group of the processes.
        front: one of `FRONTS`.
        clients: how many ask at a time.
        largest: bytes of the largest body.
        count: the number of processes.

    Attributes:
        closed: connections that had been open before the first reload, and were closed until the
            last one.
        kept: connections that were open before the first reload.
    """

    def __init__(
        self,
        group: ProcessGroup,
        front: str,
        clients: int = 8,
        largest: int = 100_000,
        count: int = 2,
    ) -> None:
        super().__init__(group, front, clients, largest)
        self.closed = self.kept = 0
        self._pid_file = group.folder / "app.pid"
        self._argv = [str(command(group)), "--chdir", str(APPS), "--threads", "2"]
        self._argv += ["--processes", str(count), "--pid-file", str(self._pid_file)]
        self._argv += ["apps.once:app"]
        self._supervisor: Process | None = None

    def _start_front(self) -> Callable[[], None]:
        if self._front != "lighttpd":
            self._supervisor = self._begin(self._argv, self._listener)
            return super()._start_front()
        folder, port = self._group.folder, free_port()
        conf = folder / "lighttpd.conf"
        (folder / "app.sock").unlink()
        conf.write_text(_LIGHTTPD.format(port=port, folder=folder, command=" ".join(self._argv)))
        argv = [find("lighttpd"), "-D", "-f", str(conf)]
        self._supervisor = self._group.start(argv, name="process-1", env=self._environ)
        self._supervisor.wait_for_log("listening on", 20)
        return lambda: self._ask_http(port)

    @property
    def log(self) -> str:
        """The log of the supervisor and of its processes."""
        assert self._supervisor is not None
        return self._supervisor.log()

    def _connections(self) -> set[str]:
        """The connections to the app's socket, by their inode numbers."""
        path = str(self._group.folder / "app.sock")
        rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
        # 03 is SS_CONNECTED.
        return {row[6] for row in rows if row[-1] == path and row[5] == "03"}

    def processes(self) -> list[int]:
        """The processes that serve."""
        pid = self._pid_file.read_text().strip()
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def reload(self) -> None:
        """Reload, and wait until all processes are new."""
        before = self.log.count("reloaded: ")
        os.kill(int(self._pid_file.read_text()), signal.SIGHUP)
        wait_until(lambda: self.log.count("reloaded: ") > before, "a reload", 60)

    def run(self, reloads: int, every: float, act: Callable[[], object] | None = None) -> None:
        """Reload so often, under load.

        Args:
            reloads: how often.
            every: seconds between the end of a reload and the next one.
            act: what is done each time; None for a reload.
        """
        asking = threading.Thread(target=self._start_front())
        asking.start()
        try:
            wait_until(lambda: len(self.answered) >= 20 * self._clients, "the first answers", 60)
            before = self._connections()
            for _ in range(reloads):
                (act or self.reload)()
                time.sleep(every)
            self.kept = len(before)
            self.closed = len(before - self._connections())
        finally:
            self._end = True
            asking.join(60)
            self._listener.close()
            self._front_listener.close()
        assert not asking.is_alive()
        assert self._supervisor is not None
        os.kill(int(self._pid_file.read_text()), signal.SIGTERM)
        if self._front != "lighttpd":
            self.statuses.append(self._supervisor.wait(40))
