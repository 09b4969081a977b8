"""Test headers that both the web server's configuration and the client set."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.doctor import DoctorServer, codes
from support.front_ends.hosts import find_module
from support.front_ends.misconfigured import CADDY_SITE, CaddySites
from support.front_ends.servers import AppServer, command, find
from support.front_ends.sites import (
    APP,
    ApacheSites,
    H2OSites,
    HAProxySites,
    LighttpdSites,
    NginxSites,
    Sites,
)
from support.http import request
from support.processes import Process, ProcessGroup

_LIGHTTPD = '$HTTP["host"] == "HOST" { %s fastcgi.server = ( "/" => (( "host" => "127.0.0.1",'
_LIGHTTPD += ' "port" => PORT, "check-local" => "disable" )) ) }'
_NGINX = "server { listen LISTEN; server_name HOST; underscores_in_headers on; location / {"
_NGINX += " include params; fastcgi_param HTTP_X_SET set; fastcgi_pass 127.0.0.1:PORT; } }"
_H2O = '  "HOST":\n    paths:\n      "/":\n        setenv: {HTTP_X_SET: set}\n'
_H2O += "        fastcgi.connect:\n          port: PORT\n          type: tcp"
_HAPROXY = "fcgi-app HOST\n    docroot /\n%s\nbackend HOST\n    use-fcgi-app HOST\n%s\n"
_HAPROXY += "    server app 127.0.0.1:PORT proto fcgi"
_APACHE = "<VirtualHost *:*>\nServerName HOST\n%s\nProxyPass / fcgi://127.0.0.1:PORT/\n"
_APACHE += "</VirtualHost>"
_FCGID = "<VirtualHost *:*>\nServerName HOST\n%s\nAlias / SCRIPTS/app.fcgi/\n"
_FCGID += "<Location />\nSetHandler fcgid-script\n</Location>\n</VirtualHost>"
_CADDY = "reverse_proxy 127.0.0.1:PORT {\n%s\ntransport fastcgi%s\n}"


class Lighttpd(LighttpdSites):
    SITES: ClassVar = {
        "add": _LIGHTTPD % 'setenv.add-environment = ( "HTTP_X_SET" => "set" )',
        "set": _LIGHTTPD % 'setenv.set-environment = ( "HTTP_X_SET" => "set" )',
        "header": _LIGHTTPD % 'setenv.set-request-header = ( "X-Set" => "set", "X_Set" => "" )',
    }

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        text = 'server.modules = ( "mod_setenv", "mod_fastcgi" )\n'
        text += f'server.bind = "127.0.0.1"\nserver.port = {self.port}\n'
        text += f'server.document-root = "{self._folder}"\n'
        argv = [find("lighttpd"), "-D", "-f", self._write(text + self._render())]
        return group.start(argv, name=name)


class Nginx(NginxSites):
    SITES: ClassVar = {"param": _NGINX}


class H2O(H2OSites):
    SITES: ClassVar = {"setenv": _H2O}


class HAProxy(HAProxySites):
    SITES: ClassVar = {
        "header": _HAPROXY % ("", "    http-request set-header X-Set set"),
        "param": _HAPROXY % ("    set-param HTTP_X_SET set", ""),
    }


class Apache(ApacheSites):
    SITES: ClassVar = {
        "header": _APACHE % "RequestHeader set X-Set set",
        "param": _APACHE % 'ProxyFCGISetEnvIf "true" HTTP_X_SET set',
        "env": _APACHE % "SetEnv HTTP_X_SET set",
    }

    def __init__(self, group: ProcessGroup, servers: Mapping[str, AppServer]) -> None:
        self._headers = find_module("headers")
        super().__init__(group, servers)

    def _render(self) -> str:
        return f"LoadModule headers_module {self._headers}\n{super()._render()}"


class Fcgid(Apache):
    SITES: ClassVar = {
        "header": _FCGID % "RequestHeader set X-Set set",
        "env": _FCGID % "SetEnv HTTP_X_SET set",
    }


class Caddy(CaddySites):
    SITES: ClassVar = {
        "header": CADDY_SITE % (_CADDY % ("header_up -X_Set\nheader_up X-Set set", "")),
        "env": CADDY_SITE % (_CADDY % ("", " {\nenv HTTP_X_SET set\n}")),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    with ProcessGroup(tmp_path_factory.mktemp("server")) as group:
        yield AppServer(group, APP)


SENT: tuple[dict[str, str], ...] = (
    {},
    {"X-Set": "client"},
    {"X_Set": "client"},
    {"X-Set": "client", "X_Set": "client"},
    {"X_Set": "client", "X-Set": "client"},
)


def seen(web: Sites, site: str) -> list[str | None]:
    """Return what the app gets for each set of headers in SENT."""
    answers = (
        request(web.port, headers={"Host": f"{site}.auto", **headers}).json() for headers in SENT
    )
    return [environ["HTTP_X_SET"] for environ in answers]


@pytest.mark.parametrize(
    ("kind", "site"),
    [
        *((Lighttpd, "add"), (Lighttpd, "set"), (Lighttpd, "header")),
        *((Nginx, "param"), (H2O, "setenv"), (HAProxy, "header")),
        *((Apache, "param"), (Apache, "header"), (Fcgid, "header"), (Caddy, "header")),
    ],
)
def test_the_configuration_wins(
    processes: ProcessGroup, server: AppServer, kind: type[Sites], site: str
) -> None:
    assert seen(kind(processes, {"auto": server}), site) == ["set"] * len(SENT)


@pytest.mark.parametrize(
    ("kind", "site", "found"),
    [
        (HAProxy, "param", ["set", "client, set", "set", "client, set", "client, set"]),
        (Apache, "env", ["set", "client", "set", "client", "client"]),
        (Fcgid, "env", ["set", "client", "set", "client", "client"]),
    ],
)
def test_where_the_client_wins(
    processes: ProcessGroup, server: AppServer, kind: type[Sites], site: str, found: list[str]
) -> None:
    """The documentation names these: nothing in a request tells the values apart."""
    assert seen(kind(processes, {"auto": server}), site) == found


def test_where_the_client_wins_behind_caddy(processes: ProcessGroup, server: AppServer) -> None:
    """Which spelling Caddy takes changes from request to request, and Debian 13's drops one."""
    web = Caddy(processes, {"auto": server})
    assert seen(web, "env")[:2] == ["set", "client"]


