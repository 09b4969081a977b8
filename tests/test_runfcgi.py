"""Test ``manage.py runfcgi`` in a real Django project."""

from __future__ import annotations

import json
import re
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.django_project import DjangoProject
from support.fcgi.peer import Client
from support.processes import Process, ProcessGroup, wait_until

from vsgi_fcgi.cli.commands import SERVE
from vsgi_fcgi.django.management.commands.runfcgi import read_words
from vsgi_fcgi.exceptions import UsageError

pytestmark = pytest.mark.process


@pytest.fixture
def project(processes: ProcessGroup) -> DjangoProject:
    return DjangoProject(processes)


def start(project: DjangoProject, *arguments: str) -> Process:
    """Start it, and wait until it serves."""
    process = project.group.start(project.manage("runfcgi", *arguments), name="server")
    process.wait_for_log("listening on fcgi")
    return process


def shown(path: Path) -> dict[str, Any]:
    with Client(str(path)) as client:
        found: dict[str, Any] = json.loads(client.get("/show").body)
        return found


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], {}),
        (["protocol=fcgi", "method=threaded", "daemonize=false", "debug=false"], {}),
        (["host=127.0.0.1", "port=3033"], {"address": ("127.0.0.1",), "port": (3033,)}),
        (["socket=/run/a=b.sock"], {"socket": ("/run/a=b.sock",)}),
        (["pidfile=/run/a.pid", "workdir=/srv"], {"pid_file": "/run/a.pid", "chdir": "/srv"}),
        (["maxchildren=7"], {"threads": 7}),
        (["umask=007"], {"umask": 0o007, "socket_mode": 0o770}),
    ],
)
def test_words(words: list[str], given: dict[str, Any]) -> None:
    assert read_words(words) == (given, [])


@pytest.mark.parametrize(
    "word",
    [
        "method=prefork",
        "maxrequests=100",
        "maxspare=5",
        "minspare=2",
        "outlog=/var/log/out",
        "errlog=/var/log/err",
        "debug=true",
    ],
)
def test_words_that_are_not_honoured(word: str) -> None:
    given, warnings = read_words([word])
    assert given == {}
    assert [text.partition(":")[0] for text in warnings] == [f"{word} is ignored"]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("daemonize=true", "daemonize=true: the command always runs in the foreground; "),
        ("protocol=scgi", "protocol=scgi: only FastCGI is supported; "),
        ("protocol=http", "protocol=http: the value must be one of fcgi, scgi, ajp"),
        ("method=forked", "method=forked: the value must be one of prefork, threaded"),
        ("port=web", "port=web: 'web' is not a whole number; the new option is --port"),
        ("pidfle=/run/x", "pidfle=/run/x: unknown argument of runfcgi; did you mean pidfile?"),
        ("socket", "socket: unknown argument of runfcgi; did you mean socket?"),
        ("start", "start: unknown argument of runfcgi; see manage.py help"),
    ],
)
def test_words_that_are_refused(word: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}"):
        read_words([word])


def test_words_of_old(project: DjangoProject) -> None:
    path, pid_file = project.group.folder / "app.sock", project.group.folder / "app.pid"
    words = [f"socket={path}", f"pidfile={pid_file}", f"workdir={project.folder}", "umask=002"]
    process = start(project, "method=threaded", "maxchildren=3", "maxrequests=9", *words)
    assert stat.S_IMODE(path.stat().st_mode) == 0o775
    assert pid_file.read_text().strip() == str(process.pid)
    answer = shown(path)
    assert (answer["says"], answer["path"], answer["url"]) == ("hello", "/show", "/show")
    assert (answer["folder"], answer["umask"]) == (str(project.folder), 0o002)
    assert answer["multithread"] is True
    process.wait_for_log("runfcgi: maxrequests=9 is ignored: ")
    assert process.stop() == 0
    assert not path.exists()
    assert not pid_file.exists()


def test_options_of_today(project: DjangoProject) -> None:
    """They are those of ``vsgi-fcgi``, and so are the other sources of settings."""
    (project.group.folder / "pyproject.toml").write_text("[tool.vsgi-fcgi]\nthreads = 3\n")
    path = project.group.folder / "app.sock"
    process = start(project, "--bind", f"unix:{path}", "--worker", "main", "--no-color")
    assert shown(path)["multithread"] is False
    assert process.stop(signal.SIGINT) == 0
    run = project.run("runfcgi", "--check-config", "--settings", "mysite.settings")
    assert run.returncode == 0, run.stderr
    assert 'app = "mysite.wsgi:application"' in run.stdout
    assert re.search(r"threads = 3 +# pyproject.toml", run.stdout)
    # manage.py's own help has them all.
    text = project.run("help", "runfcgi").stdout
    names = {f"--{name.replace('_', '-')}" for name in SERVE.fields if name != "app"}
    assert names <= set(re.findall(r"--[a-z0-9-]+", text))
    assert "KEY=VALUE" in text


def test_a_project_that_names_no_app(project: DjangoProject) -> None:
    project.add("WSGI_APPLICATION = None\n")
    path = project.group.folder / "app.sock"
    process = start(project, "--socket", str(path))
    assert shown(path)["says"] == "hello"
    assert process.stop() == 0


def _no_words(project: DjangoProject) -> tuple[str, ...]:
    return ()


def _no_app(project: DjangoProject) -> tuple[str, ...]:
    project.add("WSGI_APPLICATION = 'mysite.wsgi.aplication'\n")
    return ("--socket", "app.sock")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (_no_words, "fd 0 is not a listening socket; "),
        (lambda project: ("--threads", "0"), "--threads is 0, but must be at least 1"),
        (_no_app, "mysite.wsgi has no attribute aplication; did you mean application"),
    ],
)
def test_what_has_to_be_mended(
    project: DjangoProject, arguments: Callable[[DjangoProject], tuple[str, ...]], sentence: str
) -> None:
    run = project.run("runfcgi", *arguments(project))
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith(f"CommandError: {sentence}")
    assert "Traceback" not in run.stderr


def test_reload(project: DjangoProject) -> None:
    path = project.group.folder / "app.sock"
    process = start(project, "--socket", str(path), "--reload")
    assert shown(path)["says"] == "hello"
    project.views.write_text(project.views.read_text().replace('"hello"', '"good evening"'))
    wait_until(lambda: shown(path)["says"] == "good evening", "the new code")
    assert process.stop() == 0


def test_an_app_whose_threads_go_on(project: DjangoProject) -> None:
    """They keep the process from its end no longer than the graceful timeout."""
    with project.views.open("a") as file:
        file.write("threading.Thread(target=threading.Event().wait, daemon=False).start()\n")
    path = project.group.folder / "app.sock"
    process = start(project, "--socket", str(path), "--graceful-timeout", "1")
    assert shown(path)["says"] == "hello"
    assert process.stop(within=5) == 1
