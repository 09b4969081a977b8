"""Test held streams of several processes behind nginx, with items from everywhere."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from apps.news import event
from gripcontrol import GripPubControl, parse_grip_uri
from support.front_ends.servers import AppServer, Nginx, find
from support.http import request
from support.processes import ProcessGroup, wait_until
from support.streams import News, Subscribers

STREAMS = 20


class Site:
    """nginx with two processes, and three ways to publish an item."""

    def __init__(self, group: ProcessGroup, *options: str) -> None:
        options = ("--push-bind", "127.0.0.1:0", "--processes", "2", *options)
        self.server = AppServer(group, "apps.news:app", "--threads", "2", *options)
        log = self.server.process.log()
        found = re.search(r"publish over HTTP on (http://127\.0\.0\.1:\d+)/", log)
        assert found is not None
        self._control = f"{found[1]}/publish/"
        wait_until(lambda: self.started() == 2, "two processes")
        self.port = Nginx(group, self.server).port
        self._curl = find("curl")
        url = request(self.port, "/publish?0").text
        assert url.startswith(found[1])
        self._grip = GripPubControl(parse_grip_uri(url))
        self.ways: tuple[Callable[[int], object], ...] = (self.by_app, self.by_curl, self.by_grip)

    def started(self) -> int:
        return self.server.process.log().count("listening on fcgi://")

    def by_app(self, id: int) -> None:
        assert request(self.port, f"/publish?{id}").status == 200

    def by_curl(self, id: int) -> None:
        formats = {"http-stream": {"content": event(id)}}
        item = {"channel": "news", "id": str(id), "prev-id": str(id - 1), "formats": formats}
        argv = [self._curl, "-sS", "--fail", "-d", json.dumps({"items": [item]}), self._control]
        assert subprocess.run(argv, capture_output=True, check=True).stdout == b"Published\n"

    def by_grip(self, id: int) -> None:
        self._grip.publish_http_stream(
            "news", event(id), id=str(id), prev_id=str(id - 1), blocking=True
        )


@pytest.fixture
def news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> News:
    news = News(tmp_path / "news")
    monkeypatch.setenv("NEWS", str(news.path))
    return news


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_each_stream_gets_each_item_once(
    processes: ProcessGroup, news: News, options: tuple[str, ...]
) -> None:
    site = Site(processes, *options)
    with Subscribers(STREAMS, "127.0.0.1", site.port) as subscribers:
        for number in range(30):
            site.ways[number % 3](news.add())
        subscribers.wait_for(30)
        assert [each.connects for each in subscribers.all] == [1] * STREAMS


def test_a_reload_loses_no_item(processes: ProcessGroup, news: News) -> None:
    # Streams of the old processes end at different times, so that some stay.
    site = Site(processes, "--push-stop-spread", "2")
    with Subscribers(STREAMS, "127.0.0.1", site.port) as subscribers:
        site.by_app(news.add())
        site.server.process.send_signal(signal.SIGHUP)
        number = 0
        while any(each.connects == 1 for each in subscribers.all):
            site.ways[number % 3](news.add())
            number += 1
        site.by_grip(news.add())
        subscribers.wait_for(news.last)
    assert number > 10
