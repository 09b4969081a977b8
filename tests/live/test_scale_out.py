"""Test three hosts behind HAProxy, whose items travel over Redis: ``examples/scale-out``."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from itertools import count
from pathlib import Path

import pytest
from apps.news import event
from redis import Redis
from support.front_ends.servers import APPS, EXAMPLES, command, find
from support.network import Host, Network, network
from support.processes import Process, ProcessGroup, free_port, wait_until
from support.redis_server import RedisServer
from support.streams import News, Subscribers

FASTCGI, CONTROL = 9000, 5561
STREAMS = 12


class Cluster:
    """The hosts, each with a supervisor, behind HAProxy and beside Redis."""

    def __init__(
        self, group: ProcessGroup, net: Network, hosts: list[Host], folder: Path, news: News
    ) -> None:
        self.redis = RedisServer(group, folder / "redis", net.address)
        self.address, self.port = net.address, free_port()
        env = {"LISTEN": f"{self.address}:{self.port}"}
        self.servers: list[Process] = []
        for number, host in enumerate(hosts, 1):
            env[f"APP{number}"] = f"{host.address}:{FASTCGI}"
            argv = [str(command(group)), "--chdir", str(APPS), "--processes", "1"]
            argv += ["--bind", f"{host.address}:{FASTCGI}", "--threads", "2"]
            argv += ["--push-bind", f"{host.address}:{CONTROL}", "--push-stop-spread", "2"]
            argv += ["--push-bus", f"{self.redis.url}?channel=news", "apps.news:app"]
            more = {"NEWS": str(news.path), "HOST": str(number - 1)}
            more["FCGI_WEB_SERVER_ADDRS"] = net.address
            self.servers.append(group.start(host.command(*argv), name=f"host{number}", env=more))
        self._hosts = hosts
        for server in self.servers:
            server.wait_for_log("listening on fcgi://")
        self.wait_for_bus(len(hosts))
        config = EXAMPLES / "scale-out" / "haproxy.cfg"
        self.haproxy = group.start([find("haproxy"), "-db", "-f", str(config)], env=env)

    def wait_for_bus(self, processes: int) -> None:
        """Wait until so many processes have subscribed."""
        with Redis(host=self.redis.host, port=self.redis.port) as client:
            wait_until(lambda: client.pubsub_numsub("news")[0][1] == processes, "subscriptions")

    def publish(self, host: int, id: int) -> None:
        """Publish an item on a host."""
        formats = {"http-stream": {"content": event(id)}}
        item = {"channel": "news", "id": str(id), "prev-id": str(id - 1), "formats": formats}
        connection = HTTPConnection(self._hosts[host].address, CONTROL, timeout=10)
        try:
            connection.request("POST", "/publish/", json.dumps({"items": [item]}))
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"Published\n")
        finally:
            connection.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Cluster, list[Host], News]]:
    with ExitStack() as stack:
        net, hosts = stack.enter_context(network(3))
        group = stack.enter_context(ProcessGroup(tmp_path))
        news = News(tmp_path / "news")
        yield Cluster(group, net, list(hosts), tmp_path, news), list(hosts), news


def test_each_item_arrives_once_while_a_host_is_lost_and_another_reloads(
    cluster: tuple[Cluster, list[Host], News],
) -> None:
    site, hosts, news = cluster
    lost, reloaded, third = range(3)
    with Subscribers(STREAMS, site.address, site.port) as subscribers:
        for number in range(30):
            site.publish(number % 3, news.add())
        subscribers.wait_for(news.last)
        assert [each.connects for each in subscribers.all] == [1] * STREAMS
        # The first one loses its power, so that nobody closes its connections.
        left = subscribers.on(lost)
        hosts[lost].unplug()
        hosts[lost].kill()
        for number in count():
            site.publish((reloaded, third)[number % 2], news.add())
            if all(each.connects > 1 for each in left):
                break
        # The second one loads the app again.
        moved = {each: each.connects for each in subscribers.on(reloaded)}
        site.servers[reloaded].send_signal(signal.SIGHUP)
        for number in count():
            site.publish((reloaded, third)[number % 2], news.add())
            if all(each.connects > before for each, before in moved.items()):
                break
        site.servers[reloaded].wait_for_log("reloaded: ")
        site.publish(third, news.add())
        subscribers.wait_for(news.last)
        stayed = [each for each in subscribers.all if each.connects == 1]
        assert stayed
        assert set(stayed) <= set(subscribers.on(third))
