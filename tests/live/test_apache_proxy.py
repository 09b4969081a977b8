"""Test Apache with mod_proxy_fcgi in all modes of ``examples/apache-proxy.conf``.

test_more_front_ends.py has the tests that it shares with other web servers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from support.front_ends.more_servers import ApacheProxy
from support.front_ends.servers import EXAMPLES, AppServer
from support.gates import check_stream
from support.http import Client, request
from support.processes import ProcessGroup, wait_until

UNIX, TCP, HANDLER, HANDLER_TCP = PLACES = ("", "/tcp", "/handler", "/handler-tcp")


def test_the_example(processes: ProcessGroup) -> None:
    server = AppServer(processes, "hello:app", folder=EXAMPLES)
    apache = ApacheProxy(processes, server)
    for prefix in PLACES:
        answer = request(apache.port, f"{prefix}/some/p%20ath")
        assert answer.status == 200
        assert f"You asked for: GET {prefix}/some/p%20ath\n" in answer.text
    assert apache.process.stop() == 0
    assert server.process.stop() == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    with ProcessGroup(tmp_path_factory.mktemp("apache")) as group:
        yield AppServer(group, "apps.routes:app", "--threads", "2")


@pytest.fixture(scope="module")
def apache(server: AppServer) -> ApacheProxy:
    return ApacheProxy(server.group, server)


@pytest.mark.parametrize("prefix", PLACES)
def test_what_arrives(apache: ApacheProxy, prefix: str) -> None:
    paths = {"/": "/", "/echo/a%2Fb/%C3%A9": "/echo/a/b/\xc3\xa9", "/a//b": "/a//b"}
    if prefix:
        paths |= {"": "", "//a//b": "//a//b"}
    if "handler" in prefix:
        # Merged for SetHandler, whatever is configured.
        paths |= {"/a//b": "/a/b", "//a//b": "/a/b"}
    for target, path in paths.items():
        answer = request(apache.port, f"{prefix}{target}?x=y", headers={"Authorization": "Basic x"})
        environ = answer.json()["environ"]
        assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (prefix, path)
        assert environ["QUERY_STRING"] == "x=y"
        assert environ["HTTP_AUTHORIZATION"] == "Basic x"


@pytest.mark.parametrize("prefix", PLACES)
def test_uploads_arrive_whole(apache: ApacheProxy, prefix: str) -> None:
    piece = bytes(range(256)) * 400
    for body in (piece * 30, iter([piece] * 30)):
        answer = request(apache.port, f"{prefix}/upload", method="PUT", body=body)
        assert answer.text == f"{30 * len(piece)} {hashlib.sha256(piece * 30).hexdigest()}\n"


def accepted(client: Client, prefix: str) -> int:
    """How many connections the server has accepted."""
    return int(client.request("GET", f"{prefix}/stats").json()["connections_accepted"])


@pytest.mark.parametrize("prefix", [UNIX, TCP, HANDLER])
def test_connections_are_kept(apache: ApacheProxy, prefix: str) -> None:
    with Client(apache.port) as client:
        before = accepted(client, prefix)
        for _ in range(50):
            assert client.request("POST", f"{prefix}/upload", b"x").status == 200
        assert accepted(client, prefix) == before


def test_connections_are_not_kept(server: AppServer, apache: ApacheProxy) -> None:
    before = server.sockets()
    with Client(apache.port) as client:
        assert accepted(client, HANDLER_TCP) + 1 == accepted(client, HANDLER_TCP)
    wait_until(lambda: server.sockets() <= before, "the end of all connections")


@pytest.mark.parametrize("prefix", [UNIX, TCP, HANDLER])
def test_a_stream_comes_as_it_is_made(server: AppServer, apache: ApacheProxy, prefix: str) -> None:
    check_stream(apache.port, server.group.folder, prefix)
