"""The command ``vsgi-fcgi relay`` between web servers and the server."""

from __future__ import annotations

import re

from support.front_ends.servers import EXAMPLES, ROOT, AppServer, Lighttpd, WebServer, command, find
from support.processes import Process, ProcessGroup


class RelayServer(AppServer):
    """A relay in front of a server, to be found as a server is: on ``app.sock`` and on TCP.

    Args:
        group: the group that it belongs to; not that of the server.
        behind: the server.
        *options: more options.
    """

    def __init__(self, group: ProcessGroup, behind: AppServer, *options: str) -> None:
        self.group = group
        self.behind = behind
        self.socket = group.folder / "app.sock"
        argv = [str(command(group)), "relay", "--socket", str(self.socket)]
        argv += ["--bind", "127.0.0.1:0", "--upstream", f"unix:{behind.socket}", *options]
        self.process = group.start(argv, name="relay")
        log = self.process.wait_for_log("listening on fcgi://")
        found = re.search(r"fcgi://127\.0\.0\.1:(\d+)/", log)
        assert found is not None
        self.port = int(found[1])


class LighttpdBeforeRelay(WebServer):
    """lighttpd with ``examples/afcgi/lighttpd.conf``.

    Args:
        group: the group that it belongs to.
        relay: the relay.
    """

    STDERR_SIGN = Lighttpd.STDERR_SIGN

    def __init__(self, group: ProcessGroup, relay: RelayServer) -> None:
        self._program = find("lighttpd")
        self._relay = relay
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        env = {"PORT": str(self.port), "RELAY": str(self._relay.socket)}
        argv = [self._program, "-D", "-f", str(EXAMPLES / "afcgi" / "lighttpd.conf")]
        return group.start(argv, name=name, cwd=ROOT, env=env)
