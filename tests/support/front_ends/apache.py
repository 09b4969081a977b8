"""Apache with mod_fcgid and ``examples/apache-fcgid.conf``, which starts the app's processes."""

from __future__ import annotations

import os
from pathlib import Path

from support.front_ends.hosts import APACHE_MODULES, find_module, not_as_root
from support.front_ends.servers import APPS, EXAMPLES, WebServer, find, search_path
from support.processes import Process, ProcessGroup

CHECKED = "VSGI_FCGI_CHECK_CONTRACT"


class ApacheFcgid(WebServer):
    """Apache with mod_fcgid, and an app for all of it.

    Args:
        group: the group that it belongs to.
        app: the app's name, with options in front.
        folder: where the app is.
        extra: lines that are read after the file.
    """

    STDERR_SIGN = "mod_fcgid: stderr:"
    ERROR_LOG = "error.log"

    def __init__(
        self, group: ProcessGroup, app: str, *, folder: Path = APPS, extra: tuple[str, ...] = ()
    ) -> None:
        self._program = find("apache2")
        find_module("fcgid")
        self.group = group
        self._app = f"--chdir {folder} {app}"
        self._extra = extra
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        env = {"STATE": str(group.folder), "PORT": str(self.port), "MODULES": str(APACHE_MODULES)}
        env |= {"EXAMPLES": str(EXAMPLES), "APP": self._app, "PATH": search_path(group)}
        argv = [*not_as_root(), self._program, "-DFOREGROUND"]
        argv += ["-f", str(self._config(group))]
        # mod_fcgid keeps the environment from the app's processes: they would not be known.
        passed = {CHECKED: os.environ.get(CHECKED, ""), **group.mark()}
        lines = [f"FcgidInitialEnv {name} {value or '0'}" for name, value in passed.items()]
        for line in (*lines, *self._extra):
            argv += ["-c", line]
        return group.start(argv, name=name, env=env)

    def _config(self, group: ProcessGroup) -> Path:
        return self._example(group, "apache-fcgid.conf")

    def pids(self) -> set[int]:
        """The app's processes."""
        found = set()
        for pid in self.group.pids():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has just ended
            if any(word.endswith(b"vsgi-fcgi") for word in command):
                found.add(pid)
        return found

    def server_log(self) -> str:
        """The processes inherit the error log: what they log is in it."""
        return self.error_log()
