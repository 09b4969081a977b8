"""Measure in interleaved rounds.

In a round, all servers of an app run at the same time, and idle ones cost nothing. Each workload
goes to one server after the other, so that servers are compared within seconds. Each round
starts new processes, because the memory layout of a process also makes a difference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from servers import HERE, Measured
from suite.environment import Environment, say
from suite.front import Front
from suite.peers import Peer
from suite.results import Results
from suite.workloads import BY_NAME, NGINX, PINNED, STRAIGHT, Cell, Workload

EVERYWHERE = os.sched_getaffinity(0)
# A cell ends after this many seconds, however slow the server is.
LONGEST = 1.5
PATIENCE = 5.0
# Servers that still load their apps after this many seconds are measured as they are.
SETTLE = 60.0
# For the estimate before the first round: seconds for each cell, and for each server's start.
CELL_SECONDS, START_SECONDS = 0.55, 0.5


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        cell: the workload, and where it runs.
        peer: which server.
        scale: a factor for the number of requests.
    """

    cell: Cell
    peer: Peer
    scale: float = 1.0

    @property
    def workload(self) -> Workload:
        """The load."""
        return BY_NAME[self.cell.workload]

    @property
    def group(self) -> tuple[str, int]:
        """What the server is started with: the app and the number of threads."""
        return self.workload.app, self.workload.threads


def estimate(jobs: Sequence[Job]) -> float:
    """Return about how many seconds a round takes."""
    starts = {(job.group, job.peer) for job in jobs}
    return len(jobs) * CELL_SECONDS + len(starts) * START_SECONDS


def run_round(
    number: int, jobs: Sequence[Job], env: Environment, results: Results, save: Callable[[], None]
) -> None:
    """Do each job once, and save after each app."""
    for group in dict.fromkeys(job.group for job in jobs):
        mine = [job for job in jobs if job.group == group]
        with Fleet(env, group, list(dict.fromkeys(job.peer for job in mine))) as fleet:
            behind = any(job.cell.route == NGINX for job in mine)
            with fleet.front() if behind else nothing():
                for cell in dict.fromkeys(job.cell for job in mine):
                    here = [job for job in mine if job.cell == cell]
                    # Each round begins with another server, so that no server is always the first.
                    first = number % len(here)
                    for job in here[first:] + here[:first]:
                        if not results.hopeless(cell, job.peer.name):
                            measure(number, job, fleet, results)
        save()


def measure(number: int, job: Job, fleet: Fleet, results: Results) -> None:
    """Do one job, and store what it has found."""
    try:
        server = fleet.server(job.peer)
        server.pin({min(EVERYWHERE)} if job.cell.placement == PINNED else EVERYWHERE)
        results.add(job.cell, job.peer.name, number, fleet.load(job, server))
    except (SystemExit, OSError, subprocess.TimeoutExpired) as error:
        reason = str(error).strip().splitlines()[-1][:200]
        say(f"    {job.peer.name}, {job.cell}: {reason}")
        results.fail(job.cell, job.peer.name, reason)
        fleet.replace(job.peer)


class Fleet:
    """The running servers of a group.

    Args:
        env: where they are installed.
        group: the app, and the number of threads.
        peers: which servers.
    """

    def __init__(self, env: Environment, group: tuple[str, int], peers: list[Peer]) -> None:
        self._env = env
        self._group = group
        self._servers = {peer: self._start(peer) for peer in peers}
        self._front: Front | None = None
        self._settle()

    def _settle(self) -> None:
        """Wait until all servers have loaded their apps, which is when they use no CPU time."""
        deadline = time.monotonic() + SETTLE
        before = -1.0
        while time.monotonic() < deadline:
            now = sum(
                server.cpu_seconds() for server in self._servers.values() if not server.exited
            )
            if now - before < 0.01:
                return
            before = now
            time.sleep(0.4)

    def _start(self, peer: Peer) -> Measured:
        app, threads = self._group
        command = self._env.command(peer, f"{app}_app", threads)
        env = self._env.variables()
        return Measured(peer.name, command, EVERYWHERE, env=env, wait=False)

    def server(self, peer: Peer) -> Measured:
        """Return a server that is ready.

        Raises:
            SystemExit: if it did not start.
        """
        server = self._servers[peer]
        server.wait_until_ready()
        return server

    def replace(self, peer: Peer) -> None:
        """Start a server again that has failed, and nginx, which has to know its new socket."""
        self._servers[peer].stop()
        self._servers[peer] = self._start(peer)
        self._settle()
        if self._front is not None:
            self._front.stop()
            self._front = Front(self._servers)

    @contextmanager
    def front(self) -> Iterator[None]:
        """Run nginx in front of the servers."""
        self._front = Front(self._servers)
        try:
            yield
        finally:
            self._front.stop()
            self._front = None

    def load(self, job: Job, server: Measured) -> dict[str, float]:
        """Run the load generator, and return its figures.

        Raises:
            SystemExit: if a response was wrong or missing.
        """
        workload, pinned = job.workload, job.cell.placement == PINNED
        requests = max(1, round(workload.requests * job.scale))
        options = {
            "connections": workload.connections,
            "requests": requests,
            "warm-up": max(workload.connections, requests // 10),
            "path": workload.path,
            "body": workload.body,
            "busy": workload.busy,
            "seconds": LONGEST,
            "patience": PATIENCE,
            "pid": server.pid,
        }
        flags = []
        if job.cell.route == STRAIGHT:
            address = f"unix:{server.socket}"
            options |= {"in-flight": workload.in_flight, "idle": workload.idle}
            # The generator spins on its core, so that no server pays for waking it.
            flags += ["--spin"] if pinned else []
            flags += ["--no-keep"] if not (workload.keep and job.peer.keeps) else []
        else:
            assert self._front is not None
            address = f"127.0.0.1:{self._front.ports[job.peer]}"
            self._front.process.pin({max(EVERYWHERE)} if pinned else EVERYWHERE)
            flags.append("--http")
        if pinned:
            options["cpu"] = max(EVERYWHERE)
        command = [sys.executable, str(HERE / "load.py"), address, *flags]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise SystemExit(done.stderr or done.stdout or "the load generator failed")
        figures: dict[str, float] = json.loads(done.stdout)
        return figures

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.stop()


@contextmanager
def nothing() -> Iterator[None]:
    """Run nothing."""
    yield


def run_rounds(
    count: int, jobs: Sequence[Job], env: Environment, results: Results, save: Callable[[], None]
) -> None:
    """Run some rounds, and say how long the others will take."""
    for done in range(count):
        begun = time.monotonic()
        results.rounds += 1
        run_round(results.rounds, jobs, env, results, save)
        taken = time.monotonic() - begun
        left = (count - 1 - done) * taken / 60
        say(f"round {done + 1} of {count} took {taken:.0f} s; about {left:.1f} minutes left")


def select(jobs: Sequence[Job], rows: Collection[tuple[Cell, str]]) -> list[Job]:
    """Return the jobs of some rows."""
    return [job for job in jobs if (job.cell, job.peer.name) in rows]
