"""A supervisor that reloads under load: no request is lost, and no connection is closed."""

from __future__ import annotations

import os
import random
import signal

import pytest
from support.processes import ProcessGroup
from support.reloads import FRONTS, Reloads

RELOADS = 3

OWN_LIMIT = 10_000
"""Requests after which HAProxy may close a connection itself, because it runs out of ids."""


@pytest.mark.parametrize("front", FRONTS)
def test_a_reload_loses_nothing_and_closes_nothing(processes: ProcessGroup, front: str) -> None:
    # HAProxy 2.6 answers 500 to some bodies of more than its buffer, whatever is behind it.
    reloads = Reloads(processes, front, 4, largest=3000 if front == "haproxy" else 60_000)
    reloads.run(RELOADS, 0.1)
    assert set(reloads.counts) == {"200"}
    runs = reloads.runs
    assert set(runs) == set(reloads.answered)
    assert set(runs.values()) == {1}
    assert reloads.log.count("reloaded: ") == RELOADS
    assert set(reloads.statuses) <= {0}
    if front != "haproxy" or len(runs) < OWN_LIMIT:
        assert reloads.closed == 0


def test_processes_that_are_killed_lose_only_their_requests(processes: ProcessGroup) -> None:
    """nginx repeats nothing here: each request is a POST."""
    reloads = Reloads(processes, "nginx", 4, largest=3000)
    chance = random.Random(1)
    kills = 4

    def kill() -> None:
        os.kill(chance.choice(reloads.processes()), signal.SIGKILL)

    reloads.run(kills, 0.5, kill)
    assert set(reloads.counts) <= {"200", "502"}
    # Each client has one request at a time.
    assert reloads.counts["502"] <= kills * 4
    assert reloads.log.count("has ended unexpectedly (SIGKILL)") == kills
    assert set(reloads.answered) <= set(reloads.runs)
    assert reloads.statuses == [0]
