"""Drive running servers with random traffic from a fixed seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import live

SEED = 1
STEPS = 4000


def test_a_server_and_a_relay_in_one_process(capfd: pytest.CaptureFixture[str]) -> None:
    counts = live.one_process(SEED, lambda steps: steps < STEPS)
    assert counts["status 200"] > 0
    # A hub prints exceptions of its callbacks.
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.process
def test_a_supervisor_and_the_command_of_the_relay(tmp_path: Path) -> None:
    counts = live.processes(tmp_path, SEED, lambda steps: steps < STEPS)
    assert counts["status 200"] > 0
