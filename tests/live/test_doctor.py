"""Test the doctor behind real web servers: it finds problems, and its lines solve them."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.doctor import DoctorServer, Site, codes, lines, slowly
from support.front_ends.misconfigured import (
    APACHE_PASS,
    APACHE_SITE,
    AUTHORIZED,
    CADDY_PASS,
    CADDY_SITE,
    KINDS,
    LIGHTTPD_SITE,
    NGINX_PARAMS,
    NGINX_PASS,
    CaddySites,
    DoctorNginx,
    nginx_site,
)
from support.front_ends.more_servers import H2O, ApacheProxy, Caddy, LighttpdExternal
from support.front_ends.servers import HAProxy, Nginx, WebServer, command, find
from support.front_ends.sites import ApacheSites, LighttpdSites, Sites
from support.http import request
from support.processes import Process, ProcessGroup, wait_until


@pytest.fixture(scope="module")
def doctor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoctorServer]:
    with ProcessGroup(tmp_path_factory.mktemp("doctor")) as group:
        yield DoctorServer(group)


def subgroup(group: ProcessGroup, name: str) -> ProcessGroup:
    """A group with a folder of its own inside another one's."""
    folder = group.folder / name
    folder.mkdir()
    return ProcessGroup(folder)


def run_sites(
    group: ProcessGroup, kind: type[Sites], configs: dict[str, str], doctor: DoctorServer
) -> Sites:
    """A web server with these sites."""
    sites = type(kind.__name__, (kind,), {"SITES": configs})
    running: Sites = sites(group, {"auto": doctor})
    return running


@pytest.fixture(scope="module", params=KINDS)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Any, Any]]]:
    """For each case of a web server, the report on it, and the one after the lines were applied."""
    kind, cases = KINDS[request.param]
    with ExitStack() as stack:
        groups = [
            stack.enter_context(ProcessGroup(tmp_path_factory.mktemp(f"{request.param}-{state}")))
            for state in ("wrong", "fixed", "doctor", "doctor-again")
        ]
        # Each doctor remembers earlier requests.
        doctor, again = (DoctorServer(group) for group in groups[2:])
        configs = {name: case.config.replace("LINES", case.there) for name, case in cases.items()}
        sites = run_sites(groups[0], kind, configs, doctor)
        before, fixed = {}, {}
        for name, case in cases.items():
            report = before[name] = case.ask(Site(sites.port, f"{name}.auto"))
            assert report is not None, sites.error_log()
            assert case.code in codes(report, "findings" if case.counts else "remarks"), report
            printed = case.apply(lines(report, case.code))
            fixed[name] = case.config.replace("LINES", printed)
        sites = run_sites(groups[1], kind, fixed, again)
        yield {
            name: (before[name], case.ask(Site(sites.port, f"{name}.auto")))
            for name, case in cases.items()
        }


def test_what_is_wrong_is_found_and_the_lines_put_it_right(
    both: dict[str, tuple[Any, Any]], request: pytest.FixtureRequest
) -> None:
    _, cases = KINDS[request.node.callspec.params["both"]]
    for name, case in cases.items():
        before, after = both[name]
        assert codes(before) == [case.code] * case.counts, (name, codes(before))
        assert case.code not in codes(after or {"remarks": []}, "remarks"), name
        if not case.reaches:
            assert after is None, name
        else:
            assert after is not None, name
            assert codes(after) == [], (name, after["findings"])


