"""Replace servers under load: each request is answered, or is known not to have been sent."""

from __future__ import annotations

import pytest
from support.processes import ProcessGroup
from support.restarts import Restarts

RESTARTS = 4
CLIENTS = 8


@pytest.mark.parametrize("front", ["client", "gateway", "relay", "relays"])
def test_our_clients_lose_nothing(processes: ProcessGroup, front: str) -> None:
    """They repeat requests that were not sent, POST included, if the body is kept (64 KiB)."""
    restarts = Restarts(processes, front, CLIENTS, largest=60_000)
    restarts.run(RESTARTS, 0.3)
    assert set(restarts.counts) == {"200"}
    assert restarts.statuses == [0] * RESTARTS
    runs = restarts.runs
    assert set(runs) == set(restarts.answered)
    assert set(runs.values()) == {1}


def test_nginx_is_told_what_it_did_not_send(processes: ProcessGroup) -> None:
    """It sends a POST once, so it answers 502 where its write fails; the app never ran for it."""
    restarts = Restarts(processes, "nginx", CLIENTS)
    restarts.run(RESTARTS, 0.3)
    assert set(restarts.counts) <= {"200", "502"}
    assert restarts.statuses == [0] * RESTARTS
    runs = restarts.runs
    assert set(runs) == set(restarts.answered)
    assert set(runs.values()) == {1}
    failed = [line for line in (processes.folder / "front.log").read_text().splitlines() if line]
    # A failed write, and no request that nginx had sent.
    assert all("writev() failed (32: Broken pipe) while sending request" in line for line in failed)
    assert len(failed) == restarts.counts["502"]


def test_a_listener_that_stays_open_while_its_server_restarts(processes: ProcessGroup) -> None:
    """As systemd restarts a service that has a socket unit: requests wait in the backlog."""
    restarts = Restarts(processes, "nginx-restart", CLIENTS)
    restarts.run(RESTARTS, 0.3)
    assert set(restarts.counts) <= {"200", "502"}
    assert restarts.statuses == [0] * RESTARTS
    assert set(restarts.runs) == set(restarts.answered)
    failed = [line for line in (processes.folder / "front.log").read_text().splitlines() if line]
    # Only on connections that nginx had kept.
    assert all("writev() failed (32: Broken pipe) while sending request" in line for line in failed)


def test_two_servers_behind_nginx_that_restart_in_turn(processes: ProcessGroup) -> None:
    """A new connection that is refused goes to the other one, with a POST too."""
    restarts = Restarts(processes, "nginx-two", CLIENTS)
    restarts.run(RESTARTS, 0.3)
    assert set(restarts.counts) == {"200"}
    assert restarts.statuses == [0] * RESTARTS
    assert set(restarts.runs.values()) == {1}


def test_haproxy_that_multiplexes(processes: ProcessGroup) -> None:
    """Where its write fails it hangs up, on all its requests on that connection."""
    # It answers 500 to some bodies of more than its buffer of 16 KiB, whatever is behind it.
    restarts = Restarts(processes, "haproxy", CLIENTS, largest=3000)
    restarts.run(RESTARTS, 0.3)
    assert restarts.statuses == [0] * RESTARTS
    runs = restarts.runs
    assert set(restarts.answered) <= set(runs)
    assert set(runs.values()) == {1}
    # It also answers 500 if many requests begin at once on a connection (its issue 2568).
    assert len(restarts.failed) < len(restarts.answered) / 10
