"""The web servers of the matrix.

At the root of a site each has its file in ``examples/``; below a mount point it has what
``vsgi-fcgi config`` prints.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support.front_ends.apache import ApacheFcgid
from support.front_ends.hosts import replaced
from support.front_ends.more_servers import H2O, ApacheProxy, Caddy
from support.front_ends.printed import Printed
from support.front_ends.servers import AppServer, HAProxy, Lighttpd, Nginx, WebServer
from support.processes import ProcessGroup

APP = "apps.echo:app"
MOUNT = "/app"
Start = Callable[[ProcessGroup], WebServer]

THREADS = ("--threads", "2")
FCGID_ALIAS = f'Alias "{MOUNT}" "${{EXAMPLES}}/apache-fcgid.fcgi"'


def _behind(
    kind: Callable[[ProcessGroup, AppServer], WebServer],
) -> Start:
    def start(group: ProcessGroup) -> WebServer:
        return kind(group, AppServer(group, APP, *THREADS))

    return start


def _spawning(kind: Callable[[ProcessGroup, str], WebServer]) -> Start:
    def start(group: ProcessGroup) -> WebServer:
        return kind(group, " ".join((*THREADS, APP)))

    return start


class MountedFcgid(ApacheFcgid):
    """With what the comments of the example say about an app that is not at the root."""

    def _config(self, group: ProcessGroup) -> Path:
        text = super()._config(group).read_text()
        text = replaced(text, 'Alias "/" "${EXAMPLES}/apache-fcgid.fcgi/"', FCGID_ALIAS)
        text = replaced(text, '<Location "/">', f'<Location "{MOUNT}">')
        path = self.group.folder / "mounted.conf"
        path.write_text(text)
        return path


def _printed(program: str, kind: type[WebServer]) -> Start:
    def start(group: ProcessGroup) -> WebServer:
        web = Printed(group, program, *THREADS, "--script-name", MOUNT, app=APP)
        web.STDERR_SIGN = kind.STDERR_SIGN
        return web

    return start


ROWS: dict[str, dict[str, Start]] = {
    "lighttpd": {"": _spawning(Lighttpd), MOUNT: _printed("lighttpd", Lighttpd)},
    "nginx": {"": _behind(Nginx), MOUNT: _printed("nginx", Nginx)},
    "mod_fcgid": {"": _spawning(ApacheFcgid), MOUNT: _spawning(MountedFcgid)},
    "mod_proxy_fcgi": {"": _behind(ApacheProxy), MOUNT: _printed("apache", ApacheProxy)},
    "HAProxy": {"": _behind(HAProxy), MOUNT: _printed("haproxy", HAProxy)},
    "Caddy": {"": _behind(Caddy), MOUNT: _printed("caddy", Caddy)},
    "h2o": {"": _behind(H2O), MOUNT: _printed("h2o", H2O)},
}
"""How each is started, by the name that the exceptions have, and by where the app is."""
