from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.commands import complaint, complaints, run_command, serve

pytestmark = pytest.mark.process

EXAMPLE = Path(__file__).parents[2] / "examples" / "logging.toml"

APP = """
import logging

logger = logging.getLogger(__name__)

def app(environ, start_response):
    logger.info("a logger that the app has made before")
    if environ["PATH_INFO"] == "/fails":
        raise LookupError("in the app")
    environ["wsgi.errors"].write("written by the app\\n")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""

MUTING = {
    "version": 1,
    "disable_existing_loggers": True,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def test_the_example(folder: Path) -> None:
    config = ("--log-config", str(EXAMPLE), "--access-log", "logger", "--log-level", "critical")
    output = serve(folder, "app", *config, paths=("/", "/fails"))
    assert (output.status, output.out) == (0, "")
    assert "INFO vsgi_fcgi: listening on" in output.err
    assert output.err.count("INFO app: a logger that the app has made before") == 2
    assert "ERROR vsgi_fcgi.app: written by the app" in output.err
    errors = [json.loads(line) for line in (folder / "errors.json").read_text().splitlines()]
    assert errors[0]["message"] == "written by the app"
    assert any("LookupError" in error.get("exception", "") for error in errors)
    access = (folder / "access.log").read_text().splitlines()
    assert len(access) == 2
    assert not any(line in output.err for line in access)


@pytest.mark.parametrize("name", ["log.json", "log.conf"])
def test_a_file_of_json_that_disables_existing_loggers(folder: Path, name: str) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / name).write_text(json.dumps(MUTING))
    output = serve(folder, "app", "--chdir", str(folder), "--log-config", f"etc/{name}")
    assert re.match("vsgi_fcgi .*\nlistening on .*\nwritten by the app\n", output.err)
    assert "a logger that the app has made before" not in output.err


BASE = "version = 1\nroot.handlers = ['one']\n"


def test_a_file_that_cannot_be_used(folder: Path) -> None:
    cases = [
        ("log.toml", None, "cannot be read: No such file or directory"),
        ("log.toml", "version = 1\n[root", "is not valid TOML: Expected ']' at the end of a table"),
        ("log.conf", '\n{"version": 1', "is not valid JSON: Expecting ',' delimiter: line 2"),
        ("log.json", "version = 1", "is not valid JSON: Expecting value: line 1"),
        ("log.json", "[1]", "is not a JSON object"),
        ("log.toml", "", ": dictionary doesn't specify a version"),
        ("log.toml", BASE, ": Unable to configure root logger: "),
        (
            "log.toml",
            f"{BASE}[handlers.one]\nclass = 'logging.FileHandler'\nfilename = 'no/where.log'",
            ": Unable to configure handler 'one': [Errno 2] No such file",
        ),
        (
            "log.toml",
            f"{BASE}[handlers.one]\nclass = 'no_such.Handler'",
            "Unable to configure handler 'one': Cannot resolve 'no_such.Handler': No module",
        ),
        ("log.toml", "version = 1\nhandlers = 3", ": "),
    ]
    lines = []
    for number, (name, text, _) in enumerate(cases):
        if text is not None:
            (folder / f"{number}{name}").write_text(text)
        lines.append(("app", "--check-config", "--log-config", f"{number}{name}"))
    said = complaints(folder, lines)
    for number, ((name, _, sentence), line) in enumerate(zip(cases, said, strict=True)):
        assert line.startswith(f"--log-config {folder / f'{number}{name}'}")
        assert sentence in line


def test_a_file_that_is_no_text(folder: Path) -> None:
    (folder / "log.toml").write_bytes(b"\xff")
    assert "cannot be read: 'utf-8' codec" in complaint(
        folder, "app", "-s", "app.sock", "--log-config", "log.toml"
    )


def test_checking_a_file_that_can_be_used(folder: Path) -> None:
    output = run_command(folder, "app", "--check-config", "--log-config", str(EXAMPLE))
    assert (output.status, output.err) == (0, "")
