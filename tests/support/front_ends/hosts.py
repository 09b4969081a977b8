"""Web hosts that start the script of an app: the files of ``examples/shared-host/``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.front_ends.servers import APPS, EXAMPLES, WebServer, command, find
from support.http import Answer, Body, request
from support.processes import Process, ProcessGroup

SHARED_HOST = EXAMPLES / "shared-host"
APACHE_MODULES = Path("/usr/lib/apache2/modules")


def install(group: ProcessGroup, folder: Path, app: str = "apps.routes:app") -> None:
    """Follow the how-to: copy the files, and make the changes that it names.

    Args:
        group: the group that runs it.
        folder: where the web server looks; its parent is not touched.
        app: the app.
    """
    module, name = app.split(":")
    for source in SHARED_HOST.iterdir():
        target = folder / source.name
        text = source.read_text()
        if source.suffix == ".fcgi":
            text = replaced(text, "/home/you/venv/bin/python", sys.executable)
            text = replaced(text, "str(Path(__file__).resolve().parent.parent)", repr(str(APPS)))
            text = replaced(text, "from hello import app", f"from {module} import {name}")
        elif source.suffix == ".cgi":
            text = replaced(text, "/home/you/venv/bin/vsgi-fcgi", str(command(group)))
            text = replaced(text, '"$(dirname "$0")/.."', str(APPS))
            text = replaced(text, "hello:app", app)
        target.write_text(text)
        shutil.copymode(source, target)


def replaced(text: str, old: str, new: str) -> str:
    """Return the text of an example with one replacement; the old text must occur once."""
    assert text.count(old) == 1, f"{old} is not once in the example"
    return text.replace(old, new)


class Host(WebServer):
    """A web server that starts the script.

    Attributes:
        base: the path of the script, which is where the app is mounted.
        folder: the document root, with the script in it.
    """

    base = "/app.fcgi"
    folder: Path

    def request(
        self, path: str, *, method: str = "GET", body: Body = None, **headers: str
    ) -> Answer:
        """Send a request for a path of the app."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(self.port, self.base + path, method=method, body=body, headers=named)


class LighttpdCgi(Host):
    """lighttpd with ``lighttpd.conf`` of the example, which runs the script as CGI.

    Args:
        group: the group that it belongs to.
        base: the script.
        extra: lines to be read after the file.
    """

    def __init__(self, group: ProcessGroup, base: str = "/app.fcgi", extra: str = "") -> None:
        self._program = find("lighttpd")
        self.base = base
        self.folder = group.folder / "docs"
        self.folder.mkdir()
        install(group, self.folder)
        with (self.folder / "lighttpd.conf").open("a") as file:
            file.write(f'server.upload-dirs = ( "{group.folder}" )\n{extra}\n')
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        argv = [self._program, "-D", "-f", "lighttpd.conf"]
        return group.start(argv, name=name, cwd=self.folder, env={"PORT": str(self.port)})


class LighttpdFastCgi(LighttpdCgi):
    """lighttpd that starts the very same script with the socket on descriptor 0."""

    def __init__(self, group: ProcessGroup) -> None:
        script = f'"bin-path" => "{group.folder}/docs/app.fcgi", "max-procs" => 1'
        socket = f'"socket" => "{group.folder}/app.sock", "check-local" => "disable"'
        extra = 'cgi.assign := ()\nserver.modules += ( "mod_fastcgi" )\n'
        extra += f'fastcgi.server = ( "/app.fcgi" => (( {script}, {socket} )) )'
        super().__init__(group, extra=extra)


_APACHE = """
ServerRoot "{folder}"
ServerName localhost
Listen 127.0.0.1:{port}
PidFile "{folder}/httpd.pid"
ErrorLog "{folder}/error.log"
TypesConfig /dev/null
Mutex file:{folder}
DocumentRoot "{folder}/docs"
LogLevel info
<Directory "{folder}/docs">
    AllowOverride All
    Require all granted
</Directory>
{modules}
{more}
"""


class Apache(Host):
    """Apache with mod_fcgid and the ``.htaccess`` of the example.

    Args:
        group: the group that it belongs to.
        more: lines of the configuration.
    """

    base = ""
    ERROR_LOG = "error.log"
    MODULE = "fcgid"
    _OWN = "FcgidIPCDir {folder}/fcgid\nFcgidProcessTableFile {folder}/fcgid/shm\n"

    def __init__(self, group: ProcessGroup, more: str = "") -> None:
        self._program = find("apache2")
        find_module(self.MODULE)
        self._more = self._OWN.format(folder=group.folder) + more
        self._folder = group.folder
        (group.folder / "fcgid").mkdir()
        self.folder = group.folder / "docs"
        self.folder.mkdir()
        install(group, self.folder)
        self._start(group)

    def server_log(self) -> str:
        return self.error_log()

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        names = ("mpm_prefork", "authz_core", "alias", "env", "mime", "rewrite", self.MODULE)
        modules = "\n".join(f"LoadModule {name}_module {find_module(name)}" for name in names)
        config = self._folder / "httpd.conf"
        config.write_text(
            _APACHE.format(folder=self._folder, port=self.port, modules=modules, more=self._more)
        )
        argv = [*not_as_root(), self._program, "-DFOREGROUND", "-f", str(config)]
        return group.start(argv, name=name)


class ApacheCgi(Apache):
    """Apache without mod_fcgid: one word of ``.htaccess`` is another one, as the how-to says."""

    MODULE = "cgi"
    _OWN = ""

    def _start(self, group: ProcessGroup) -> None:
        access = self.folder / ".htaccess"
        access.write_text(replaced(access.read_text(), "fcgid-script", "cgi-script"))
        super()._start(group)


def not_as_root() -> list[str]:
    """What runs Apache as another user, which it insists on, with the files of this one.

    The interpreter may be where only root can look.
    """
    if os.geteuid() != 0:
        return []
    argv = ["unshare", "--user", "--"]
    if subprocess.run([*argv, "true"], check=False, capture_output=True).returncode:
        pytest.skip(
            "Apache does not run as root, and this process may make no user namespace: start the"
            " tests as another user, or not inside a chroot"
        )
    return argv


def find_module(name: str) -> Path:
    """Where a module of Apache is; the test is skipped or fails without it, as by `find`."""
    path = APACHE_MODULES / f"mod_{name}.so"
    if not path.exists():
        find(f"apache2's mod_{name}")
    return path
