"""Test the list of commands in the main help, and what each command imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.processes import unmeasured

from vsgi_fcgi.cli.commands import COMMANDS
from vsgi_fcgi.cli.settings.command_line import parse
from vsgi_fcgi.front_ends.registry import NAMES

OTHERS = [name for name in COMMANDS if name]
MODULES = {name: f"vsgi_fcgi.cli.commands.{name or 'serve'}" for name in COMMANDS}
MODULES["stacks"] = MODULES["status"]
MODULES["timeline"] = MODULES["replay"]


def test_the_main_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        parse(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith(
        "usage: vsgi-fcgi [OPTIONS] APP"
        " vsgi-fcgi {config,doctor,gateway,relay,status,stacks,replay,timeline} ..."
    )
    assert "config PROGRAM print the configuration" in out
    for name in OTHERS:
        assert COMMANDS[name].summary in out


@pytest.mark.process
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_nothing_of_another(name: str) -> None:
    words = [name] if name else []
    if name == "config":
        words.append("nginx")
    code = (
        "import sys\nfrom vsgi_fcgi.cli import main\n"
        f"try: main({[*words, '--help']!r})\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=unmeasured(),
    )
    loaded = set(run.stdout.partition("LOADED")[2].split())
    others = {module for module in MODULES.values() if module != MODULES[name]}
    assert not others & loaded
    assert "gevent" not in loaded


@pytest.mark.parametrize("program", NAMES)
def test_the_help_of_a_program_shows_what_concerns_it(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        parse(["config", program, "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: vsgi-fcgi config {program} [OPTIONS] APP\n")
    assert "--script-name PATH" in out
    assert ("--standalone" in out) == (program != "systemd")
    # All others are accepted, but they say nothing about this program.
    assert "--max-params-count" not in out
    line = parse(["config", program, "--max-params-count", "7", "app"])
    assert line.given == {"program": program, "max_params_count": 7, "app": "app"}
