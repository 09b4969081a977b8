"""What each part of the package may load, and when."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vsgi_fcgi
import vsgi_fcgi.demo
import vsgi_fcgi.protocol
import vsgi_fcgi.wsgi

PACKAGE_FOLDER = Path(vsgi_fcgi.__file__).parents[1]
PROJECT_FOLDER = Path(__file__).parents[1]

HEAVY = {"gevent", "socket", "_socket", "threading", "logging", "select", "asyncio", "werkzeug"}

# Runs without site-packages, the environment and the current folder, so that nothing but the
# import itself can have loaded a module.
LOADED_BY = """
import json, sys
before = set(sys.modules)
sys.path.append(sys.argv[1])
{statement}
print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))
"""


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter loads for a statement."""
    code = LOADED_BY.format(statement=statement)
    command = [sys.executable, "-I", "-S", "-c", code, str(PACKAGE_FOLDER)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stderr
    before, loaded = json.loads(run.stdout)
    assert not HEAVY & set(before), "this interpreter starts with them"
    return set(loaded)


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
    allowed = {"vsgi_fcgi", "vsgi_fcgi.exceptions", *modules_of(vsgi_fcgi.protocol)}
    assert ours <= allowed


def test_the_demonstration_is_an_app_like_any_other() -> None:
    loaded = loaded_by("import vsgi_fcgi.demo")
    ours = {name for name in loaded if name.startswith("vsgi_fcgi")}
    assert ours == {"vsgi_fcgi", *modules_of(vsgi_fcgi.demo)}
    assert not {"gevent", "_socket"} & loaded


def test_the_package_loads_nothing_until_it_is_asked() -> None:
    loaded = loaded_by("import vsgi_fcgi; vsgi_fcgi.__version__")
    assert {name for name in loaded if name.startswith("vsgi_fcgi")} == {"vsgi_fcgi"}
    assert not HEAVY & loaded


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
