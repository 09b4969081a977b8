"""Further web servers with files of ``examples/``, in front of a running server."""

from __future__ import annotations

from support.front_ends.hosts import APACHE_MODULES, find_module, not_as_root
from support.front_ends.servers import AppServer, WebServer, find
from support.processes import Process, ProcessGroup


class Behind(WebServer):
    """A web server in front of a server that runs already.

    Args:
        group: the group that it belongs to; the server's socket is in its folder.
        server: the server.
    """

    PROGRAM: str

    def __init__(self, group: ProcessGroup, server: AppServer) -> None:
        self._program = find(self.PROGRAM)
        self._folder = group.folder
        self._server = server
        self._start(group)

    def server_log(self) -> str:
        return self._server.process.log()


class ApacheProxy(Behind):
    """Apache with mod_proxy_fcgi and ``examples/apache-proxy.conf``."""

    PROGRAM = "apache2"
    STDERR_SIGN = "AH01071: Got error"
    ERROR_LOG = "error.log"

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        find_module("proxy_fcgi")
        env = {"STATE": str(self._folder), "PORT": str(self.port), "MODULES": str(APACHE_MODULES)}
        env["APP_PORT"] = str(self._server.port)
        argv = [*not_as_root(), self._program, "-DFOREGROUND", "-d", str(self._folder)]
        return group.start(
            [*argv, "-f", str(self._example(group, "apache-proxy.conf"))], name=name, env=env
        )


class Caddy(Behind):
    """Caddy with ``examples/Caddyfile``."""

    PROGRAM = "caddy"
    # Version 2.6 throws it away.
    STDERR_SIGN = None

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        env = {"PORT": str(self.port), "APP_SOCKET": str(self._server.socket)}
        env["XDG_DATA_HOME"] = env["XDG_CONFIG_HOME"] = str(self._folder)
        argv = [self._program, "run", "--config", str(self._example(group, "Caddyfile"))]
        return group.start([*argv, "--adapter", "caddyfile"], name=name, env=env)


class H2O(Behind):
    """h2o with ``examples/h2o.yaml``, which finds the port and the socket where it is started."""

    PROGRAM = "h2o"
    STDERR_SIGN = r"\[lib/handler/fastcgi\.c\] in request:[^:]*:"

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        (self._folder / "h2o-port.yaml").write_text(f"{self.port}\n")
        # As root it becomes another user, who may not connect to the socket.
        argv = [*not_as_root(), self._program, "-c", str(self._example(group, "h2o.yaml"))]
        return group.start(argv, name=name)


class LighttpdExternal(Behind):
    """lighttpd with ``examples/lighttpd-external.conf``."""

    PROGRAM = "lighttpd"
    STDERR_SIGN = "FastCGI-stderr:"

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        env = {"PORT": str(self.port), "APP_SOCKET": str(self._server.socket)}
        argv = [self._program, "-D", "-f", str(self._example(group, "lighttpd-external.conf"))]
        return group.start(argv, name=name, env=env)
