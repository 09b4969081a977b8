"""Run each target for a fixed number of inputs, which are the same in each run."""

from __future__ import annotations

import pytest

from fuzz.driver import Figures, run_plain
from fuzz.targets import TARGETS

EXECUTIONS = 1000
SEED = 1


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    figures = Figures()
    run_plain(TARGETS[name], SEED, figures, lambda: figures.executions < EXECUTIONS)
    assert figures.executions == EXECUTIONS


@pytest.mark.parametrize(
    ("target", "name"),
    [(target.name, name) for target in TARGETS.values() for name in target.regressions],
)
def test_what_broke_an_invariant_once(target: str, name: str) -> None:
    TARGETS[target].run(TARGETS[target].regressions[name])
