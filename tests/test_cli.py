from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import unmeasured

import vsgi_fcgi

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
        "fd 0 is not a listening socket; start me from a web server or spawn-fcgi,"
        " or name an address with --bind"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no app is named; vsgi-fcgi --help says how"),
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
