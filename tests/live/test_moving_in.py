"""Test well-known apps that flup served, behind lighttpd, as in the how-to guides."""

from __future__ import annotations

import base64
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from support.flup import LighttpdWithScript, install_example
from support.front_ends.servers import Lighttpd
from support.http import Client, request
from support.processes import ProcessGroup


def need(package: str) -> None:
    """Skip the test, visibly, without an app."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


class Hg:
    """Runs Mercurial's own command.

    Args:
        group: what it belongs to.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._environ = group.environ(HGRCPATH="", HGPLAIN="1")

    def __call__(self, folder: Path, *words: str) -> str:
        argv = [sys.executable, "-m", "mercurial", *words]
        run = subprocess.run(
            argv, cwd=folder, env=self._environ, capture_output=True, text=True, timeout=40
        )
        assert run.returncode == 0, run.stderr
        return run.stdout


def test_hgweb(processes: ProcessGroup) -> None:
    need("mercurial")
    hg, folder = Hg(processes), processes.folder
    repository, clone = folder / "repositories" / "project", folder / "clone"
    hg(folder, "init", str(repository))
    (repository / "a.txt").write_text("one\n")
    hg(repository, "commit", "--addremove", "--user", "ada", "--message", "first")
    paths = {"/srv/hg/*": f"{folder}/repositories/*"}
    config = install_example(folder, "hgweb/hgweb.config", paths)
    script = install_example(folder, "hgweb/hgweb.fcgi", {"/srv/hg/hgweb.config": str(config)})
    lighttpd = LighttpdWithScript(processes, script)
    url = f"http://127.0.0.1:{lighttpd.port}/project"
    page = request(lighttpd.port, "/project/rev/tip")
    assert page.status == 200
    assert "first" in page.text
    assert request(lighttpd.port, "/project/raw-file/tip/a.txt").text == "one\n"
    assert request(lighttpd.port, "/nothing").status == 404
    hg(folder, "clone", url, str(clone))
    # Too large for a piece, a record, or the memory that a body gets.
    content = bytes(range(256)) * 8192
    (clone / "large.bin").write_bytes(content)
    hg(clone, "commit", "--addremove", "--user", "ada", "--message", "second")
    hg(clone, "push")
    assert hg(repository, "log", "--template", "{desc}\n").split() == ["second", "first"]
    assert request(lighttpd.port, "/project/raw-file/tip/large.bin").body == content


EVENT = """\
BEGIN:VCALENDAR\r
VERSION:2.0\r
PRODID:-//test//EN\r
BEGIN:VEVENT\r
UID:tea\r
DTSTAMP:20261122T000000Z\r
DTSTART:20261122T090000Z\r
SUMMARY:Tea with J\u00f6rg\r
END:VEVENT\r
END:VCALENDAR\r
"""

QUERY = """\
<c:calendar-query xmlns:d="DAV:" xmlns:c="urn:ietf:params:xml:ns:caldav">
<d:prop><c:calendar-data/></d:prop>
<c:filter><c:comp-filter name="VCALENDAR"/></c:filter>
</c:calendar-query>
"""


def test_radicale(processes: ProcessGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    need("radicale")
    folder = processes.folder
    paths = {"/srv/radicale/users": f"{folder}/users", "/srv/radicale/coll": f"{folder}/coll"}
    monkeypatch.setenv("RADICALE_CONFIG", str(install_example(folder, "radicale/config", paths)))
    (folder / "users").write_text("ada:secret\n")
    lighttpd = Lighttpd(processes, "radicale")
    assert request(lighttpd.port, "/.web/").status == 200
    assert request(lighttpd.port, "/ada/", method="PROPFIND").status == 401
    token = base64.b64encode(b"ada:secret").decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "text/calendar; charset=utf-8"}
    with Client(lighttpd.port) as client:
        assert client.request("MKCALENDAR", "/ada/work/", None, headers).status == 201
        event = client.request("PUT", "/ada/work/tea.ics", EVENT.encode(), headers)
        assert event.status == 201
        headers["Content-Type"] = "application/xml"
        listed = client.request("PROPFIND", "/ada/work/", None, {**headers, "Depth": "1"})
        assert listed.status == 207
        assert "<href>/ada/work/tea.ics</href>" in listed.text
        found = client.request("REPORT", "/ada/work/", QUERY.encode(), {**headers, "Depth": "1"})
        assert "SUMMARY:Tea with J\u00f6rg" in found.text
        assert client.request("GET", "/ada/work/tea.ics", None, headers).status == 200
        headers["If-Match"] = event.headers["ETag"]
        assert client.request("DELETE", "/ada/work/tea.ics", None, headers).status == 200
        assert client.request("GET", "/ada/work/tea.ics", None, headers).status == 404


def test_trac(processes: ProcessGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    need("trac")
    site = processes.folder / "site"
    make = "from trac.admin.console import run; import sys; sys.exit(run(sys.argv[1:]))"
    argv = [sys.executable, "-c", make, str(site), "initenv", "Project", "sqlite:db/trac.db"]
    subprocess.run(argv, check=True, capture_output=True, timeout=40)
    monkeypatch.setenv("TRAC_ENV", str(site))
    lighttpd = Lighttpd(processes, "trac.web.main:dispatch_request")
    assert "Welcome to Trac" in request(lighttpd.port, "/wiki").text
    assert "body" in request(lighttpd.port, "/chrome/common/css/trac.css").text
    assert request(lighttpd.port, "/nothing").status == 404
