"""Test that what one process publishes reaches all others, once and in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.processes import ProcessGroup, wait_until
from support.published import PublishedSite

pytestmark = pytest.mark.process

LARGE = 900_000


@pytest.fixture
def group(tmp_path: Path) -> Iterator[ProcessGroup]:
    with ProcessGroup(tmp_path) as group:
        yield group


def serve(group: ProcessGroup, folder: Path, *options: str, count: int = 3) -> PublishedSite:
    site = PublishedSite(group, folder / "site", "--processes", str(count), *options)
    wait_until(lambda: serving(site) == count, f"{count} processes", log=site.process.log)
    return site


def serving(site: PublishedSite) -> int:
    return site.process.log().count("listening on ")


def suspend(pid: int) -> None:
    """Stop all threads of a process, and wait until they do not run any more."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")

    def stopped() -> bool:
        try:
            return all(") T " in (task / "stat").read_text() for task in tasks.iterdir())
        except (FileNotFoundError, ProcessLookupError):
            return False  # a thread has ended

    wait_until(stopped, "all threads to stop")


def wait_for(site: PublishedSite, ids: list[str], count: int = 3) -> None:
    """Wait until some processes have got exactly these items."""
    wait_until(
        lambda: list(site.ids().values()).count(ids) == count,
        f"{ids} in {count} processes",
        log=lambda: f"{site.ids()} {site.process.log()}",
    )


def test_an_item_reaches_all_processes(tmp_path: Path, group: ProcessGroup) -> None:
    site = serve(group, tmp_path)
    ids = [str(number) for number in range(20)]
    for id in ids[:10]:
        site.publish(id)
    for id in ids[10:]:
        with Client(site.address) as client:
            client.get(f"/?{id}", b"data: from the app\n\n")
    # The order is that of each process that publishes.
    wait_until(lambda: len(site.ids()) == 3, "items in all processes")
    wait_until(
        lambda: all(sorted(each, key=int) == ids for each in site.ids().values()),
        "each item once",
        log=lambda: str(site.ids()),
    )


def test_large_items_arrive_unchanged(tmp_path: Path, group: ProcessGroup) -> None:
    site = serve(group, tmp_path, count=2)
    content = "ä\n" * (LARGE // 3)
    site.publish("1", content)
    site.publish("2", "small")
    # Two processes may have published them, so their order is open.
    right = [["news", "1", content], ["news", "2", "small"]]
    wait_until(
        lambda: [sorted(items) for items in site.delivered().values()] == [right] * 2,
        "both items",
        log=lambda: f"{site.ids()} {site.process.log()}",
    )


def test_a_process_that_does_not_read_gets_everything_later(
    tmp_path: Path, group: ProcessGroup
) -> None:
    site = serve(group, tmp_path, count=2)
    site.publish("0")
    wait_for(site, ["0"], 2)
    ids = [str(number) for number in range(300)]
    with Client(site.address) as client:
        here = int(client.get("/").body.split()[0])
        (other,) = set(site.ids()) - {here}
        suspend(other)
        try:
            # More than the socket holds.
            for id in ids[1:]:
                client.get(f"/?{id}", b"x" * 2000)
            assert site.ids() == {here: ids, other: ["0"]}
        finally:
            os.kill(other, signal.SIGCONT)
    wait_for(site, ids, 2)


def test_what_a_stopped_process_cannot_get_is_logged(tmp_path: Path, group: ProcessGroup) -> None:
    site = serve(group, tmp_path, count=2)
    site.publish("0")
    wait_for(site, ["0"], 2)
    with Client(site.address) as client:
        here = int(client.get("/").body.split()[0])
        (other,) = set(site.ids()) - {here}
        suspend(other)
        try:
            # More than 16 MiB.
            for id in range(1, 26):
                client.get(f"/?{id}", b"x" * LARGE)
            site.process.wait_for_log(f"process {other} reads too slowly")
        finally:
            os.kill(other, signal.SIGCONT)
    site.process.wait_for_log(f"process {other} reads again; it did not get everything")
    site.publish("last")
    wait_until(lambda: site.ids()[other][-1] == "last", "the next item", log=site.process.log)
    kept = site.ids()[other][:-1]
    assert 10 < len(kept) < 26
    # What was published after it has read again has arrived, too.
    assert kept == sorted(set(kept), key=int)


def test_a_reload_loses_nothing_for_those_that_stay(tmp_path: Path, group: ProcessGroup) -> None:
    site = serve(group, tmp_path, "--graceful-timeout", "10", count=2)
    site.publish("0")
    wait_for(site, ["0"], 2)
    old = set(site.ids())
    os.mkfifo(site.folder / "fifo")
    with Client(site.address) as client:
        # A running request keeps a process that retires.
        client.ask(1, "/wait")
        fifo = os.open(site.folder / "fifo", os.O_WRONLY)
        site.process.send_signal(signal.SIGHUP)
        site.process.wait_for_log("reloaded: ")
        wait_until(lambda: serving(site) == 4, "the new processes", log=site.process.log)
        site.publish("1")
        new = wait_until(
            lambda: {pid: ids for pid, ids in site.ids().items() if ids == ["1"]}, "new processes"
        )
        assert not old & set(new)
        wait_until(
            lambda: list(site.ids().values()).count(["1"]) == 2, "both new", log=site.process.log
        )
        wait_until(lambda: ["0", "1"] in site.ids().values(), "the process that retires")
        os.close(fifo)
        assert client.answer(1).status == 200
