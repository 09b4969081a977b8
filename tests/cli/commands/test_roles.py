"""Test ``--authorizer`` and ``--filter``, the apps for the other roles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import complaint, run_command
from support.fcgi import records
from support.fcgi.peer import Answer, request_params
from support.fcgi.records import AUTHORIZER, FILTER, RESPONDER, UNKNOWN_ROLE
from support.front_ends.servers import EXAMPLES, AppServer
from support.processes import ProcessGroup, wait_until
from support.project import SAYS, Project, Reloading

pytestmark = pytest.mark.process

FAILS = """\
def app(environ, start_response):
    raise LookupError("a secret")
"""


def ask(server: Reloading, role: int, query: str = "") -> Answer:
    streams = records.params(1, request_params(f"/?{query}"))
    streams += b"" if role == AUTHORIZER else records.stdin(1)
    streams += records.data(1, b"file") if role == FILTER else b""
    with server.connect() as client:
        client.send(records.begin(1, role) + streams)
        return client.answer(1)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    for name in ("app", "auth", "file"):
        project.save(f"{name}.py", SAYS.format(f"I am {name}"))
    return project


def test_one_process_serves_three_apps(processes: ProcessGroup, project: Project) -> None:
    options = ["--authorizer", "auth:app", "--filter", "file:app"]
    server = Reloading(processes, project, *options, reload=False)
    found = [bytes(ask(server, role).body) for role in (RESPONDER, AUTHORIZER, FILTER)]
    assert found == [b"I am app", b"I am auth", b"I am file"]


def test_an_authorizer_alone(processes: ProcessGroup, project: Project) -> None:
    options = ["--authorizer", "auth:app"]
    server = Reloading(processes, project, *options, app=None, reload=False)
    assert ask(server, AUTHORIZER).body == b"I am auth"
    assert ask(server, RESPONDER).protocol_status == UNKNOWN_ROLE
    assert ask(server, FILTER).protocol_status == UNKNOWN_ROLE


def test_a_mistake_in_one_of_them_is_a_page_for_all_roles(
    processes: ProcessGroup, project: Project
) -> None:
    """An authorizer that cannot be loaded refuses requests; the files of all apps are watched."""
    server = Reloading(processes, project, "--authorizer", "auth:app")
    server.ready()
    assert ask(server, AUTHORIZER).status == 200
    project.save("auth.py", "import nothing_of_the_kind\n")
    wait_until(lambda: ask(server, AUTHORIZER).status == 500, "the page")
    for role in (AUTHORIZER, RESPONDER):
        answer = ask(server, role)
        assert answer.status == 500
        assert b"nothing_of_the_kind" in answer.body
    assert ask(server, FILTER).protocol_status == UNKNOWN_ROLE
    project.save("auth.py", SAYS.format("I am new"))
    wait_until(lambda: ask(server, AUTHORIZER).body == b"I am new", "the new version")
    assert ask(server, RESPONDER).body == b"I am app"


def test_the_debugger_lets_nobody_past_an_authorizer(
    processes: ProcessGroup, project: Project
) -> None:
    """It answers requests of its own with a 200, which an authorizer must not."""
    for name in ("app", "auth", "file"):
        project.save(f"{name}.py", FAILS)
    options = ["--authorizer", "auth:app", "--filter", "file:app", "--debug"]
    server = Reloading(processes, project, *options, reload=False)
    query = "__debugger__=yes&cmd=resource&f=debugger.js"
    assert ask(server, RESPONDER, query).status == ask(server, FILTER, query).status == 200
    assert ask(server, AUTHORIZER, query).status == 500
    for role, text in ((RESPONDER, b"EVALEX"), (FILTER, b"EVALEX"), (AUTHORIZER, b"Internal")):
        assert text in ask(server, role).body


def test_settings_and_checking(project: Project) -> None:
    settings = project.folder / "settings.toml"
    settings.write_text('authorizer = "auth:app"\nfilter = "file:app"\n')
    arguments = ["--config", str(settings), "--check-config"]
    output = run_command(project.folder, *arguments)
    assert output.status == 0, output.err
    assert 'authorizer = "auth:app"' in output.out
    assert "The apps were loaded, and the settings are valid." in output.out
    project.save("file.py", "")
    assert complaint(project.folder, *arguments).startswith("file has no ")
    assert complaint(project.folder, "app", "--filter", "a b").startswith("'a b' is not a module")


def test_a_cgi_program_needs_an_app(project: Project) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "vsgi_fcgi", "--authorizer", "auth:app"],
        cwd=project.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env={**os.environ, "REQUEST_METHOD": "GET"},
    )
    assert run.returncode == 2
    assert run.stderr == (
        "vsgi-fcgi: a CGI program needs an app that answers requests; authorizers and filters exist"
        " only in FastCGI\n"
    )


def test_the_example_of_a_filter(processes: ProcessGroup) -> None:
    folder = EXAMPLES / "roles"
    server = AppServer(processes, "app:app", "--filter", "app:upper", folder=folder)
    script = folder / "ask_filter.py"
    run = subprocess.run(
        [sys.executable, str(script), f"unix:{server.socket}"],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (run.stderr, run.stdout) == ("", script.read_text().upper())
