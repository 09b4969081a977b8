"""Test ``--push-bus`` with a Redis server that is killed and comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from support.commands import complaint, complaints
from support.processes import ProcessGroup, wait_until
from support.published import TESTS, PublishedSite
from support.redis_server import RedisServer

from vsgi_fcgi.push.bus import Bus

pytestmark = pytest.mark.process


@pytest.fixture
def group(tmp_path: Path) -> Iterator[ProcessGroup]:
    with ProcessGroup(tmp_path) as group:
        yield group


@pytest.fixture
def broker(tmp_path: Path, group: ProcessGroup) -> RedisServer:
    return RedisServer(group, tmp_path / "broker")


def subscribers(broker: RedisServer, channel: str = "vsgi_fcgi") -> int:
    with Redis(host=broker.host, port=broker.port) as client:
        ((_, count),) = client.pubsub_numsub(channel)
        return int(count)


def wait_for(site: PublishedSite, ids: list[str], processes: int = 1) -> None:
    """Wait until all processes have got exactly these items, in any order."""
    wait_until(
        lambda: [sorted(each) for each in site.ids().values()] == [sorted(ids)] * processes,
        f"{ids} in {site.folder.name}",
        log=lambda: f"{site.ids()} {site.process.log()}",
    )


@pytest.mark.parametrize(
    ("worker", "app"),
    [
        ("thread", "apps.published:app"),
        ("main", "apps.patched:app"),
        ("greenlet", "apps.published:app"),
    ],
)
def test_an_item_reaches_all_processes_of_all_hosts_once(
    tmp_path: Path, group: ProcessGroup, broker: RedisServer, worker: str, app: str
) -> None:
    bus = ("--push-bus", f"{broker.url}?channel=site", "--worker", worker)
    one = PublishedSite(group, tmp_path / "one", *bus, "--processes", "2", app=app)
    two = PublishedSite(group, tmp_path / "two", *bus)
    other = PublishedSite(group, tmp_path / "other", "--push-bus", broker.url)
    wait_until(lambda: subscribers(broker, "site") == 3, "three processes on the bus")
    wait_until(lambda: subscribers(broker) == 1, "one process on the other channel")
    ids = [str(number) for number in range(12)]
    for id in ids:
        (one if int(id) % 2 else two).publish(id)
    two.publish("ä", "data: ö\n" * 50_000)
    wait_for(one, [*ids, "ä"], 2)
    wait_for(two, [*ids, "ä"])
    assert not other.delivered()
    with Redis(host=broker.host, port=broker.port) as client:
        # A program that uses Redis itself.
        message = '{"items":[{"channel":"c","id":"own","formats":{"http-stream":{"content":"x"}}}]}'
        client.publish("site", message)
    wait_for(one, [*ids, "ä", "own"], 2)
    wait_for(two, [*ids, "ä", "own"])


def test_a_lost_broker_does_not_stop_delivery_here(
    tmp_path: Path, group: ProcessGroup, broker: RedisServer
) -> None:
    one = PublishedSite(group, tmp_path / "one", "--push-bus", broker.url)
    two = PublishedSite(group, tmp_path / "two", "--push-bus", broker.url)
    wait_until(lambda: subscribers(broker) == 2, "two processes on the bus")
    one.publish("1")
    wait_for(two, ["1"])
    broker.kill()
    for site in (one, two):
        site.process.wait_for_log("the bus is lost: ")
    two.publish("2")
    wait_for(two, ["1", "2"])
    broker.start()
    # What one process publishes in the meantime does not reach a host that subscribes later.
    for site in (one, two):
        site.process.wait_for_log("the bus is back")
    wait_until(lambda: subscribers(broker) == 2, "two processes on the bus again")
    one.publish("3")
    wait_until(lambda: "3" in next(iter(two.ids().values())), "the next item")
    assert next(iter(two.ids().values())) == ["1", "2", "3"]
    for site in (one, two):
        assert site.process.log().count("the bus is lost: ") == 1


def test_a_server_starts_without_its_broker(tmp_path: Path, group: ProcessGroup) -> None:
    site = PublishedSite(group, tmp_path / "site", "--push-bus", "redis://:secret@127.0.0.1:1/0")
    log = site.process.wait_for_log("127.0.0.1:1: the bus is lost: ")
    assert "secret" not in log
    site.publish("1")
    wait_for(site, ["1"])


def test_a_message_that_was_sent_twice_is_received_once() -> None:
    received: list[bytes] = []
    bus = Bus("redis://localhost", "here", received.append)
    for host, sender, number in (
        ("there", "a", 1),
        ("there", "a", 2),
        ("there", "a", 2),
        ("there", "b", 1),
        ("here", "c", 1),
    ):
        head = f'{{"host": "{host}", "sender": "{sender}", "number": {number}, "items": []}}'
        bus._received(head.encode())
    assert [body.count(b'"a"') for body in received] == [1, 1, 0]


def test_a_wrong_url_is_refused(tmp_path: Path) -> None:
    urls = ("127.0.0.1:6379", "http://127.0.0.1", "redis://host:port", "redis://", "unix://")
    for message in complaints(tmp_path, [("no.app", "--push-bus", url) for url in urls]):
        assert message.startswith("--push-bus is not the URL of a Redis server; write redis://")


def test_an_unknown_option_of_the_url_is_refused(tmp_path: Path) -> None:
    app = ("--chdir", str(TESTS), "apps.echo:app", "--bind", f"unix:{tmp_path / 'app.sock'}")
    message = complaint(tmp_path, *app, "--push-bus", "redis://127.0.0.1/0?chanel=news")
    assert "chanel" in message
    assert message.endswith("; correct the query of the URL")


def test_without_redis_the_message_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from vsgi_fcgi.cli import main\n"
        "main(['apps.echo:app', '--push-bus', 'redis://h', '--bind', 'unix:@never'])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, timeout=30
    )
    assert "run pip install 'vsgi-fcgi[redis]'" in output.stderr
