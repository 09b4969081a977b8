"""All kinds of requests by all ways, while processes, disk, descriptors and clock fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.chaos import Chaos, run

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

ROUNDS = 2


def test_nothing_is_wrong_lost_or_left(tmp_path: Path) -> None:
    """``benchmarks/soak.py`` is the long run of it."""
    missing: list[object] = []

    def go_on(chaos: Chaos, number: int) -> bool:
        return number < ROUNDS * len(chaos.actions)

    report = run(tmp_path, seed=1, clients=4, go_on=go_on, log=missing.append)
    done = {action.name for action in report.chaos.done}
    assert len(done) == len(report.chaos.actions) == 7 - len(missing)
    ways = {"client", "relay", "nginx", "haproxy", "haproxy, alone", "lighttpd"}
    assert set(report.load.ways) == ways
    assert set(report.load.kinds) == {"small", "upload", "download", "held", "publish"}
    # The requests that a kill has cut off are counted, so some have failed.
    assert 0 < report.load.counts["failed"] < report.load.counts["right"] / 20
    assert report.published > 20
