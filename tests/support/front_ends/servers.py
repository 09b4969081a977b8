"""Real web servers in front of the real server, run with the files of ``examples/``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vsgi_fcgi
from support import recordings as recordings_of
from support.accounts import PublicPython
from support.http import connect
from support.processes import Process, ProcessGroup, free_port, wait_until

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
APPS = ROOT / "tests"

PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"

DIES_OF_STDERR_BEFORE = (2, 6, 14)
"""The version of HAProxy that survives STDERR; our server sends none to those before."""

_ATTEMPTS = 5
"""Ports that are tried: another process may take one between its choice and its use."""


def find(program: str) -> str:
    """Where a program is.

    Without it the test is skipped, and fails where REQUIRE_FRONT_ENDS is 1, unless it is one of
    ABSENT_FRONT_ENDS: those that this release of Debian does not have.
    """
    path = shutil.which(program, path=PROGRAMS)
    if path is not None:
        return path
    message = f"{program} is not installed"
    absent = os.environ.get("ABSENT_FRONT_ENDS", "").split()
    if os.environ.get("REQUIRE_FRONT_ENDS") == "1" and program not in absent:
        pytest.fail(f"{message}, and REQUIRE_FRONT_ENDS is 1")
    pytest.skip(message)


def program_version(program: str, option: str) -> tuple[int, ...]:
    """Return the first version number that a program prints of itself."""
    printed = subprocess.run([program, option], capture_output=True, text=True, check=True)
    found = re.search(r"\d+(?:\.\d+)+", printed.stdout + printed.stderr)
    assert found is not None, f"{program} {option} prints no version"
    return tuple(map(int, found[0].split(".")))


def command(group: ProcessGroup) -> Path:
    """Return the installed command ``vsgi-fcgi``, or else a command for the tested code."""
    installed = Path(sys.executable).with_name("vsgi-fcgi")
    if installed.exists():
        return installed
    script = group.folder / "bin" / "vsgi-fcgi"
    if not script.exists():
        script.parent.mkdir()
        root = str(Path(vsgi_fcgi.__file__).parents[1])
        script.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {root!r})\n"
            "from vsgi_fcgi.cli import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)
    return script


def search_path(group: ProcessGroup) -> str:
    """A PATH on which ``vsgi-fcgi`` is."""
    return f"{command(group).parent}:{os.environ.get('PATH', os.defpath)}"


class AppServer:
    """A ``vsgi-fcgi`` of its own, listening on ``app.sock`` and on TCP.

    Its recordings are attached to the reports of tests that fail (`support.recordings`).

    Args:
        group: the group that it belongs to.
        app: the app's name.
        *options: more options.
        folder: where the app is.
        python: the interpreter; None for the installed command.
    """

    def __init__(
        self,
        group: ProcessGroup,
        app: str,
        *options: str,
        folder: Path = APPS,
        python: PublicPython | None = None,
    ) -> None:
        self.group = group
        self.socket = group.folder / "app.sock"
        argv = [python.executable, "-m", "vsgi_fcgi"] if python else [str(command(group))]
        argv += ["--chdir", str(folder), "--socket", str(self.socket)]
        argv += ["--bind", "127.0.0.1:0", *options]
        recordings = group.folder / "recordings"
        if "--record" not in options:
            argv += recordings_of.record(recordings)
        env = python.environ if python else None
        self.process = group.start([*argv, app], name="server", env=env)
        recordings_of.watch(self.process, recordings)
        log = self.process.wait_for_log("listening on fcgi://")
        found = re.search(r"fcgi://127\.0\.0\.1:(\d+)/", log)
        assert found is not None
        self.port = int(found[1])

    @property
    def pid(self) -> int:
        return self.process.pid

    def sockets(self) -> set[str]:
        """The sockets that it has open, each by a name that no other will have."""
        links = set()
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                links.add(os.readlink(link))
            except FileNotFoundError:
                continue
        return {link for link in links if link.startswith("socket:")}


class WebServer:
    """A web server with an app behind it.

    Attributes:
        STDERR_SIGN: what stands before the app's STDERR in its error log, as a pattern;
            None if it gets none.
        MAX_CHUNKED: bytes of a body without Content-Length that it passes on.
        ERROR_LOG: a file in the folder of its group, if it writes more than its own streams.
        EDITS: replacements in the file of ``examples/``, for another mode.
        process: the web server.
        port: its port on loopback.
    """

    STDERR_SIGN: str | None
    MAX_CHUNKED = 1 << 30
    ERROR_LOG = ""
    EDITS: tuple[tuple[str, str], ...] = ()
    process: Process
    port: int

    def error_log(self) -> str:
        """What the web server wrote to its error log."""
        log = self._log_folder / self.ERROR_LOG
        return self.process.log() + (log.read_text(errors="replace") if log.is_file() else "")

    def server_log(self) -> str:
        """What our server wrote to its log."""
        return self.process.log()

    def _example(self, group: ProcessGroup, name: str) -> Path:
        """Return where a file of ``examples/`` is, or a copy of it with the edits."""
        if not self.EDITS:
            return EXAMPLES / name
        text = (EXAMPLES / name).read_text()
        for old, new in self.EDITS:
            assert old in text, f"{old} is not in {name}"
            text = text.replace(old, new)
        copy = group.folder / f"edited-{name}"
        copy.write_text(text)
        return copy

    def _start(self, group: ProcessGroup) -> None:
        self._log_folder = group.folder
        for attempt in range(_ATTEMPTS):
            self.port = free_port()
            self.process = self._spawn(group, f"{type(self).__name__.lower()}{attempt}")
            if wait_until(self._answers, "the web server to accept or end") == "yes":
                return
            assert "in use" in self.error_log(), self.error_log()
        raise AssertionError("no free port was found")

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        raise NotImplementedError

    def _answers(self) -> str:
        if not self.process.running:
            return "no"
        try:
            connect(self.port).close()
        except ConnectionRefusedError:
            return ""
        return "yes"


class Lighttpd(WebServer):
    """lighttpd with ``examples/lighttpd.conf``, which spawns the server on descriptor 0.

    Args:
        group: the group that it belongs to.
        app: the app's name, with options in front.
        folder: where the app is.
        extra: lines to be read after the file.
        procs: how many processes serve the app.
    """

    STDERR_SIGN = "FastCGI-stderr:"

    def __init__(
        self,
        group: ProcessGroup,
        app: str,
        *,
        folder: Path = APPS,
        extra: str = "",
        procs: int = 1,
    ) -> None:
        self._program = find("lighttpd")
        self._procs = procs
        self._app = f"--chdir {folder} {app}"
        self._config = EXAMPLES / "lighttpd.conf"
        if extra:
            including = group.folder / "lighttpd.conf"
            including.write_text(f'include "{self._config}"\n{extra}\n')
            self._config = including
        self.state = group.folder / "state"
        self.state.mkdir()
        self._start(group)
        log = self.process.wait_for_log("listening on fcgi+fd://0/")
        found = re.search(r"(\d+) INFO listening on", log)
        assert found is not None
        self.server_pid = int(found[1])

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        env = {"PORT": str(self.port), "STATE": str(self.state), "APP": self._app}
        env |= {"PROCS": str(self._procs), "PATH": search_path(group)}
        argv = [self._program, "-D", "-f", str(self._config)]
        return group.start(argv, name=name, cwd=ROOT, env=env)


class Nginx(WebServer):
    """nginx with ``examples/nginx.conf``, in front of a server that runs already.

    The file is found through a link, so that the ports in the same folder are those of the test.

    Args:
        group: the group that it belongs to; the server's socket is in its folder.
        server: the server.
        user: whom its workers become if root starts it.
    """

    STDERR_SIGN = "FastCGI sent in stderr:"
    ERROR_LOG = "error.log"

    def __init__(self, group: ProcessGroup, server: AppServer, user: str = "root") -> None:
        self._program = find("nginx")
        self._folder = group.folder
        self._server = server
        self._user = user
        (group.folder / "nginx.conf").symlink_to(self._example(group, "nginx.conf"))
        (group.folder / "nginx-backend.conf").write_text(f"server 127.0.0.1:{server.port};\n")
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        (self._folder / "nginx-port.conf").write_text(f"listen 127.0.0.1:{self.port};\n")
        argv = [self._program, "-p", ".", "-c", str(self._folder / "nginx.conf"), "-e", "stderr"]
        if os.geteuid() == 0:
            # Left alone they become another user, who may not enter a folder of pytest's.
            argv += ["-g", f"user {self._user};"]
        return group.start(argv, name=name)

    def server_log(self) -> str:
        return self._server.process.log()


def _haproxy_stderr_sign() -> str | None:
    """Return "" if HAProxy gets STDERR: its log has the unchanged text, without a marker."""
    program = shutil.which("haproxy", path=PROGRAMS)
    known = program is not None and program_version(program, "-v") >= DIES_OF_STDERR_BEFORE
    return "" if known else None


class HAProxy(WebServer):
    """HAProxy with ``examples/haproxy.cfg``, in front of a server that runs already.

    Args:
        group: the group that it belongs to.
        server: the server.
        socket: the socket to connect to, if a program is in between.
    """

    STDERR_SIGN = _haproxy_stderr_sign()
    # It has to fit a buffer of 16 KiB, or is answered 400.
    MAX_CHUNKED = 12000

    def __init__(self, group: ProcessGroup, server: AppServer, socket: Path | None = None) -> None:
        self._program = find("haproxy")
        self.version = program_version(self._program, "-v")
        self._server = server
        self._socket = socket or server.socket
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        # APP_SOCKET is relative as in the file: a path of a test may be too long for a socket.
        env = {"PORT": str(self.port), "APP_SOCKET": os.path.relpath(self._socket, group.folder)}
        argv = [self._program, "-db", "-f", str(self._example(group, "haproxy.cfg"))]
        return group.start(argv, name=name, env=env)

    def server_log(self) -> str:
        return self._server.process.log()
