"""Scripts that were written for flup, with the changed import line."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from support.front_ends.hosts import replaced
from support.front_ends.servers import APPS, EXAMPLES, AppServer, WebServer, find
from support.processes import Process, ProcessGroup, wait_until

_SCRIPT = """\
#!{python}
import sys

sys.path.insert(0, {apps!r})
from apps.routes import app

from vsgi_fcgi.flup.{module} import WSGIServer

server = WSGIServer(app, {arguments})
while server.run():
    print("again", flush=True)
print("the end of the script", file=sys.stderr)
"""


def write_script(folder: Path, arguments: str = "", module: str = "fcgi") -> Path:
    """Write a script that serves the app of the tests.

    Args:
        folder: the folder for the script.
        arguments: what it tells the server.
        module: the module of flup that it names.
    """
    script = folder / "script.fcgi"
    values = {"python": sys.executable, "apps": str(APPS)}
    script.write_text(_SCRIPT.format(**values, arguments=arguments, module=module))
    script.chmod(0o755)
    return script


class FlupScript(AppServer):
    """Such a script that listens on ``app.sock``, or is given a socket as its descriptor 0.

    Args:
        group: the group that it belongs to.
        arguments: arguments of the server, in addition to the address.
        module: the module of flup that it names.
        stdin: the socket to be its descriptor 0.
        env: variables of its environment.
    """

    def __init__(
        self,
        group: ProcessGroup,
        arguments: str = "",
        module: str = "fcgi",
        *,
        stdin: socket.socket | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.group = group
        # No server of these tests listens on TCP: nginx only has to read a number.
        self.port = 9
        self.socket = group.folder / "app.sock"
        if stdin is None:
            arguments = f"bindAddress={str(self.socket)!r}, {arguments}"
        script = write_script(group.folder, arguments, module)
        self.process = group.start([str(script)], name="server", stdin=stdin, env=env)
        if stdin is None:
            wait_until(self.listens, "the script to listen")

    def listens(self) -> bool:
        """Whether it can be connected to; it must not have ended."""
        return listens(self.process, self.socket)


def listens(process: Process, path: Path) -> bool:
    """Whether a process can be connected to, which must not have ended."""
    assert process.running, process.log()
    return connects(path)


def connects(path: Path) -> bool:
    """Whether somebody listens: the file of a socket is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class LighttpdWithScript(WebServer):
    """lighttpd with ``examples/flup/lighttpd.conf``, which starts a script.

    Args:
        group: the group that it belongs to.
        script: the script.
    """

    def __init__(self, group: ProcessGroup, script: Path) -> None:
        self._program = find("lighttpd")
        self._script = script
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        env = {"PORT": str(self.port), "STATE": str(group.folder), "SCRIPT": str(self._script)}
        argv = [self._program, "-D", "-f", str(EXAMPLES / "flup" / "lighttpd.conf")]
        return group.start(argv, name=name, env=env)


def install_example(folder: Path, name: str, changes: Mapping[str, str]) -> Path:
    """Do what a how-to says with a file of the examples.

    Args:
        folder: the folder for the script.
        name: the file.
        changes: replacements in the file.
    """
    source = EXAMPLES / name
    text = source.read_text()
    if source.suffix == ".fcgi":
        text = replaced(text, "/home/you/venv/bin/python", sys.executable)
    for old, new in changes.items():
        text = replaced(text, old, new)
    target = folder / source.name
    target.write_text(text)
    target.chmod(source.stat().st_mode)
    return target
