"""Test ``--debug``: werkzeug's debugger shows errors, and runs code for users with the PIN."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from urllib.parse import urlencode

import pytest
from support.fcgi.peer import Answer, Client
from support.processes import ProcessGroup, wait_until
from support.project import Project, Reloading

pytestmark = pytest.mark.process

PLAIN = """\
def app(environ, start_response):
    secret = "<fourty-two>"
    if environ["PATH_INFO"] == "/late":
        start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/midway":
        return midway(start_response)
    raise LookupError(secret)

def midway(start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"begun"
    raise LookupError("in the middle")
"""

FLASK = """\
from flask import Flask

app = Flask(__name__)

@app.get("/")
def index():
    raise LookupError("in a view")
"""


class Debugging(Reloading):
    """The command with ``--debug``, and a browser's part."""

    def __init__(self, group: ProcessGroup, text: str, *, reload: bool = False) -> None:
        project = Project(group.folder / "project")
        project.save("app.py", text)
        super().__init__(group, project, "--debug", reload=reload)
        self.host = "127.0.0.1:8080"
        self.cookie = ""

    def get(self, path: str = "/") -> Answer:
        more = {"HTTP_HOST": self.host, "HTTP_COOKIE": self.cookie}
        with Client(self.address) as client:
            client.ask(1, path, more=more)
            return client.answer(1)

    def ask(self, **query: str) -> Answer:
        """Do what the debugger's own page does."""
        return self.get(f"/?{urlencode({'__debugger__': 'yes', **query})}")


def test_a_frame_is_looked_into_with_the_pin_and_not_without(processes: ProcessGroup) -> None:
    server = Debugging(processes, PLAIN)
    page = server.get("/")
    assert page.status == 500
    text = page.body.decode()
    assert "LookupError: &lt;fourty-two&gt;" in text
    assert "EVALEX = true" in text
    assert server.ask(cmd="resource", f="debugger.js").status == 200
    secret = re.search(r'SECRET = "(\w+)"', text)
    frames = re.findall(r'id="frame-(\d+)"', text)
    assert secret is not None
    look = {"cmd": "secret.upper()", "frm": frames[-1], "s": secret[1]}
    # The request reaches the app, which fails again.
    assert "FOURTY-TWO" not in server.ask(**look).body.decode()
    log = server.process.wait_for_log("with the PIN ")
    pin = re.search(r"with the PIN (\d{3}-\d{3}-\d{3});", log)
    assert pin is not None
    # For another host not even the PIN counts: a page elsewhere could resolve to here.
    server.host = "evil.example"
    assert server.ask(cmd="pinauth", pin=pin[1], s=secret[1]).status == 400
    server.host = "127.0.0.1:8080"
    answer = server.ask(cmd="pinauth", pin=pin[1], s=secret[1])
    assert answer.body == b'{"auth": true, "exhausted": false}'
    server.cookie = answer.headers["set-cookie"].partition(";")[0]
    assert "FOURTY-TWO" in server.ask(**look).body.decode()


def test_an_error_after_start_response_is_shown_and_one_midway_breaks_the_answer(
    processes: ProcessGroup,
) -> None:
    server = Debugging(processes, PLAIN)
    late = server.get("/late")
    assert late.status == 500
    assert "LookupError" in late.body.decode()
    with pytest.raises(AssertionError, match="the server closed the connection"):
        server.get("/midway")
    server.process.wait_for_log("the app failed in the middle of its response")


def test_flask_hands_its_errors_to_the_debugger(processes: ProcessGroup) -> None:
    server = Debugging(processes, FLASK)
    page = server.get("/")
    assert page.status == 500
    assert "LookupError: in a view" in page.body.decode()
    assert "EVALEX = true" in page.body.decode()


def test_an_app_that_cannot_be_loaded_has_the_page_of_reload(processes: ProcessGroup) -> None:
    server = Debugging(processes, "import nothing_of_the_kind\n", reload=True)
    assert "nothing_of_the_kind" in server.get("/").body.decode()
    server.project.save("app.py", PLAIN)
    server.wait_for("EVALEX = true")


def test_frames_are_not_kept_for_ever(processes: ProcessGroup) -> None:
    counts = (
        "import gc, types\n"
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/count':\n"
        "        start_response('200 OK', [])\n"
        "        gc.collect()\n"
        "        kinds = [type(item).__name__ for item in gc.get_objects()]\n"
        "        return [str(kinds.count('DebugFrameSummary')).encode()]\n"
        "    down(60)\n"
        "def down(more):\n"
        "    return down(more - 1) if more else 1 / 0\n"
    )
    server = Debugging(processes, counts)
    for _ in range(20):
        assert server.get("/").status == 500
    wait_until(lambda: 900 < int(server.get("/count").body) <= 1100, "the oldest to be dropped")


# What keeps it from starting


def _complaint(*words: str, stdin: socket.socket | None = None) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "vsgi_fcgi", "--debug", *words, "no.such.app"],
        stdin=subprocess.DEVNULL if stdin is None else stdin.fileno(),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=os.environ,
    )
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1), run.stderr
    return run.stderr.removeprefix("vsgi-fcgi: ")


@pytest.mark.parametrize("reload", [(), ("--reload",)])
def test_it_refuses_to_be_reached_by_other_machines(reload: tuple[str, ...]) -> None:
    complaint = _complaint(*reload, "--bind", "0.0.0.0:0")
    assert re.match(r"--debug: other machines can reach fcgi://0\.0\.0\.0:\d+/", complaint)
    with socket.create_server(("0.0.0.0", 0)) as listener:
        assert "fcgi+fd://0/" in _complaint(*reload, stdin=listener)
