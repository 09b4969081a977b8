"""Test which modules each part of the package loads, and when."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import werkzeug
from support.commands import serve
from support.processes import free_port

import vsgi_fcgi
import vsgi_fcgi.demo
import vsgi_fcgi.protocol
import vsgi_fcgi.wsgi

pytestmark = pytest.mark.process

PACKAGE_FOLDER = Path(vsgi_fcgi.__file__).parents[1]
WERKZEUG_FOLDER = Path(werkzeug.__file__).parents[1]
PROJECT_FOLDER = Path(__file__).parents[1]

HEAVY = {"gevent", "socket", "_socket", "threading", "logging", "select", "asyncio", "werkzeug"}

# Runs without site-packages, the environment and the current folder, so that nothing but the
# import itself can have loaded a module.
LOADED_BY = """
import json, sys
before = set(sys.modules)
sys.path += sys.argv[1:]
{statement}
print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))
"""


def loaded_by(statement: str, *folders: Path) -> set[str]:
    """The modules that a fresh interpreter loads for a statement.

    Args:
        statement: the statement.
        *folders: where it may import from, besides the folder of the package.
    """
    code = LOADED_BY.format(statement=statement)
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, (PACKAGE_FOLDER, *folders))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stderr
    before, loaded = json.loads(run.stdout)
    assert not HEAVY & set(before), "this interpreter starts with them"
    return set(loaded)


# Writes the names of the loaded modules to a file, once it answers.
TELLS_WHAT_IS_LOADED = """
import pathlib, sys

def app(environ, start_response):
    pathlib.Path("loaded.txt").write_text("\\n".join(sys.modules))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""


Loaded = Callable[..., frozenset[str]]


