from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.front_ends.places import PLACES, WORKERS, Fronts, Place
from support.processes import ProcessGroup
from support.recordings import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]

_NEVER_LOGGED = ("a bug in the server", "ContractBroken", "AssertionError", "WSGIWarning")
"""What the checks inside the server's process would leave in its log."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = f"{Path(__file__).parent}/"
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="module", autouse=True)
def _as_a_user_runs_it() -> Iterator[None]:
    """Coverage does not measure what web servers and these tests start: it makes it slow."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("COVERAGE")}
    yield
    os.environ.update(taken)


@pytest.fixture(scope="module")
def fronts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Fronts]]:
    """The app that the module names in APP, for each worker, behind web servers that serve all."""
    app: str = request.module.APP
    fronts = {kind: Fronts(tmp_path_factory.mktemp(kind), app, kind) for kind in WORKERS}
    try:
        yield fronts
    finally:
        for front in fronts.values():
            for group in front.groups:
                group.close()
    log = "".join(front.logs() for front in fronts.values())
    assert not any(text in log for text in _NEVER_LOGGED), log


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[ProcessGroup]:
    """What runs behind the other processes of a test, and ends after them."""
    folder = tmp_path / "behind"
    folder.mkdir()
    with ProcessGroup(folder) as group:
        yield group


@pytest.fixture(
    scope="module",
    params=[(worker, name) for worker, names in WORKERS.items() for name in names],
    ids=lambda param: "-".join(param),
)
def place(request: pytest.FixtureRequest, fronts: dict[str, Fronts]) -> Place:
    """Each place that the examples have for an app, with each kind of worker."""
    worker, name = request.param
    return Place(fronts[worker].web_server(name), PLACES[name], worker)
