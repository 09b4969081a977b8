"""Web servers with the output of ``vsgi-fcgi config``, and the server that it names."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from support.commands import run_command
from support.front_ends.hosts import find_module, not_as_root
from support.front_ends.servers import APPS, WebServer, find
from support.processes import Process, ProcessGroup, free_port

APP = "apps.behind_http:app"

PROGRAMS = ("lighttpd", "nginx", "apache", "haproxy", "caddy", "h2o")

PARTS = ("lighttpd", "nginx", "apache", "haproxy", "caddy")
"""Those whose configuration is a part of another one, unless it is to run in place."""

_RUN = {
    "lighttpd": ["-D", "-f"],
    "nginx": ["-e", "stderr", "-c"],
    "apache": ["-DFOREGROUND", "-f"],
    "haproxy": ["-db", "-f"],
    "caddy": ["run", "--adapter", "caddyfile", "--config"],
    "h2o": ["-c"],
}

_CHECK = {
    "lighttpd": ["-tt", "-f"],
    "nginx": ["-t", "-e", "stderr", "-c"],
    "apache": ["-t", "-f"],
    "haproxy": ["-c", "-f"],
    "caddy": ["adapt", "--adapter", "caddyfile", "--config"],
    "h2o": ["-t", "-c"],
}

_APACHE_MODULES = ("mpm_event", "authz_core", "proxy", "proxy_fcgi", "setenvif")

_MAIN = {
    "lighttpd": """\
server.document-root = "FOLDER"
server.upload-dirs = ( "FOLDER" )
server.bind = "127.0.0.1"
server.port = PORT
# Debian's own lighttpd.conf has the first, and conf-available/10-fastcgi.conf, on which the part
# depends, the second.
server.modules += ( "mod_alias", "mod_fastcgi" )
include "FOLDER/part"
""",
    "nginx": """\
daemon off;
pid FOLDER/nginx.pid;
error_log FOLDER/error.log;
events { }
http {
    access_log off;
    client_body_temp_path FOLDER/body_temp;
    proxy_temp_path FOLDER/proxy_temp;
    fastcgi_temp_path FOLDER/fastcgi_temp;
    uwsgi_temp_path FOLDER/uwsgi_temp;
    scgi_temp_path FOLDER/scgi_temp;
    include FOLDER/par?;
}
""",
    "apache": """\
MODULES
ServerRoot FOLDER
ServerName localhost
PidFile FOLDER/apache.pid
ErrorLog FOLDER/error.log
DocumentRoot FOLDER
Mutex file:FOLDER
Include FOLDER/part
""",
    "haproxy": """\
global
    log stdout format raw local0
    CHROOT

defaults
    mode http
    log global
    timeout connect 5s
    timeout client 50s
    timeout server 50s

PART
""",
    "caddy": """\
{
	admin off
}
PART
""",
}
"""The configuration around a part, as in Debian, except for ports and paths."""


def print_config(program: str, *words: str, app: str = APP) -> str:
    """What the command prints."""
    output = run_command(APPS, "config", program, *words, app)
    assert (output.status, output.err) == (0, ""), output
    return output.out


def server_command(text: str) -> list[str]:
    """The words that start the server, which stand in the comment at the top."""
    found = re.search(
        r"^#     (\S*vsgi-fcgi\s.*|\S*python\S* -m vsgi_fcgi .*)$", text, re.MULTILINE
    )
    assert found, text
    return shlex.split(found[1])


def around(program: str, part: str, folder: Path, *, chroot: bool = False) -> Path:
    """Write a configuration with a printed part in it, and return where."""
    (folder / "part").write_text(part)
    modules = "".join(
        f"LoadModule {name}_module {find_module(name)}\n"
        for name in (_APACHE_MODULES if program == "apache" else ())
    )
    # lighttpd has a port of its own besides that of the part, and takes 0 for port 80.
    text = _MAIN[program].replace("PORT", str(free_port()))
    text = text.replace("FOLDER", str(folder)).replace("PART\n", part)
    text = text.replace("MODULES", modules)
    text = text.replace("CHROOT", f"chroot {folder}" if chroot else "")
    path = folder / f"main-{program}"
    path.write_text(text)
    return path


def check(program: str, path: Path) -> None:
    """Have the web server check a file."""
    argv = [find("apache2" if program == "apache" else program), *_CHECK[program], str(path)]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "warn" not in run.stderr.lower(), run.stderr


class Printed(WebServer):
    """A web server with its printed configuration, and the server that this names.

    Args:
        group: the group that it belongs to.
        program: the web server.
        *words: options of the command.
        app: the app.
        standalone: it runs in place, and is no part of something else.
        chroot: HAProxy changes its root to the group's folder.
        change: what somebody does to the text.
    """

    ERROR_LOG = "error.log"

    def __init__(
        self,
        group: ProcessGroup,
        program: str,
        *words: str,
        app: str = APP,
        standalone: bool = True,
        chroot: bool = False,
        change: Callable[[str], str] = str,
    ) -> None:
        self._app = app
        self._change = change
        self._folder = group.folder
        self.program = program
        self._program = find("apache2" if program == "apache" else program)
        self._words = words
        self._standalone = standalone
        self._chroot = chroot
        self._server: Process | None = None
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        program, folder = self.program, self._folder
        words = [*self._words, "--http", f"127.0.0.1:{self.port}"]
        if self._standalone:
            words += ["--standalone", str(folder)]
        self.text = self._change(print_config(program, *words, app=self._app))
        # Folders of Debian's, which a test leaves alone.
        for debian in ("/run/lighttpd", "/var/lib/haproxy"):
            self.text = self.text.replace(debian, str(folder))
        path = folder / f"{program}.conf"
        path.write_text(self.text)
        if not self._standalone:
            path = around(program, self.text, folder, chroot=self._chroot)
        if program != "lighttpd" and self._server is None:
            self._server = group.start(server_command(self.text), name="server", cwd=Path("/"))
            self._server.wait_for_log("listening on fcgi")
        argv = [self._program, *_RUN[program], str(path)]
        if program == "nginx" and os.geteuid() == 0:
            argv += ["-g", "user root;"]
        if program in ("apache", "h2o"):
            argv = [*not_as_root(), *argv]
        env = {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        return group.start(argv, name=name, env=env)

    def server_log(self) -> str:
        return self.process.log() if self._server is None else self._server.log()