@pytest.fixture(scope="module")
def loaded_while_serving(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Returns the modules that the command has loaded when it answers a request.

    One server for tests that ask about the same options.
    """

    @cache
    def loaded(*options: str) -> frozenset[str]:
        folder = tmp_path_factory.mktemp("serving")
        (folder / "shows.py").write_text(TELLS_WHAT_IS_LOADED)
        http = (f"127.0.0.1:{free_port()}",) if "--http" in options else ()
        output = serve(folder, "shows:app", *options, *http)
        assert output.status == 0, output.err
        return frozenset((folder / "loaded.txt").read_text().split())

    return loaded


def modules_of(package: Any) -> list[str]:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [package.__name__, *(module.name for module in found)]


PURE = [*modules_of(vsgi_fcgi.protocol), *modules_of(vsgi_fcgi.wsgi), "vsgi_fcgi.exceptions"]


def test_the_lower_storeys_load_no_gevent_no_sockets_and_no_threads() -> None:
    loaded = loaded_by("import " + ", ".join(PURE))
    assert loaded.issuperset(PURE)
    assert not HEAVY & loaded
    assert not {name for name in loaded if name.startswith(("vsgi_fcgi.server", "vsgi_fcgi.cli"))}


def test_the_protocol_loads_nothing_of_ours_but_itself_and_the_exceptions() -> None:
    ours = {name for name in loaded_by("import vsgi_fcgi.protocol") if name.startswith("vsgi_fcgi")}
    # The library that the compiled modules share is one file.
    allowed = {"vsgi_fcgi", "vsgi_fcgi__mypyc", "vsgi_fcgi.exceptions"}
    allowed |= {*modules_of(vsgi_fcgi.protocol)}
    assert ours <= allowed


def test_the_demonstration_is_an_app_like_any_other() -> None:
    loaded = loaded_by("import vsgi_fcgi.demo", WERKZEUG_FOLDER)
    ours = {name for name in loaded if name.startswith("vsgi_fcgi")}
    assert ours == {"vsgi_fcgi", *modules_of(vsgi_fcgi.demo)}
    assert "gevent" not in loaded


def test_the_package_loads_nothing_until_it_is_asked() -> None:
    loaded = loaded_by("import vsgi_fcgi; vsgi_fcgi.__version__")
    assert {name for name in loaded if name.startswith("vsgi_fcgi")} == {"vsgi_fcgi"}
    assert not HEAVY & loaded


@pytest.mark.parametrize("options", [(), ("--worker", "main"), ("--http",)], ids=" ".join)
def test_serving_an_app_loads_no_more_than_it_uses(
    options: tuple[str, ...], loaded_while_serving: Loaded
) -> None:
    """Werkzeug takes 35 ms and 8 MiB, and the others 8 ms, which a plain server does not pay."""
    loaded = loaded_while_serving(*options)
    assert "vsgi_fcgi.server.server" in loaded
    assert not {name for name in loaded if name.startswith("werkzeug")}
    assert not {"difflib", "logging.config", "tomllib"} & loaded


OPTIONAL = {
    "--debug": ("vsgi_fcgi.cli.commands.debugger",),
    "--max-requests 100": ("vsgi_fcgi.server.recycling",),
    "--processes 1": ("vsgi_fcgi.supervisor.child",),
    "--push": (
        "vsgi_fcgi.push.held",
        "vsgi_fcgi.push.instruction",
        "vsgi_fcgi.push.items",
        "vsgi_fcgi.push.publishing",
        "vsgi_fcgi.server.inner_request",
    ),
    "--queue-timeout 10": ("vsgi_fcgi.server.watching",),
    "--record .": ("vsgi_fcgi.transport.recorder",),
    "--slow-request 10": ("vsgi_fcgi.server.stacks",),
    "--status-path /_status": ("vsgi_fcgi.server.publishing", "vsgi_fcgi.status.scoreboard"),
    "--worker greenlet": ("vsgi_fcgi.server.workers.greenlets",),
    "--worker main": ("vsgi_fcgi.server.workers.main",),
}
"""Modules that a plain server does not need, by an option that loads them."""


def test_a_plain_server_loads_no_modules_of_options_that_are_off(
    loaded_while_serving: Loaded,
) -> None:
    loaded = loaded_while_serving()
    optional = {module for modules in OPTIONAL.values() for module in modules}
    assert not loaded & {*optional, "vsgi_fcgi.server.notify", "vsgi_fcgi.supervisor.process"}
    assert not {name for name in loaded if name.startswith("vsgi_fcgi.recording.")}
    assert {name for name in loaded if name.startswith("vsgi_fcgi.push.")} == {
        "vsgi_fcgi.push.config"
    }


APART = ("--debug", "--processes 1", "--worker greenlet", "--worker main")
"""Options that exclude others."""


@pytest.mark.parametrize(
    "options",
    [*((option,) for option in APART), tuple(option for option in OPTIONAL if option not in APART)],
    ids=" ".join,
)
def test_options_load_their_modules(options: tuple[str, ...], loaded_while_serving: Loaded) -> None:
    """The names above exist."""
    loaded = loaded_while_serving(*" ".join(options).split())
    for option in options:
        assert loaded.issuperset(OPTIONAL[option]), option


def test_processes_of_a_supervisor_load_nothing_that_reload_needs(
    loaded_while_serving: Loaded,
) -> None:
    loaded = loaded_while_serving("--processes", "1")
    assert "vsgi_fcgi.supervisor.child" in loaded
    assert not loaded & {"vsgi_fcgi.supervisor.watched", "vsgi_fcgi.supervisor.watcher"}


@pytest.mark.parametrize("option", ["--static /files=.", "--debug"])
def test_werkzeug_is_loaded_by_the_options_that_use_it(
    option: str, loaded_while_serving: Loaded
) -> None:
    assert "werkzeug" in loaded_while_serving(*option.split(), "--http")


def test_a_forbidden_import_would_be_seen() -> None:
    """The tests above can fail."""
    assert {"socket", "threading"} <= loaded_by("import socket, threading")


@pytest.mark.parametrize("name", sorted({*vsgi_fcgi.__all__} - {"__version__"}))
def test_the_names_of_the_package_are_there_when_they_are_used(name: str) -> None:
    assert getattr(vsgi_fcgi, name).__name__ == name


def test_a_name_that_the_package_does_not_have() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sever'"):
        vsgi_fcgi.Sever  # noqa: B018


def test_the_storeys_of_the_package_are_kept() -> None:
    """The contracts are in ``pyproject.toml``."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    run = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 0 broken" in run.stdout
