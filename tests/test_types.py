"""Test the types of the settings that are given as keyword arguments, as an editor sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from vsgi_fcgi.client.config import ClientConfig, ClientSettings
from vsgi_fcgi.server.config import Config, Settings
from vsgi_fcgi.settings import Octal

USER_FILE = '''
from vsgi_fcgi import Server
from vsgi_fcgi.client import FastCGIClient
from vsgi_fcgi.client.gateway import Gateway

def app(environ, start_response):  # type: ignore[no-untyped-def]
    """A WSGI app."""
    start_response("200 OK", [])
    return [b""]

Server(app, threads=8, graceful_timeout=5, spool_dir=None, sendfile_folder=("/srv",))
Server(None, authorizer=app)
Server(app, thread=8)  # error: Unexpected keyword argument "thread"
Server(app, threads="8")  # error: incompatible type "str"; expected "int"
Server(app, script_name=b"/shop")  # error: incompatible type "bytes"; expected "str | None"
FastCGIClient("127.0.0.1:9000", connections=2)
FastCGIClient("127.0.0.1:9000", connection=2)  # error: Unexpected keyword argument "connection"
Gateway("127.0.0.1:9000", connect_timeout=1, log_stderr=False)
Gateway("127.0.0.1:9000", connect_timeout="1")  # error: incompatible type "str"; expected "float"
'''


@pytest.mark.parametrize(
    ("written", "config"), [(Settings, Config), (ClientSettings, ClientConfig)]
)
def test_the_keyword_arguments_are_the_settings(written: type, config: type) -> None:
    """mypy reads them, so that nothing can make them of the fields."""
    hints = get_type_hints(config, include_extras=True)
    fields = {name: hints[name] for name in config.__dataclass_fields__}  # type: ignore[attr-defined]
    lines = "".join(f"    {name}: {_spelled(kind)}\n" for name, kind in fields.items())
    given = get_type_hints(written, include_extras=True)
    assert given == fields, f"write this into {written.__name__}:\n{lines}"


def _spelled(kind: object) -> str:
    if kind == Octal:
        return "Octal"
    return kind.__name__ if type(kind) is type else str(kind)


@pytest.mark.process
def test_a_wrong_keyword_is_an_error_in_the_users_editor(tmp_path: Path) -> None:
    file = tmp_path / "serve.py"
    file.write_text(USER_FILE)
    folder = Path(sys.modules["vsgi_fcgi"].__file__ or "").parents[1]
    code = "import sys; from mypy.__main__ import console_entry; console_entry()"
    argv = [sys.executable, "-P", "-c", code, "--strict", "--config-file=", "--hide-error-context"]
    argv += ["--no-error-summary", f"--cache-dir={tmp_path / 'cache'}", file.name]
    environ = {"MYPYPATH": str(folder)} if "site-packages" not in folder.parts else {}
    done = subprocess.run(
        argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=50, check=False
    )
    expected = {
        number: line.partition("# error: ")[2].split("; ")
        for number, line in enumerate(USER_FILE.splitlines(), 1)
        if "# error: " in line
    }
    found = {
        int(line.split(":")[1]): line for line in done.stdout.splitlines() if ": error:" in line
    }
    assert found.keys() == expected.keys(), done.stdout + done.stderr
    for number, words in expected.items():
        assert all(word in found[number] for word in words), found[number]
