"""Test the arguments and settings of ``vsgi-fcgi gateway`` and ``vsgi-fcgi relay``."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import complaints, run_command

from vsgi_fcgi.cli.commands import COMMANDS
from vsgi_fcgi.cli.settings.command import option_name
from vsgi_fcgi.cli.settings.command_line import parse
from vsgi_fcgi.cli.settings.resolve import resolve
from vsgi_fcgi.exceptions import UsageError

OTHERS = [command for command in COMMANDS.values() if command.name]


@pytest.mark.parametrize("command", OTHERS, ids=lambda command: command.name)
def test_each_setting_is_an_option(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = [item for item in OTHERS if item is command]
    with pytest.raises(SystemExit, match=r"^0$"):
        parse([found.name, "--help"])
    out = capsys.readouterr().out
    words = set(out.replace(",", " ").split())
    assert {option_name(name) for name in found.fields} <= words
    assert max(map(len, out.splitlines())) <= 80


def test_the_line_beats_the_environment_and_that_the_file(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("threads = 3\n[gateway]\nconnections = 2\nmax-queued = 5\nhttp-timeout = 1\n")
    line = parse(["gateway", "--config", str(path), "--connections", "4"])
    variables = {"VSGI_FCGI_MAX_QUEUED": "6", "VSGI_FCGI_UPSTREAM": "unix:/a,unix:/b"}
    found = resolve(line, variables)
    options = found.options
    assert (options.connections, options.max_queued, options.http_timeout) == (4, 6, 1.0)
    assert options.upstream == ("unix:/a", "unix:/b")
    assert found.origins["http_timeout"] == str(path)
    assert found.origins["upstream"] == "VSGI_FCGI_UPSTREAM"


def test_settings_of_other_commands_are_left_to_them(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("threads = 3\n[gateway]\nconnections = 2\n[relay]\nconnections = 7\n")
    variables = {"VSGI_FCGI_THREADS": "5", "VSGI_FCGI_CONNECTIONS": "9"}
    options = resolve(parse(["relay", "--config", str(path)]), {}).options
    assert options.connections == 7
    serving = resolve(parse(["app", "--config", str(path)]), variables).options
    assert serving.threads == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gateway]\nconections = 2\n", "conections.*the table gateway.*did you mean connections"),
        (
            "[gateway]\nthreads = 2\n",
            "threads in the table gateway of .*: there is no such setting",
        ),
        ("gateway = 2\n", "write \\[gateway\\]"),
    ],
)
def test_what_makes_no_sense_in_a_table(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        resolve(parse(["gateway", "--config", str(path)]), {})


@pytest.mark.process
def test_one_sentence_says_what_is_wrong(tmp_path: Path) -> None:
    cases = [
        ("gateway --http 127.0.0.1:0", "--upstream is missing; name the"),
        ("relay --bind unix:./r", "--upstream is missing; name the"),
        ("gateway --upstream unix:./a", "--http is missing; name the address"),
        ("gateway --upstream fd://3 --http 127.0.0.1:0", "fd 3 cannot be connected to"),
        ("gateway --upstream 9000 --http 127.0.0.1:0", "'9000' is not a usable address: write"),
        ("gateway --upstream unix:./a --http unix:./b", "is not a TCP address; write HOST:PORT"),
        ("gateway -u unix:./a --http 127.0.0.1:0 --connections 0", "--connections is 0"),
        ("gateway -u unix:./a --http 127.0.0.1:0 app", "app: unexpected argument"),
        ("relay -u unix:./a", "fd 0 is not a listening socket"),
        ("relay --upstreem x", "--upstreem: there is no such option; did you mean --upstream?"),
        ("app --static /a=.", "--static needs --http"),
        ("app --http 127.0.0.1:0 --static a=.", "write /URL=DIR"),
        ("app --http 127.0.0.1:0 --static /a=nowhere", "/nowhere: there is no folder /"),
        ("app --http 8000", "write 127.0.0.1:8000"),
    ]
    (tmp_path / "app.py").write_text("def app(environ, start):\n    return []\n")
    lines = [words.split() for words, _ in cases]
    for (words, sentence), said in zip(cases, complaints(tmp_path, lines), strict=True):
        assert sentence in said, words


@pytest.mark.process
@pytest.mark.parametrize("words", ["gateway --http 127.0.0.1:0", "relay --bind unix:./r"])
def test_the_configuration_can_be_checked_and_printed(tmp_path: Path, words: str) -> None:
    line = [*words.split(), "--upstream", "unix:./a", "--connections", "3"]
    checked = run_command(tmp_path, *line, "--check-config")
    assert checked.status == 0, checked.err
    assert "connections = 3" in checked.out
    assert checked.out.endswith("\nThe settings are valid.\n")
    assert not (tmp_path / "r").exists()
    printed = run_command(tmp_path, *line, "--print-config")
    assert "connections = 3                           # --connections\n" in printed.out
    assert "response-timeout = 60 " in printed.out


@pytest.mark.process
def test_apps_of_these_names_can_still_be_named(tmp_path: Path) -> None:
    (tmp_path / "gateway.py").write_text("def app(environ, start):\n    return []\n")
    checked = run_command(tmp_path, "gateway:app", "--check-config")
    assert checked.status == 0, checked.err
