from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.front_ends.places import PLACES, WORKERS, Fronts, Place

APP = "vsgi_fcgi.demo:app"

_NEVER_LOGGED = ("a bug in the server", "ContractBroken", "AssertionError")


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Fronts]]:
    """The demonstration behind web servers, for each kind of worker."""
    # What web servers start is not measured: it makes it slow.
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("COVERAGE")}
    fronts = {kind: Fronts(tmp_path_factory.mktemp(kind), APP, kind) for kind in WORKERS}
    try:
        yield fronts
    finally:
        for front in fronts.values():
            for group in front.groups:
                group.close()
        os.environ.update(taken)
    log = "".join(front.logs() for front in fronts.values())
    assert not any(text in log for text in _NEVER_LOGGED), log


@pytest.fixture(
    scope="module",
    params=[("thread", "lighttpd"), ("main", "lighttpd"), ("thread", "nginx-tcp")],
    ids="-".join,
)
def place(request: pytest.FixtureRequest, fronts: dict[str, Fronts]) -> Place:
    """Places that differ in what matters here: the root or below it, threads or none."""
    worker, name = request.param
    front = fronts[worker]
    web = front.lighttpd if name == "lighttpd" else front.nginx
    return Place(web, PLACES[name], worker)
