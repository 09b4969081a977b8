"""Send checked requests for a long time while the application server dies and returns."""

from __future__ import annotations

import os
import signal

import gevent
import pytest
from apps.sums import app
from gevent.event import Event
from gevent.threadpool import ThreadPool
from support.asking import asking, only, uri_of, wait_here
from support.front_ends.servers import APPS, command
from support.processes import Process, ProcessGroup
from support.server import running
from support.soak import Soak


def test_no_byte_is_of_another_request() -> None:
    """``benchmarks/soak.py`` is the long run of it."""
    with running(app) as server, asking(uri_of(server), connections=4) as client:
        soak = Soak(client, seed=20240607)
        soak.run(greenlets=40, requests=1000)
        assert soak.counts["right"] > 100
        assert soak.counts["aborted"] > 5
        assert only(client).accepted == 4
        # The server ends the aborted requests, and all ids are free again.
        wait_here(lambda: not only(client).in_flight)


def test_no_byte_is_of_another_request_with_little_memory() -> None:
    """Answers go through files, bodies wait, requests wait for room, many are given up."""
    small = {
        "requests_per_connection": 24,
        "input_memory_bytes": 4096,
        "response_memory_bytes": 4096,
        "response_spool_bytes": 2_000_000,
    }
    with running(app) as server, asking(uri_of(server), connections=2, **small) as client:
        soak = Soak(client, seed=7, aborts=0.3)
        soak.run(greenlets=40, requests=400)
        assert soak.counts["right"] > 50
        assert soak.counts["aborted"] > 20
        wait_here(lambda: not only(client).in_flight)


@pytest.mark.process
def test_a_server_that_is_killed_under_100_requests_and_started_again(
    processes: ProcessGroup,
) -> None:
    """Each request gets a correct response or an error, none hangs, and the client recovers."""
    socket = processes.folder / "app.sock"

    def start(number: int) -> Process:
        argv = [str(command(processes)), "--chdir", str(APPS), "--socket", str(socket)]
        process = processes.start([*argv, "apps.sums:app"], name=f"server{number}")
        process.wait_for_log("listening on")
        return process

    pool = ThreadPool(1)
    server = start(0)
    with asking(f"unix:{socket}", backoff_min=0.01, backoff_max=0.05) as client:
        soak = Soak(client, seed=3, aborts=0.02, failures=True)
        # They go on until the last server has answered, however slow this machine is.
        over = Event()
        users = gevent.spawn(soak.run, greenlets=100, until=over.is_set)
        for number in range(1, 4):
            right = soak.counts["right"]
            wait_here(lambda: only(client).in_flight >= 90)
            os.kill(server.pid, signal.SIGKILL)
            server = pool.apply(start, (number,))
            wait_here(lambda: soak.counts["right"] > right + 200)  # noqa: B023
        over.set()
        users.get(timeout=60)
        assert soak.counts["failed"] >= 90
        calm = Soak(client, seed=4, aborts=0)
        calm.run(greenlets=20, requests=200)
        assert calm.counts["right"] == 200
        assert only(client).multiplexes
        assert len(only(client).connections) == 1
    pool.kill()