# What the doctor says of them. Each site is made with the lines that the doctor prints, or none.


def _apache(lines: str) -> str:
    return _APACHE % (lines or "SetEnv HTTP_X_FORWARDED_PROTO https")


def _fcgid(lines: str) -> str:
    return _FCGID % (lines or "SetEnv HTTP_X_FORWARDED_PROTO https")


def _haproxy(lines: str) -> str:
    return _HAPROXY % ("" if lines else "    set-param HTTP_X_FORWARDED_PROTO https", lines)


def _caddy(lines: str) -> str:
    env = "" if lines else " {\nenv HTTP_X_SET https\n}"
    return CADDY_SITE % (_CADDY % (lines, env))


def _nginx(lines: str) -> str:
    return _NGINX.replace("fastcgi_param HTTP_X_SET set;", lines)


def _h2o(lines: str) -> str:
    return _H2O.replace("setenv: {HTTP_X_SET: set}", lines or "setenv: {UNUSED: x}")


@pytest.mark.parametrize(
    ("kind", "site", "code"),
    [
        (Apache, _apache, "header-passes"),
        (Fcgid, _fcgid, "header-passes"),
        (HAProxy, _haproxy, "header-joined"),
        (Caddy, _caddy, "header-passes"),
        (Lighttpd, lambda lines: _LIGHTTPD % lines, "header-passes"),
        (Nginx, _nginx, "header-passes"),
        (H2O, _h2o, "header-passes"),
    ],
)
def test_the_doctor_says_where_the_client_wins_and_its_lines_help(
    tmp_path: Path, kind: type[Sites], site: Callable[[str], str], code: str
) -> None:
    """By its trial: it can tell what the client has sent only if it knows that."""

    class Doctored(kind):  # type: ignore[valid-type, misc]
        def _spawn(self, group: ProcessGroup, name: str) -> Process:
            script = group.folder / "scripts-auto" / "app.fcgi"
            if script.exists():
                script.write_text(f"#!/bin/sh\nexec {command(group)} doctor --threads 2\n")
            process: Process = super()._spawn(group, name)
            return process

    def rename(text: str) -> str:
        """Put another header in the place of that of the trial, as a user does."""
        if kind is not Caddy:
            return text
        # Caddy always sets X-Forwarded-Proto.
        return text.replace("X-Forwarded-Proto", "X-Set").replace("X_Forwarded_Proto", "X_Set")

    def reports(name: str, lines: str) -> list[Any]:
        """Return the findings for a request without the header, and for those of the trial."""
        folder = tmp_path / name
        folder.mkdir()
        with ProcessGroup(folder) as group:
            sites = type(kind.__name__, (Doctored,), {"SITES": {"site": site(lines)}})
            web = sites(group, {"auto": DoctorServer(group)})
            said = []
            target = "/a"
            sent: dict[str, str] = {}
            # Caddy takes the one spelling or the other, by chance.
            for _ in range(9):
                headers = {"Host": "site.auto", "Accept": "application/json", **sent}
                said.append(request(web.port, target, headers=headers).json())
                (trial,) = [item for item in said[0]["trials"] if item["name"] == "header"]
                words = shlex.split(trial["command"])
                sent = dict(rename(word).split(":") for word in words[1:-1] if word != "-H")
                target = "/a?" + words[-1].partition("?")[2]
            return said

    before, *trials = reports("before", "")
    assert not {"header-joined", "header-passes"} & codes_of(before)
    assert code in set.union(*map(codes_of, trials)), trials[0]
    found = [item for report in trials for item in report["findings"] + report["remarks"]]
    (printed, *_) = [item["remedies"][0]["lines"] for item in found if item["code"] == code]
    for report in reports("after", rename(printed)):
        assert not {"header-joined", "header-passes"} & codes_of(report), report


def codes_of(report: Any) -> set[str]:
    return {*codes(report), *codes(report, "remarks")}