# Sites that need --script-name, because no line of the web server helps as much.
NAMED: dict[str, tuple[type[Sites], str, str, str, list[str]]] = {
    "lighttpd, a hidden script": (
        LighttpdSites,
        LighttpdSites.SITES["script"],
        "/a/b",
        "path-hidden",
        ["--script-name", ""],
    ),
    "lighttpd, the first segment": (
        LighttpdSites,
        LighttpdSites.SITES["unfixed"],
        "/doctor-trial/path",
        "path-split",
        ["--script-name", ""],
    ),
    "caddy, a path that is taken off": (
        CaddySites,
        CADDY_SITE % f"handle_path /shop/* {{\n{CADDY_PASS.replace('LINES', '')}\n}}",
        "/shop/a",
        "path-stripped",
        ["--script-name", "/shop"],
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_a_mount_point_that_is_to_be_named(processes: ProcessGroup, case: str) -> None:
    kind, config, target, code, expected = NAMED[case]
    doctor = DoctorServer(processes)
    sites = run_sites(processes, kind, {"site": config}, doctor)
    report = Site(sites.port, "site.auto").ask(target)
    assert codes(report) == [code]
    (found,) = report["findings"]
    printed = found["remedies"][-1]["lines"]
    assert shlex.split(printed) == expected
    with subgroup(processes, "named") as group:
        named = DoctorServer(group, *shlex.split(printed))
        sites = run_sites(group, kind, {"site": config}, named)
        assert codes(Site(sites.port, "site.auto").ask(target)) == []


def test_a_path_that_is_not_below_the_mount_point(processes: ProcessGroup) -> None:
    doctor = DoctorServer(processes, "--script-name", "/shop")
    config = nginx_site(f"{NGINX_PARAMS} {NGINX_PASS}")
    sites = run_sites(processes, DoctorNginx, {"site": config}, doctor)
    site = Site(sites.port, "site.auto")
    assert codes(site.ask("/shop/a")) == []
    report = site.ask("/shopping")
    assert codes(report) == ["path-outside"]
    fixed = f"server {{ listen LISTEN; server_name HOST; {lines(report, 'path-outside')} }}"
    sites = run_sites(processes, DoctorNginx, {"site": fixed}, doctor)
    site = Site(sites.port, "site.auto")
    assert codes(site.ask("/shop/a")) == []
    assert site.ask("/shopping") is None


def test_a_port_that_is_lost(doctor: DoctorServer, processes: ProcessGroup) -> None:
    """By a line that Debian's fastcgi_params has, behind which the doctor's goes."""

    def remarks(line: str) -> list[Any]:
        class Nginx(DoctorNginx):
            PARAMS = f"include params; fastcgi_param SERVER_PORT $server_port; {line}\n"

        config = nginx_site(f"{NGINX_PARAMS} {NGINX_PASS}")
        sites = run_sites(processes, Nginx, {"site": config}, doctor)
        report = Site(sites.port, f"site.auto:{sites.port}").ask()
        assert codes(report) == []
        return [item for item in report["remarks"] if item["code"] == "port-missing"]

    debian = "fastcgi_param HTTP_HOST $host;"
    (found,) = remarks(debian)
    assert remarks(f"{debian} {found['remedies'][0]['lines']}") == []


def test_what_lighttpd_answers_by_itself(doctor: DoctorServer, processes: ProcessGroup) -> None:
    """So that the doctor is not asked, and the guide has to say what it is."""
    root = '"/" => (( "fix-root-scriptname" => "enable",'
    found = LIGHTTPD_SITE % ("server.stream-request-body = 1", root, "")
    configs = {
        "stream": found,
        "local": LIGHTTPD_SITE.replace("disable", "enable") % ("", root, ""),
    }
    sites = run_sites(processes, LighttpdSites, configs, doctor)
    body = slowly(b"a body", b"without a length")
    answer = request(sites.port, method="POST", body=body, headers={"Host": "stream.auto"})
    assert answer.status == 411
    assert codes(Site(sites.port, "stream.auto").post("/", b"a body with one")) == []
    assert request(sites.port, "/a", headers={"Host": "local.auto"}).status == 404


HELD: dict[str, tuple[type[Sites], str]] = {
    "nginx": (DoctorNginx, nginx_site(f"{NGINX_PARAMS} LINES {NGINX_PASS}")),
    "lighttpd": (
        LighttpdSites,
        LIGHTTPD_SITE % ("LINES", '"/" => (( "fix-root-scriptname" => "enable",', ""),
    ),
    "apache": (ApacheSites, APACHE_SITE % ""),
    "caddy": (CaddySites, CADDY_SITE % CADDY_PASS),
}


def test_answers_that_are_held_back(doctor: DoctorServer, processes: ProcessGroup) -> None:
    """And those that are not, once the doctor's lines are there."""
    there = {"apache": APACHE_PASS}

    def run(kind: str, line: str) -> tuple[float, str]:
        cls, config = HELD[kind]
        with subgroup(processes, f"{kind}{len(line)}") as group:
            sites = run_sites(group, cls, {"site": config.replace("LINES", line)}, doctor)
            return Site(sites.port, "site.auto").stream("/?doctor=stream")

    with ThreadPoolExecutor(len(HELD)) as pool:
        before = dict(
            zip(HELD, pool.map(lambda kind: run(kind, there.get(kind, "")), HELD), strict=True)
        )
        printed = {}
        for kind, (seconds, text) in before.items():
            assert seconds < 1.0, (kind, text)
            assert text.count("written at") == 4
            printed[kind] = textwrap.dedent(text.rpartition(":\n\n")[2])
        after = dict(zip(HELD, pool.map(lambda kind: run(kind, printed[kind]), HELD), strict=True))
    for kind, (seconds, text) in after.items():
        assert seconds > 1.0, (kind, text)


EXAMPLE_SERVERS: dict[str, tuple[type[WebServer], str, tuple[str, ...]]] = {
    "nginx": (Nginx, "nginx", ("", "/tcp", "/unbuffered")),
    "haproxy": (HAProxy, "HAProxy", ("", "/alone")),
    "apache": (ApacheProxy, "Apache with mod_proxy_fcgi", ("",)),
    "caddy": (Caddy, "Caddy", ("",)),
    "h2o": (H2O, "h2o", ("",)),
    "lighttpd": (LighttpdExternal, "lighttpd", ("",)),
}


@pytest.mark.parametrize("name", EXAMPLE_SERVERS)
def test_nothing_is_wrong_with_the_examples(processes: ProcessGroup, name: str) -> None:
    kind, title, mounts = EXAMPLE_SERVERS[name]
    doctor = DoctorServer(processes)
    make: Any = kind
    port = make(processes, doctor).port
    site = Site(port, f"localhost:{port}")
    for mount in mounts:
        for path in ("/", "/a/b", "/a%20b/%C3%A9?c=d", "/doctor-trial/path"):
            report = site.ask(mount + path, **AUTHORIZED, Cookie="a=b")
            assert codes(report) == [], report["findings"]
            assert report["facts"]["Web server"].startswith(title)
            assert report["facts"]["SCRIPT_NAME"] == (mount or '""')
        assert codes(site.post(f"{mount}/a", b"x=1", Content_Type="text/x")) == []
        trial = site.ask(f"{mount}/a?doctor=authorization", **AUTHORIZED)
        assert (codes(trial), trial["trial_result"]) == ([], "The Authorization header arrived.")
        if name in ("nginx", "haproxy", "apache") and mount != "/unbuffered":
            wait_until(lambda: _is_reused(site, mount), "a second request of a connection")  # noqa: B023


def _is_reused(site: Site, mount: str) -> bool:
    """Each process of Apache has its own connections, and any of them may get the next request."""
    trial = site.ask(f"{mount}/a?doctor=keep-alive")
    assert codes(trial) == []
    return str(trial["trial_result"]).endswith("connections are reused.")


def test_a_reload_of_nginx_is_no_dropped_connection(
    processes: ProcessGroup, doctor: DoctorServer
) -> None:
    """Its old workers close the connections that they keep."""
    upstream = "upstream kept { server 127.0.0.1:PORT; keepalive 4; }\n"
    config = upstream + nginx_site(f"{NGINX_PARAMS} fastcgi_pass kept; fastcgi_keep_conn on;")
    sites = run_sites(processes, DoctorNginx, {"site": config}, doctor)
    site = Site(sites.port, "site.auto")
    for _ in range(5):
        report = site.ask("/a")
        assert report["facts"]["Connection"].endswith("request 1 on it, to keep open")
        assert codes(report) == []
        old = _workers(sites.process)
        sites.process.send_signal(signal.SIGHUP)
        wait_until(lambda: _workers(sites.process).isdisjoint(old), "new workers")  # noqa: B023


def _workers(process: Process) -> set[str]:
    """The processes that a web server has started."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return set(path.read_text().split())


def test_what_is_known_of_mod_fcgid(processes: ProcessGroup) -> None:
    """mod_fcgid starts the doctor, which works there, too."""

    class Fcgid(ApacheSites):
        def _spawn(self, group: ProcessGroup, name: str) -> Process:
            script = group.folder / "scripts-auto" / "app.fcgi"
            script.write_text(f"#!/bin/sh\nexec {command(group)} doctor --threads 2\n")
            return super()._spawn(group, name)

    doctor = DoctorServer(processes)
    config = ApacheSites.SITES["fcgid-mount"]
    sites = run_sites(processes, Fcgid, {"site": config}, doctor)
    report = Site(sites.port, "site.auto").ask("/app/b?doctor=authorization", **AUTHORIZED)
    assert report["facts"]["Web server"].startswith("Apache with mod_fcgid")
    assert codes(report) == ["authorization-missing"]
    printed = lines(report, "authorization-missing").replace('"/"', '"/app"')
    fixed = config.replace("</VirtualHost>", f"{printed}\n</VirtualHost>")
    with subgroup(processes, "again") as group:
        sites = run_sites(group, Fcgid, {"site": fixed}, doctor)
        report = Site(sites.port, "site.auto").ask("/app/b?doctor=authorization", **AUTHORIZED)
        assert codes(report) == []


def test_a_relay_is_seen(processes: ProcessGroup) -> None:
    with subgroup(processes, "doctor") as group:
        doctor = DoctorServer(group)
        path = processes.folder / "app.sock"
        relay = [str(command(processes)), "relay", "--bind", f"unix:{path}"]
        process = processes.start([*relay, "--upstream", f"unix:{doctor.socket}"], name="relay")
        process.wait_for_log("listening on")
        port = Nginx(processes, doctor).port
        nginx = Site(port, f"localhost:{port}")
        report = nginx.ask("/a")
        assert codes(report) == []
        assert "behind a relay" in report["facts"]["Web server"]
        assert [remark["code"] for remark in report["remarks"]] == ["relayed"]
        trial = nginx.together("/a?doctor=multiplexing")
        assert codes(trial) == []
        assert re.fullmatch(
            r"Of \d requests at the same time, \d shared a connection\.", trial["trial_result"]
        )


def test_the_commands_that_are_offered_run_as_they_are(processes: ProcessGroup) -> None:
    find("curl")
    doctor = DoctorServer(processes)
    port = HAProxy(processes, doctor).port
    report = Site(port, f"localhost:{port}").ask("/a%20b/'c'[1]")
    commands = {trial["name"]: trial["command"] for trial in report["trials"]}
    assert [*commands] == [
        "path",
        "authorization",
        "header",
        "upload",
        "stream",
        "keep-alive",
        "multiplexing",
    ]

    def run(command: str) -> str:
        shell = ["/bin/sh", "-c", command]
        found = subprocess.run(shell, capture_output=True, text=True, timeout=20, check=True)
        return found.stdout

    with ThreadPoolExecutor(len(commands)) as pool:
        said = dict(zip(commands, pool.map(run, commands.values()), strict=True))
    assert "No problem found in this request." in said["path"]
    assert said["authorization"] == "The Authorization header arrived.\n"
    assert said["upload"].startswith("The web server buffers the whole body before it forwards it.")
    assert "with a CONTENT_LENGTH of 8" in " ".join(said["upload"].split())
    assert "line 4 of 4, written at" in said["stream"]
    assert "connections are reused." in said["keep-alive"]
    assert "shared a connection." in said["multiplexing"]
