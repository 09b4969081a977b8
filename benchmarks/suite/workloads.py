"""The workloads: requests, connections, and where the server and the load run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from suite.peers import Peer

STRAIGHT, NGINX = "straight", "nginx"
PINNED, FREE = "pinned", "free"


@dataclass(frozen=True)
class Workload:
    """A kind of load.

    Attributes:
        name: the word for ``--only``.
        title: its name in tables.
        app: the app that the server runs.
        requests: how many are counted.
        free: whether it is measured without pinning, too.
        routes: straight to the server, behind nginx, or both.
        threads: the threads of servers that have threads.
        body: bytes of the request body.
        idle: connections that are open during the load.
        busy: connections that ask for 5 ms of computing during the load.
    """

    name: str
    title: str
    app: str
    requests: int
    path: str = "/hello"
    connections: int = 8
    in_flight: int = 1
    free: bool = False
    routes: tuple[str, ...] = (STRAIGHT, NGINX)
    keep: bool = True
    threads: int = 8
    body: int = 0
    idle: int = 0
    busy: int = 0

    def suits(self, peer: Peer, route: str) -> bool:
        """Return whether a server can be measured with it."""
        return (
            self.app in peer.apps
            and (route == NGINX or peer.protocol == "fastcgi")
            and (self.in_flight == 1 or peer.multiplexes)
            and (self.path != "/sleep" or peer.waits)
            and (not self.idle or peer.keeps)
            and (not self.busy or peer.environment != "built")
        )


WORKLOADS = [
    Workload("hello", "hello world", "plain", 6000, free=True),
    Workload("close", "hello, no keep-alive", "plain", 4000, routes=(STRAIGHT,), keep=False),
    Workload("many", "hello, 64 connections", "plain", 6000, routes=(STRAIGHT,), connections=64),
    Workload(
        "multiplexed",
        "hello, 64 multiplexed on one connection",
        "plain",
        6000,
        routes=(STRAIGHT,),
        connections=1,
        in_flight=64,
    ),
    Workload("idle", "hello, 1,000 idle connections", "plain", 4000, routes=(STRAIGHT,), idle=1000),
    Workload("body", "100 KB response", "plain", 1500, "/body"),
    Workload("upload", "1 MB upload", "plain", 200, "/upload", 4, body=1 << 20),
    Workload("stream", "10 MB stream", "plain", 30, "/stream", 4),
    Workload("busy", "hello, while 2 requests compute 5 ms each", "plain", 300, busy=2),
    Workload("flask", "Flask, JSON", "flask", 2000, "/flask", free=True),
    Workload("django", "Django, template and SQLite", "django", 500, "/django"),
    Workload(
        "sleep", "64 in flight, 50 ms sleep", "plain", 640, "/sleep", 64, threads=64, free=True
    ),
    Workload(
        "crowd",
        "1,000 in flight on 10 connections, 50 ms sleep",
        "plain",
        4000,
        "/sleep",
        connections=10,
        in_flight=100,
        routes=(STRAIGHT,),
        threads=64,
    ),
]
BY_NAME = {workload.name: workload for workload in WORKLOADS}


class Cell(NamedTuple):
    """One workload on one route and placement."""

    workload: str
    route: str
    placement: str

    def __str__(self) -> str:
        return "/".join(self)


def cells(workload: Workload) -> list[Cell]:
    """Return the cells of a workload."""
    placements = (PINNED, FREE) if workload.free else (PINNED,)
    return [Cell(workload.name, route, at) for at in placements for route in workload.routes]
