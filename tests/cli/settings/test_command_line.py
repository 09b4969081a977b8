from __future__ import annotations

import dataclasses
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from support.processes import unmeasured
from support.settings import other_text, other_value

import vsgi_fcgi
from vsgi_fcgi.addresses import DescriptorAddress, InetAddress, UnixAddress
from vsgi_fcgi.build import BUILD
from vsgi_fcgi.cli import main
from vsgi_fcgi.cli.commands import SERVE
from vsgi_fcgi.cli.settings.command import option_name
from vsgi_fcgi.cli.settings.command_line import make_parser, parse
from vsgi_fcgi.cli.settings.options import Options
from vsgi_fcgi.cli.settings.resolve import resolve
from vsgi_fcgi.exceptions import UsageError

ROOT = str(Path(vsgi_fcgi.__file__).parent.parent)


def options(words: str) -> Options:
    """Return the configuration for a command line, without a file and variables."""
    found: Options = resolve(parse(words.split()), {}).options
    return found


@pytest.mark.parametrize("name", SERVE.fields)
def test_every_setting_has_an_option(name: str) -> None:
    arguments = [option_name(name), other_text(name), "app"]
    if SERVE.fields[name].default is False:
        arguments = [option_name(name), "app"]
    elif SERVE.fields[name].default is True:
        arguments = [option_name(name).replace("--", "--no-", 1), "app"]
    elif name == "app":
        arguments = [other_text(name)]
    expected = dataclasses.replace(Options(app="app"), **{name: other_value(name)})
    assert resolve(parse(arguments), {}).options == expected
    assert getattr(expected, name) != SERVE.fields[name].default


def test_without_options_all_is_default() -> None:
    found = options("module:app")
    assert found == Options(app="module:app")
    assert found.addresses() == [DescriptorAddress(0)]


def test_what_can_be_said_can_be_unsaid() -> None:
    assert options("app --reload --no-reload").reload is False
    assert options("app --no-live-reload --live-reload").reload is True


def test_long_and_short_options_of_where_to_listen_fill_one_list() -> None:
    words = "-a 10.0.0.1:80 --address=10.0.0.2:80 -p 81 --port 82 -s /s --socket /t"
    words += " -f 5 --file-descriptor 6 -b unix:/u --bind fd://7 -A -4 app"
    assert [str(address) for address in options(words).addresses()] == [
        *("10.0.0.1:80", "10.0.0.2:80", "0.0.0.0:81", "0.0.0.0:82"),
        *("/s", "/t", "fd 5", "fd 6", "/u", "fd 7"),
    ]
    assert options("-6 -p 80 x").addresses() == [InetAddress("::1", 80)]


def test_parsing_twice_shares_nothing() -> None:
    parser = make_parser()
    parser.parse_args(["-s", "/a", "app"])
    assert parser.parse_args(["-s", "/b", "app"]).socket == ["/b"]
    assert options("--socket /b app").addresses() == [UnixAddress("/b")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("app more", "more: unexpected argument"),
        ("app --xyz", "--xyz: there is no such option; see vsgi-fcgi --help"),
        ("app --thread 3", "--thread: there is no such option; did you mean --threads?"),
        (
            "app --max-bodybytes=3",
            "--max-bodybytes: there is no such option; did you mean --max-body-b",
        ),
        ("app --threads", "argument --threads: expected one argument"),
        ("app --threads many", "argument --threads: 'many' is not a whole number"),
        ("app --send-timeout soon", "argument --send-timeout: 'soon' is not a number"),
        ("app --port http", "argument --port/-p: 'http' is not a whole number"),
        ("app --worker greenlets", "argument --worker: invalid choice: 'greenlets'"),
        ("app --threads 0", "--threads is 0, but must be at least 1"),
        ("app --max-body-bytes=-1", "--max-body-bytes is -1, but must be at least 0"),
        ("app --send-timeout nan", "--send-timeout is nan, but must be at least 0.001"),
        (
            "app --socket-mode 660x",
            "argument --socket-mode: '660x' is not an octal number such as 0660",
        ),
        ("app --script-name shop", "--script-name is 'shop', but must be empty or begin with a"),
        ("app --max-memory 1", "--max-memory is 1, but must be at least 1048576"),
        ("app --status-path status", "--status-path is 'status', but must be a path below the"),
        ("app --status-path /", "--status-path is '/', but must be a path below the root"),
        ("app --socket-mode 1777", "--socket-mode is 1777, but must be at most 0777"),
        ("app --umask=-1", "--umask is -1, but must be at least 0000"),
        ("app -4 -6", "--ipv4-only and --ipv6-only exclude each other"),
        ("app -b 9000", "write 127.0.0.1:9000"),
    ],
)
def test_what_cannot_be_understood(words: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        options(words).addresses()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_is_readable_and_complete(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    words = set(re.findall(r"--?[\w-]+", text))
    assert {option_name(name) for name in SERVE.fields if name != "app"} <= words
    assert {"-a", "-p", "-s", "-f", "-b", "-A", "-4", "-6", "--chdir", "--version"} <= words
    assert "(default: 1024)" in " ".join(text.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == (
        f"vsgi-fcgi {vsgi_fcgi.__version__} ({BUILD}, Python {platform.python_version()},"
        f" gevent {version('gevent')}, httptools {version('httptools')},"
        f" werkzeug {version('werkzeug')})\n"
    )


@pytest.mark.process
def test_the_command_is_cheap_to_import() -> None:
    code = "import sys, vsgi_fcgi.cli; print({'gevent', 'argparse', 'socket'} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=unmeasured(),
    )
    assert run.stdout == "set()\n"
