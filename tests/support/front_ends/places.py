"""All places of an app: behind each web server, with each kind of worker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from support.front_ends.servers import AppServer, HAProxy, Lighttpd, Nginx, WebServer
from support.http import Answer, Body, Browser, request
from support.processes import ProcessGroup

PLACES = {
    "lighttpd": "",
    "nginx-unix": "",
    "nginx-tcp": "/tcp",
    "nginx-unbuffered": "/unbuffered",
    "haproxy-shared": "",
    "haproxy-alone": "/alone",
}
"""Where the examples have an app: the web server's name first, and the prefix there."""

WORKERS = {
    "thread": tuple(PLACES),
    "main": tuple(PLACES),
    # They tell most about it: lighttpd starts it, and nginx keeps connections.
    "greenlet": ("lighttpd", "nginx-unix"),
}
"""The kinds of workers, each with the places where it is tested."""


class Fronts:
    """One app behind web servers, each of which is started when it is first asked for."""

    def __init__(self, folder: Path, app: str, worker: str) -> None:
        self._folder = folder
        self._app = app
        self._worker = worker
        self.groups: list[ProcessGroup] = []

    def _group(self, name: str) -> ProcessGroup:
        folder = self._folder / name
        folder.mkdir()
        self.groups.append(ProcessGroup(folder))
        return self.groups[-1]

    @cached_property
    def lighttpd(self) -> Lighttpd:
        return Lighttpd(self._group("lighttpd"), f"--worker {self._worker} {self._app}")

    @cached_property
    def nginx(self) -> Nginx:
        group = self._group("nginx")
        return Nginx(group, AppServer(group, self._app, "--worker", self._worker))

    @cached_property
    def haproxy(self) -> HAProxy:
        group = self._group("haproxy")
        return HAProxy(group, AppServer(group, self._app, "--worker", self._worker))

    def web_server(self, place: str) -> WebServer:
        """The web server that has a place."""
        web: WebServer = getattr(self, place.partition("-")[0])
        return web

    def logs(self) -> str:
        started = [item for item in vars(self).values() if isinstance(item, WebServer)]
        return "".join(item.server_log() for item in started)


@dataclass(frozen=True)
class Place:
    """Where an app can be reached.

    Attributes:
        web: the web server.
        prefix: where the app is mounted.
        worker: the kind of worker that runs it.
    """

    web: WebServer
    prefix: str
    worker: str

    def request(
        self, path: str, *, method: str = "GET", body: Body = None, **headers: str
    ) -> Answer:
        """Send a request; headers are named with ``_`` for the dash."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(self.web.port, self.prefix + path, method=method, body=body, headers=named)

    def browser(self) -> Browser:
        return Browser(self.web.port, self.prefix)
