"""Test web servers that announce the client's body in subrequests, and do not send it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

import pytest
from support.front_ends.misconfigured import CADDY_SITE, CaddySites
from support.front_ends.servers import ROOT, AppServer
from support.front_ends.sites import NginxSites, Sites
from support.http import request
from support.processes import ProcessGroup, wait_until
from support.relay_server import RelayServer

APP = "apps.behind_http:app"

_PASS = "fastcgi_pass 127.0.0.1:PORT;"
_NGINX = f"""server {{
    listen LISTEN; server_name HOST;
    include params; fastcgi_param SCRIPT_NAME ""; fastcgi_param PATH_INFO $uri;
    location /guarded {{ auth_request /auth; {_PASS} }}
    location /asked {{ auth_request /auth-off; {_PASS} }}
    location /mirrored {{ mirror /copy; mirror_request_body off; {_PASS} }}
    location /off {{ fastcgi_pass_request_body off; {_PASS} }}
    location = /auth {{ internal; {_PASS} }}
    location = /auth-off {{ internal; fastcgi_pass_request_body off; {_PASS} }}
    location = /copy {{ internal; {_PASS} }}
}}"""
_CADDY = """forward_auth 127.0.0.1:PORT {
        transport fastcgi
        uri /auth
    }
    reverse_proxy 127.0.0.1:PORT {
        transport fastcgi
    }"""


class NginxAsks(NginxSites):
    SITES: ClassVar = {"nginx": _NGINX}


class CaddyAsks(CaddySites):
    SITES: ClassVar = {"caddy": CADDY_SITE % _CADDY}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    with ProcessGroup(tmp_path_factory.mktemp("server")) as group:
        yield AppServer(group, APP, "--access-log", "-", folder=ROOT / "tests")


@pytest.fixture(scope="module", params=["direct", "relay"])
def behind(
    request: pytest.FixtureRequest, server: AppServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AppServer]:
    if request.param == "direct":
        yield server
        return
    with ProcessGroup(tmp_path_factory.mktemp("relay")) as group:
        yield RelayServer(group, server)


def run(kind: type[Sites], group: ProcessGroup, behind: AppServer) -> tuple[int, dict[str, str]]:
    """Start a web server with its one site; return its port and the site's Host header."""
    sites = kind(group, {"auto": behind})
    return sites.port, {"Host": f"{next(iter(kind.SITES))}.auto"}


def answered(server: AppServer, target: str) -> list[str]:
    """The statuses of the answers to POST requests for a target, by the access log."""
    return re.findall(rf'"POST {target} HTTP/1\.1" (\d+)', server.process.log())


def test_nginx(processes: ProcessGroup, server: AppServer, behind: AppServer) -> None:
    port, host = run(NginxAsks, processes, behind)
    for target in ("/guarded", "/asked", "/mirrored"):
        before = len(answered(server, target))
        answer = request(port, target, method="POST", body=b"hello", headers=host)
        assert answer.status == 200, server.process.log()
        assert answer.json()["size"] == 5
        wait_until(lambda: len(answered(server, target)) == before + 2, "both requests")  # noqa: B023
        assert set(answered(server, target)) == {"200"}
    answer = request(port, "/off", method="POST", body=b"hello", headers=host)
    seen = answer.json()
    assert (answer.status, seen["size"], seen.get("CONTENT_LENGTH")) == (200, 0, None)
    assert server.process.log().count("no body was sent") <= 2
    server.process.wait_for_log(
        'write fastcgi_pass_request_body off; fastcgi_param CONTENT_LENGTH "";'
    )


def test_caddy(processes: ProcessGroup, server: AppServer, behind: AppServer) -> None:
    port, host = run(CaddyAsks, processes, behind)
    answer = request(port, "/guarded", method="POST", body=b"hello", headers=host)
    assert (answer.status, answer.json()["size"]) == (200, 5), server.process.log()
    server.process.wait_for_log("Caddy does this for forward_auth")
