from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import vsgi_fcgi
from vsgi_fcgi.cli import main
from vsgi_fcgi.cli.arguments import make_parser, option_name, parse
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.addresses import DescriptorAddress, InetAddress, UnixAddress
from vsgi_fcgi.server.config import Config

ROOT = str(Path(vsgi_fcgi.__file__).parent.parent)


def command(
    *arguments: str, cwd: Path, stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "vsgi_fcgi", *arguments],
        cwd=cwd,
        stdin=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=False,
        timeout=30,
    )


def complaint(*arguments: str, cwd: Path) -> str:
    """What the command says when it cannot start: one line on stderr, nothing else."""
    run = command(*arguments, cwd=cwd)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("vsgi-fcgi: ")
    assert run.stderr.count("\n") == 1
    return run.stderr.removeprefix("vsgi-fcgi: ").rstrip("\n")


# Options


def test_every_setting_has_an_option() -> None:
    arguments = ["app"]
    expected = {}
    for number, item in enumerate(dataclasses.fields(Config)):
        choices = item.metadata["choices"]
        value = choices[-1] if choices else "/spool"
        if isinstance(item.default, (int, float)):
            value = type(item.default)((item.metadata["least"] or 0) + number + 1)
        expected[item.name] = value
        arguments += [option_name(item.name), str(value)]
    assert dataclasses.asdict(parse(arguments).config) == expected


def test_without_options_all_is_default() -> None:
    arguments = parse(["module:app"])
    assert arguments.app == "module:app"
    assert arguments.config == Config()
    assert arguments.addresses == [DescriptorAddress(0)]
    assert arguments.chdir is None


def test_long_and_short_options_of_where_to_listen_fill_one_list() -> None:
    words = "-a 10.0.0.1:80 --address=10.0.0.2:80 -p 81 --port 82 -s /s --socket /t"
    words += " -f 5 --file-descriptor 6 -b unix:/u --bind fd://7 -A -4 app"
    assert [str(address) for address in parse(words.split()).addresses] == [
        *("10.0.0.1:80", "10.0.0.2:80", "0.0.0.0:81", "0.0.0.0:82"),
        *("/s", "/t", "fd 5", "fd 6", "/u", "fd 7"),
    ]
    assert parse(["-6", "-p", "80", "x"]).addresses == [InetAddress("::1", 80)]


def test_parsing_twice_shares_nothing() -> None:
    parser = make_parser()
    parser.parse_args(["-s", "/a", "app"])
    assert parser.parse_args(["-s", "/b", "app"]).socket == ["/b"]
    assert parse(["--socket", "/b", "app"]).addresses == [UnixAddress("/b")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "the following arguments are required: APP"),
        ("app more", "unrecognized arguments: more"),
        ("app --nope", "unrecognized arguments: --nope"),
        ("app --thread 3", "unrecognized arguments: --thread 3"),
        ("app --threads", "argument --threads: expected one argument"),
        ("app --threads many", "argument --threads: 'many' is no whole number"),
        ("app --send-timeout soon", "argument --send-timeout: 'soon' is no number"),
        ("app --port http", "argument --port/-p: 'http' is no whole number"),
        ("app --worker greenlets", "argument --worker: invalid choice: 'greenlets'"),
        ("app --threads 0", "--threads is 0, but must be at least 1"),
        ("app --max-body-bytes=-1", "--max-body-bytes is -1, but must be at least 0"),
        ("app --send-timeout nan", "--send-timeout is nan, but must be at least 0.001"),
        ("app -4 -6", "--ipv4-only and --ipv6-only exclude each other"),
        ("app -b 9000", "write 127.0.0.1:9000"),
    ],
)
def test_what_cannot_be_understood(words: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words.split())
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
    assert {option_name(item.name) for item in dataclasses.fields(Config)} <= words
    assert {"-a", "-p", "-s", "-f", "-b", "-A", "-4", "-6", "--chdir", "--version"} <= words
    assert "(default: 1024)" in " ".join(text.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"vsgi-fcgi {vsgi_fcgi.__version__}\n"


def test_the_command_is_cheap_to_import() -> None:
    code = "import sys, vsgi_fcgi.cli; print({'gevent', 'argparse', 'socket'} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert run.stdout == "set()\n"


# What keeps the command from starting


def test_fd_0_is_no_listening_socket(tmp_path: Path) -> None:
    assert complaint("module:app", cwd=tmp_path) == (
        "fd 0 is not a listening socket; start me from a web server or spawn-fcgi,"
        " or name an address with --bind"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: APP"),
        (["app", "--threads", "0"], "--threads is 0, but must be at least 1"),
        (["app", "--chdir", "nowhere"], "--chdir nowhere cannot be entered: No such file"),
        (["module:", "-s", "a"], "'' does not name an app"),
        (["app", "--bind", "run/a"], "write unix:run/a"),
        (["app", "--bind", "./run/a"], "there is no folder"),
        (["app", "--bind", "192.0.2.1:9000"], "this machine has no such address"),
        (["app", "--socket", "x" * 200], "choose a shorter one"),
    ],
)
def test_one_sentence_and_exit_status_2(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    assert sentence in complaint(*arguments, cwd=tmp_path)


def test_an_app_that_is_missing_leaves_no_socket_behind(tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "mysite.py").touch()
    message = complaint("mysit:app", "--chdir", "sites", "--socket", "a.sock", cwd=tmp_path)
    assert message == (
        f"there is no module mysit in {tmp_path}/sites or elsewhere on the path of Python;"
        " did you mean mysite?"
    )
    assert not (tmp_path / "sites" / "a.sock").exists()


def test_a_failing_app_shows_its_traceback_and_then_the_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import os\nos.environ['NO_SUCH_SETTING']\n")
    run = command("broken:app", "--socket", "a.sock", cwd=tmp_path)
    assert run.returncode == 2
    first, *_, before, last = run.stderr.splitlines()
    assert first == "Traceback (most recent call last):"
    assert before == "KeyError: 'NO_SUCH_SETTING'"
    assert last == "vsgi-fcgi: importing broken failed with KeyError: 'NO_SUCH_SETTING'"
    assert f'File "{tmp_path}/broken.py", line 2' in run.stderr
    assert ROOT not in run.stderr.replace(str(tmp_path), "")
    assert not (tmp_path / "a.sock").exists()


def test_the_app_is_loaded_when_the_socket_listens_and_fd_0_has_moved(tmp_path: Path) -> None:
    # The app fails on purpose, as the command would serve on.
    (tmp_path / "nosy.py").write_text(
        "import os\nraise LookupError(os.path.exists('a.sock'), os.readlink('/proc/self/fd/0'))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as parent:
        run = command("nosy:app", "-f", "0", "-s", "a.sock", cwd=tmp_path, stdin=parent.fileno())
    assert run.stderr.splitlines()[-1] == (
        "vsgi-fcgi: importing nosy failed with LookupError: (True, '/dev/null')"
    )


def test_patched_threading_under_worker_threads(tmp_path: Path) -> None:
    (tmp_path / "green.py").write_text(
        "from gevent import monkey\nmonkey.patch_all()\napp = print\n"
    )
    assert "remove monkey.patch_all() or use --worker main" in complaint(
        "green:app", "--socket", "a.sock", cwd=tmp_path
    )
    assert not (tmp_path / "a.sock").exists()


def test_ctrl_c_while_the_app_is_loading_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("raise KeyboardInterrupt\n")
    run = command("slow:app", "--socket", "a.sock", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (130, "")
    assert not (tmp_path / "a.sock").exists()
