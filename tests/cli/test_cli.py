from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import complaints, serve
from support.processes import need_module, unmeasured

import vsgi_fcgi
from vsgi_fcgi.cli.commands import COMMANDS
from vsgi_fcgi.cli.own_process import apply_umask_and_chdir
from vsgi_fcgi.cli.settings.command_line import parse
from vsgi_fcgi.cli.settings.resolve import resolve

pytestmark = pytest.mark.process

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


# What keeps the command from starting


def test_fd_0_is_no_listening_socket(tmp_path: Path) -> None:
    assert complaint("module:app", cwd=tmp_path) == (
        "fd 0 is not a listening socket; start the server from a web server or"
        " spawn-fcgi, or set an address with --bind"
    )


def test_one_sentence_and_exit_status_2(tmp_path: Path) -> None:
    cases: list[tuple[list[str], str]] = [
        ([], "APP is missing; name an app, as in vsgi-fcgi mysite.wsgi, or see --help"),
        (["app", "--threads", "0"], "--threads is 0, but must be at least 1"),
        (["app", "--chdir", "nowhere"], "--chdir nowhere: No such file"),
        (["module:", "-s", "a"], "'' does not name an app"),
        (["app", "--bind", "run/a"], "write unix:run/a"),
        (["app", "--bind", "./run/a"], "run does not exist; create it"),
        (["app", "--bind", "192.0.2.1:9000"], "this machine does not have the address"),
        (["app", "--socket", "x" * 200], "choose a shorter name"),
        (["dcotor", "--socket", "a"], "there is no module dcotor in "),
        (["dcotor", "--socket", "a"], "; did you mean the command doctor?"),
        (["confg", "nginx"], "nginx: unexpected argument; give only one APP; did you mean config?"),
        (["app", "--http-timeout", "9"], "--http-timeout has no effect without --http; add this"),
        (["app", "--record-files", "9"], "--record-files has no effect without --record; add"),
        (["app", "--sendfile-folder", "/srv"], "has no effect without --sendfile;"),
        (["app", "--max-held", "9"], "--max-held has no effect without --push; add this"),
        (["app", "--start-timeout", "9"], "--start-timeout has no effect without --processes"),
    ]
    said = complaints(tmp_path, [arguments for arguments, _ in cases])
    for (arguments, sentence), line in zip(cases, said, strict=True):
        assert sentence in line, arguments


def test_an_app_that_is_missing_leaves_no_socket_behind(tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "mysite.py").touch()
    message = complaint("mysit:app", "--chdir", "sites", "--socket", "a.sock", cwd=tmp_path)
    assert message == (
        f"there is no module mysit in {tmp_path}/sites or elsewhere on Python's path;"
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
    assert "remove monkey.patch_all() or use --worker greenlet" in complaint(
        "green:app", "--socket", "a.sock", cwd=tmp_path
    )
    assert not (tmp_path / "a.sock").exists()


@pytest.mark.parametrize("more", [("--check-config",), ("--worker", "main"), ()])
def test_eventlet_is_refused_before_anything_hangs(more: tuple[str, ...], tmp_path: Path) -> None:
    need_module("eventlet")
    (tmp_path / "green.py").write_text(
        "import warnings\nwarnings.simplefilter('ignore')\n"
        "import eventlet\neventlet.monkey_patch()\napp = print\n"
    )
    assert complaint("green:app", "--socket", "a.sock", *more, cwd=tmp_path) == (
        "eventlet has monkey-patched threading, socket and select, on which this server hangs;"
        " remove eventlet.monkey_patch()"
    )


def test_a_thread_of_ours_is_none_of_eventlet(tmp_path: Path) -> None:
    """The one that bounds the end of the process held it up for five seconds."""
    need_module("eventlet")
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from vsgi_fcgi.transport import unpatched as native\n"
        "import eventlet; eventlet.monkey_patch()\n"
        "found, there = [], native.allocate_lock()\n"
        "there.acquire()\n"
        "def note():\n"
        "    found.append(native.get_ident())\n"
        "    there.release()\n"
        "native.start_thread(note, 'note')\n"
        "assert there.acquire(True, 20)\n"
        "assert found != [native.get_ident()], 'it is a greenlet'\n"
    )
    argv = [sys.executable, "-c", script]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_closed_standard_descriptors_are_not_given_to_the_app(tmp_path: Path) -> None:
    (tmp_path / "opening.py").write_text(
        "import os\nraise LookupError(os.open('/dev/zero', 0) > 2)\n"
    )
    run = subprocess.run(
        f"{sys.executable} -m vsgi_fcgi opening:app -s a.sock 0<&- 1>&- 2>log",
        shell=True,
        cwd=tmp_path,
        timeout=40,
        check=False,
    )
    assert run.returncode == 2
    assert "LookupError: True" in (tmp_path / "log").read_text()


def test_a_spool_folder_must_be_there_at_start(tmp_path: Path) -> None:
    (tmp_path / "site_app.py").write_text("app = print\n")
    for more in (("--check-config",), ()):
        assert complaint(
            "site_app:app", "--socket", "a.sock", "--spool-dir", "spool", *more, cwd=tmp_path
        ) == (
            f"spool_dir {tmp_path}/spool cannot be used: No such file or directory;"
            " name a folder that exists and that this user may write to"
        )


