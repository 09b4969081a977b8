"""Test ``flask --app … fcgi`` with the real Flask."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.processes import Process, ProcessGroup, wait_until

pytestmark = pytest.mark.process

APP = """\
from flask import Flask, request, url_for

SAYS = "hello"


def create_app(name="nobody"):
    app = Flask(__name__)

    @app.get("/show")
    def show():
        multithread = request.environ["wsgi.multithread"]
        return f"{SAYS} {name} {url_for('show')} {multithread}"

    return app
"""


@pytest.fixture(autouse=True)
def source(processes: ProcessGroup) -> Path:
    source = processes.folder / "shop.py"
    source.write_text(APP)
    return source


def command(*arguments: str, app: str = "shop:create_app('us')") -> list[str]:
    return [sys.executable, "-W", "error", "-m", "flask", "--app", app, "fcgi", *arguments]


def start(group: ProcessGroup, *arguments: str) -> Process:
    name = f"server{len(arguments)}"
    process = group.start(command("--socket", "app.sock", *arguments), name=name)
    process.wait_for_log("listening on fcgi")
    return process


def shown(group: ProcessGroup) -> str:
    with Client(str(group.folder / "app.sock")) as client:
        return client.get("/show").body.decode()


def run(
    group: ProcessGroup, *arguments: str, app: str = "shop"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, app=app),
        cwd=group.folder,
        env=group.environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def test_an_app_factory(processes: ProcessGroup) -> None:
    process = start(processes)
    assert shown(processes) == "hello us /show True"
    assert process.stop() == 0
    process = start(processes, "--worker", "main")
    assert shown(processes) == "hello us /show False"
    assert process.stop(signal.SIGINT) == 0


def test_it_is_one_of_the_commands(processes: ProcessGroup) -> None:
    argv = [sys.executable, "-m", "flask", "--help"]
    text = subprocess.run(argv, capture_output=True, text=True, timeout=40, check=True).stdout
    assert re.search(
        r"^  fcgi +Serve the app to a web server through FastCGI\.$", text, re.MULTILINE
    )
    text = run(processes, "--help").stdout
    assert text.startswith("usage: flask fcgi [OPTIONS]\n")
    assert "--max-body-bytes" in text


def test_check_config(processes: ProcessGroup) -> None:
    checked = run(processes, "--check-config", "--threads", "3")
    assert checked.returncode == 0, checked.stderr
    assert "The app was loaded" in checked.stdout


SEVERAL = """
import json, sys
from flask.cli import main

for app, arguments in json.loads(sys.argv.pop()):
    sys.argv[1:] = ["--app", app, "fcgi", *arguments]
    try:
        main()
    except SystemExit as end:
        print(f"end {end.code}", file=sys.stderr)
"""


def test_what_has_to_be_mended(processes: ProcessGroup) -> None:
    """In one process, because its start takes most of the time."""
    cases: list[tuple[str, tuple[str, ...], str]] = [
        ("shop", (), "fd 0 is not a listening socket; "),
        ("shop", ("--threads", "0"), "--threads is 0, but must be at least 1"),
        ("shop", ("--thread", "1"), "--thread: there is no such option; did you mean --threads?"),
        ("shop", ("other:app",), "other:app: unexpected argument; see flask fcgi --help"),
        ("shop", ("gateway",), "gateway: unexpected argument; see flask fcgi --help"),
        ("stop", ("--socket", "app.sock"), "Could not import 'stop'."),
        ("shop:app", ("--socket", "app.sock"), "Failed to find attribute 'app' in 'shop'."),
    ]
    lines = json.dumps([(app, arguments) for app, arguments, _ in cases])
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", SEVERAL, lines],
        cwd=processes.folder,
        env=processes.environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
    ).stderr
    assert "Traceback" not in output
    *said, rest = output.split("end 2\n")
    assert rest == ""
    for (app, arguments, sentence), text in zip(cases, said, strict=True):
        assert text.splitlines()[-1].startswith(f"Error: {sentence}"), (app, arguments)


def test_an_app_that_cannot_be_imported(processes: ProcessGroup, source: Path) -> None:
    source.write_text("import nothing_of_this_name\n")
    output = run(processes, "--socket", "app.sock")
    assert output.returncode == 2
    assert "No module named 'nothing_of_this_name'" in output.stderr


def test_an_app_whose_threads_go_on(processes: ProcessGroup, source: Path) -> None:
    """They keep the process from its end no longer than the graceful timeout."""
    goes_on = (
        "import threading\n\nthreading.Thread(target=threading.Event().wait, daemon=False).start()"
    )
    source.write_text(APP + goes_on)
    process = start(processes, "--graceful-timeout", "1")
    assert shown(processes) == "hello us /show True"
    assert process.stop(within=5) == 1


def test_reload(processes: ProcessGroup, source: Path) -> None:
    process = start(processes, "--reload")
    assert shown(processes) == "hello us /show True"
    source.write_text(APP.replace('"hello"', '"good evening"'))
    wait_until(lambda: shown(processes).startswith("good evening"), "the new code")
    assert process.stop() == 0
