"""Run the code on the pages of the documentation and in the README."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.pages import PAGES, TUTORIAL, Block, all_blocks
from support.processes import ProcessGroup, wait_until

from vsgi_fcgi.cli.commands import (
    COMMANDS,
    CONFIG,
    GATEWAY,
    REPLAY,
    SERVE,
    STACKS,
    STATUS,
    TIMELINE,
)
from vsgi_fcgi.cli.commands.config import make_files
from vsgi_fcgi.cli.settings.command import variable_name
from vsgi_fcgi.cli.settings.command_line import CommandLine, parse
from vsgi_fcgi.cli.settings.resolve import resolve

_COMMAND = re.compile(
    r"^(?:\$ )?(?:sudo (?:-u \S+ )?|.* -- )?(?:[A-Z_]+=\S+ )*(?:\S*/)?vsgi-fcgi (?P<words>.*)$",
    re.MULTILINE,
)
# A setting and its default: "{option}`--graceful-timeout` seconds (30)".
_DEFAULT = re.compile(
    r"\{option\}`--(?P<name>[a-z-]+)`(?: seconds)?\s"
    r"\((?P<number>\d[\d,.]*)(?: (?P<unit>[KMG]iB))?[);]"
)
_UNITS = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# The files of the tutorial belong together: another test follows it.
PYTHON = [block for block in all_blocks("python") if block.page != TUTORIAL]
_SERVES = re.compile(r"^\s.*\bserver\.run\(\)", re.MULTILINE)


@pytest.mark.process
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python(block: Block, processes: ProcessGroup) -> None:
    script = processes.folder / "code.py"
    script.write_text(block.text)
    process = processes.start([sys.executable, "-W", "error", str(script)], name="code")
    if not _SERVES.search(block.text):
        assert process.wait() == 0, process.log()
        return

    def connect() -> Client | None:
        assert process.running, process.log()
        with contextlib.suppress(OSError):
            return Client(str(processes.folder / "app.sock"))
        return None

    client = wait_until(connect, "the server")
    assert client is not None
    with client:
        client.start(1)
        client.stdin(1)
        assert client.answer(1).status == 200
    assert process.stop(signal.SIGTERM) == 0, process.log()


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_configuration_files(block: Block, tmp_path: Path) -> None:
    path = tmp_path / (Path(block.caption).name or "settings.toml")
    path.write_text(block.text)
    configuration = resolve(CommandLine(SERVE, {}, str(path), None), {})
    configuration.options.addresses()
    assert str(path) in configuration.origins.values(), "it sets nothing"


def command_lines() -> list[tuple[Block, str]]:
    """Every line that calls the command, with the block that has it."""
    found = []
    for block in all_blocks("console", "sh", "shell", "bash", "ini", "systemd", ""):
        text = block.text.replace("\\\n", " ")
        text = re.sub(r"^ExecStart=", "", text, flags=re.MULTILINE)
        found += [(block, match["words"]) for match in _COMMAND.finditer(text)]
    return found


@pytest.mark.parametrize(("block", "words"), command_lines(), ids=str)
def test_command_lines(block: Block, words: str) -> None:
    lexer = shlex.shlex(words, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    given: list[str] = []
    for word in lexer:
        if word and set(word) <= set("&|;<>()"):
            break
        given.append(word)
    if given[:1] in (["--help"], ["--version"], ["--print-completion"]):
        with pytest.raises(SystemExit, match=r"^0$"):
            parse(given)
        return
    line = parse(given)
    configuration = resolve(CommandLine(line.command, line.given, None, line.action), {})
    if line.command in (STATUS, STACKS):
        assert configuration.options.status_address
        return
    if line.command in (REPLAY, TIMELINE):
        assert configuration.options.recording
        return
    if line.command is GATEWAY:
        assert configuration.options.http
    else:
        configuration.options.addresses()
    if line.command is CONFIG:
        assert make_files(configuration)
    elif line.command is not SERVE and line.command.base is not SERVE:
        assert configuration.options.upstream
        return
    # Without an app, --http serves the demonstration.
    has_app = configuration.options.app or configuration.options.http
    assert line.config or line.action or has_app


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_variables(page: Path) -> None:
    known = {variable_name(name) for command in COMMANDS.values() for name in command.fields}
    known |= {"VSGI_FCGI_CONFIG", "VSGI_FCGI_CHECK_CONTRACT", "VSGI_FCGI_PURE"}
    named = set(re.findall(r"\bVSGI_FCGI_[A-Z0-9_]*[A-Z0-9]\b", page.read_text()))
    assert named <= known


def defaults() -> list[tuple[Path, str, float]]:
    """Every default that a page gives after the name of a setting."""
    return [
        (page, match["name"], float(match["number"].replace(",", "")) * _UNITS[match["unit"]])
        for page in PAGES
        for match in _DEFAULT.finditer(page.read_text())
    ]


@pytest.mark.parametrize(("page", "name", "number"), defaults(), ids=str)
def test_defaults(page: Path, name: str, number: float) -> None:
    options = resolve(parse(["app"]), {}).options
    assert getattr(options, name.replace("-", "_")) == number, page


def test_that_code_is_found() -> None:
    """A collector that finds nothing would make all of the above pass."""
    assert len(PYTHON) >= 5
    assert len(command_lines()) >= 10
    assert len(defaults()) >= 5
