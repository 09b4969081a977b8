"""Test the commands of the frameworks, started by lighttpd on descriptor 0."""

from __future__ import annotations

import sys

from support.django_project import DjangoProject
from support.flup import LighttpdWithScript
from support.front_ends.servers import APPS
from support.http import Browser, request
from support.processes import ProcessGroup, wait_until


def test_runfcgi(processes: ProcessGroup) -> None:
    script = DjangoProject(processes).script("runfcgi", "method=threaded", "maxchildren=2")
    lighttpd = LighttpdWithScript(processes, script)
    answer = request(lighttpd.port, "/show/a%20b").json()
    assert (answer["path"], answer["url"], answer["multithread"]) == ("/show/a b", "/show", True)
    lighttpd.process.stop(within=5)
    wait_until(lambda: not processes.pids(), "the project's end", 5)


def test_flask(processes: ProcessGroup) -> None:
    script = processes.folder / "flask.fcgi"
    words = f"{sys.executable} -m flask --app {APPS}/apps/flask_site.py:flask_app fcgi --threads 2"
    script.write_text(f"#!/bin/sh\nexport PYTHONPATH={APPS}\nexec {words}\n")
    script.chmod(0o755)
    lighttpd = LighttpdWithScript(processes, script)
    browser = Browser(lighttpd.port)
    assert browser.get("/url").text == "/form"
    assert browser.post("/form", name="J\u00f6rg").json() == {"name": "J\u00f6rg"}
    lighttpd.process.stop(within=5)
    wait_until(lambda: not processes.pids(), "the app's end", 5)