def test_paths_count_from_the_start_folder_wherever_the_app_goes(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "roaming.py").write_text(
        "import os\nos.chdir('elsewhere')\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [b'x']\n"
    )
    (tmp_path / "log.json").write_text('{"version": 1}')
    output = serve(
        tmp_path,
        *("roaming:app", "--spool-dir", "spool", "--access-log", "access.log"),
        *("--log-config", "log.json"),
    )
    assert output.status == 0, output
    assert '"GET / ' in (tmp_path / "access.log").read_text()


def test_a_relative_tmpdir_counts_from_the_start_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python looks for its folder when it is first used, which may be after a chdir."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "elsewhere" / "scratch").mkdir(parents=True)
    (tmp_path / "roaming.py").write_text(
        "import os, tempfile\nos.chdir('elsewhere')\n"
        "def app(environ, start_response):\n"
        "    file = tempfile.NamedTemporaryFile()\n"
        "    environ['wsgi.errors'].write(f'{file.name} {os.environ[\"TMPDIR\"]}')\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [b'x']\n"
    )
    monkeypatch.setenv("TMPDIR", "scratch")
    output = serve(tmp_path, "roaming:app")
    assert output.status == 0, output
    assert f"{tmp_path}/scratch/" in output.err
    assert f" {tmp_path}/scratch\n" in output.err


def test_the_garbage_collector_skips_what_the_import_of_the_app_has_made(tmp_path: Path) -> None:
    (tmp_path / "frozen.py").write_text(
        "import gc\n"
        "objects = [[] for _ in range(1000)]\n"
        "def app(environ, start_response):\n"
        "    seen = 'seen' if objects in gc.get_objects() else 'skipped'\n"
        "    print(seen, gc.isenabled(), flush=True)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'']\n"
    )
    assert serve(tmp_path, "frozen:app").out == "skipped True\n"


PATHS = {
    "static": "/static=files",
    "spool_dir": "spool",
    "pid_file": "run/app.pid",
    "log_config": "log.json",
    "access_log": "access.log",
    "record": "recordings",
    "reload_extra": "templates",
}
ELSEWHERE = {
    "chdir": "is where the others count from",
    "socket": "is opened at once, and knows its whole path then",
    "script_name": "is a path of the site",
    "status_bind": "is opened at once",
    "push_bind": "is opened at once",
    "status_path": "is a path of the site",
    "sendfile_folder": "must be absolute",
}


@pytest.mark.parametrize("name", ["", "doctor", "gateway", "relay"])
def test_the_paths_of_each_command_are_absolute_from_the_start(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = COMMANDS[name]
    names = {
        item.name
        for item in command.fields.values()
        if str(item.metadata["metavar"]).endswith(("FILE", "PATH", "DIR"))
    }
    # Whoever adds a setting that is a path says here how it is resolved.
    assert names <= PATHS.keys() | ELSEWHERE.keys()
    words = [f"--{option.replace('_', '-')}={PATHS[option]}" for option in names & PATHS.keys()]
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    options = resolve(parse([*filter(None, [name]), *words, "--chdir=work"]), {}).options
    options = apply_umask_and_chdir(options)
    work = tmp_path / "work"
    expected: dict[str, object] = {
        option: str(work / path) for option, path in PATHS.items() if option in names
    }
    if "static" in names:
        expected["static"] = (f"/static={work}/files",)
    if "reload_extra" in names:
        expected["reload_extra"] = (f"{work}/templates",)
    assert {option: getattr(options, option) for option in names & PATHS.keys()} == expected


@pytest.mark.parametrize("words", [(), ("gateway",), ("config", "nginx")])
def test_the_help_splits_no_name(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader can copy each option and each name of a package."""
    with pytest.raises(SystemExit):
        parse([*words, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith("-")] == []


def test_options_of_other_servers_get_a_hint(tmp_path: Path) -> None:
    hints = [
        ("--workers=4", "--processes N"),
        ("--workers", "--threads for the number of requests"),
        ("--timeout", "--graceful-timeout"),
        ("--access-logfile", "--access-log FILE"),
        ("--uds", "--socket PATH"),
    ]
    lines = complaints(tmp_path, [("module:app", option) for option, _ in hints])
    for (option, hint), said in zip(hints, lines, strict=True):
        assert said.startswith(f"{option.partition('=')[0]}: there is no such option; ")
        assert hint in said
        # Nothing that an installed package does not have.
        assert ".md" not in said


def test_http_without_a_folder_for_temporary_files_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text(
        "import tempfile\n"
        "def missing(*args, **more): raise FileNotFoundError(2, 'No usable temporary directory')\n"
        "tempfile.mkdtemp = missing\napp = print\n"
    )
    assert complaint("quiet:app", "--http", "127.0.0.1:0", cwd=tmp_path) == (
        "--http: no folder for its internal socket: No usable temporary directory;"
        " set TMPDIR to a folder that this user may write to"
    )


def test_ctrl_c_while_the_app_is_loading_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("raise KeyboardInterrupt\n")
    run = command("slow:app", "--socket", "a.sock", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (130, "")
    assert not (tmp_path / "a.sock").exists()


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """An app that is installed needs none."""
    folder = tmp_path / "gone"
    folder.mkdir()
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    argv = [sys.executable, "-m", "vsgi_fcgi", "--check-config", "vsgi_fcgi.demo:app"]
    run = subprocess.run(
        ["sh", "-c", script, str(folder), *argv],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**unmeasured(), "PYTHONPATH": ROOT},
    )
    assert (run.returncode, run.stderr) == (0, "")
