"""Held requests behind Pushpin and behind this server, with the same app and the same items.

Pushpin's answers are recorded, because not every release of Debian has it. docs/topics/push.md
lists the differences.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from support.front_ends.servers import find
from support.grip.scenarios import SCENARIOS, run_all
from support.grip.site import RECORDED, OwnSite, PushpinSite
from support.processes import ProcessGroup

TEXT = ["content-type", "text/plain"]
WRONG = ["502 Bad Gateway"]
REFUSED = ["not published"]
OWN_RESPONSE = ["200 OK", [TEXT], "nothing\n", True]

DIFFERENT: dict[str, Any] = {
    "21-channels": WRONG,
    "close-of-a-stream-with-prev-id": [["200 OK", [TEXT], "begun\n", True], []],
    "hint-for-a-poll": [OWN_RESPONSE, [["GET", {}, ""]]],
    "hint-for-a-stream": [["200 OK", [TEXT], "begun\nthe end", True], [["GET", {"X-A": "b"}, ""]]],
    "keep-alive-unknown-escape": WRONG,
    "next-fails-once": ["200 OK", [TEXT], "begun\n", True],
    "patch-copies": REFUSED,
    "poll-exposes-headers": ["200 OK", [TEXT, ["x-a", "1"]], "x", True],
    "posted-poll-with-other-prev-id": [OWN_RESPONSE, [["POST", {}, "body"]]],
    "prev-id-without-link": WRONG,
    "unknown-filter": WRONG,
}
"""What a client gets from this server where it does not get what Pushpin sends."""

Answers = dict[str, Any]
Site = type[OwnSite] | type[PushpinSite]


@pytest.fixture(scope="module")
def recorded() -> Answers:
    answers: Answers = json.loads(RECORDED.read_text())
    return answers


@pytest.fixture(scope="module")
def running(
    recorded: Answers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Site, Future[Answers]]]:
    """All scenarios, which run behind both at the same time: they mostly wait."""
    with ThreadPoolExecutor(2) as pool:
        # Not in the threads: pytest cannot create its folder in two of them at once.
        groups: dict[Site, ProcessGroup] = {
            kind: ProcessGroup(tmp_path_factory.mktemp(kind.__name__.lower()))
            for kind in (OwnSite, PushpinSite)
        }

        def run(kind: Site) -> Answers:
            site = kind(groups[kind])
            answers = run_all(site)
            if kind is PushpinSite:
                # If the machine stalls, Pushpin sometimes never subscribes a request that it has
                # accepted. These scenarios run once more, now without the others.
                for name in [name for name in answers if answers[name] != recorded[name]]:
                    answers[name] = SCENARIOS[name](site, name)
            return answers

        try:
            futures = {kind: pool.submit(run, kind) for kind in groups}
            yield futures
            for future in futures.values():
                future.exception()
        finally:
            for group in groups.values():
                group.close()


def test_all_scenarios_are_recorded(recorded: Answers) -> None:
    assert recorded.keys() == SCENARIOS.keys()
    assert [name for name, answer in DIFFERENT.items() if recorded[name] == answer] == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_this_server_answers_as_pushpin(
    name: str, running: dict[Site, Future[Answers]], recorded: Answers
) -> None:
    find("nginx")
    assert running[OwnSite].result()[name] == DIFFERENT.get(name, recorded[name])


@pytest.mark.parametrize("name", SCENARIOS)
def test_pushpin_answers_as_recorded(
    name: str, running: dict[Site, Future[Answers]], recorded: Answers
) -> None:
    find("pushpin")
    assert running[PushpinSite].result()[name] == recorded[name]
