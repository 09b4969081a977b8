"""Test ``--pid-file``: one live process per file, whatever other processes have left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.accounts import NOBODY, PublicPython, public_folder
from support.fcgi.peer import Client
from support.front_ends.servers import APPS, command
from support.gates import Gate
from support.processes import Process, ProcessGroup, wait_until

from vsgi_fcgi.cli.pid_file import PidFile
from vsgi_fcgi.exceptions import UsageError

APP = "apps.routes:app"
OURS = f"{os.getpid()}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.pid"


@contextlib.contextmanager
def taken(path: Path) -> Iterator[PidFile]:
    file = PidFile(str(path))
    file.acquire()
    try:
        yield file
    finally:
        file.remove()


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        PidFile(str(path)).acquire()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def in_use(path: Path, number: int | str) -> str:
    return (
        f"--pid-file {path}: process {number} uses this file and is alive;"
        " stop it or choose another path"
    )


# The file


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_it_holds_the_number_and_everybody_may_read_it(umask: int, path: Path) -> None:
    before = os.umask(umask)
    try:
        with taken(path):
            assert path.read_text() == OURS
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(before)
    assert not path.exists()


def test_a_second_one_is_refused(path: Path) -> None:
    with taken(path):
        assert refusal(path) == in_use(path, os.getpid())
        assert path.read_text() == OURS


def test_removing_it_twice_is_harmless(path: Path) -> None:
    with taken(path) as first:
        first.remove()
        with taken(path):
            first.remove()
            assert path.read_text() == OURS


def test_another_file_at_its_place_is_left_alone(path: Path) -> None:
    with taken(path):
        path.unlink()
        path.write_text("1\n")
    assert path.read_text() == "1\n"


def test_one_that_is_removed_between_opening_and_locking_it(path: Path) -> None:
    """Its last owner ends at that moment; a lock on a file without a name is worth nothing."""

    class Late(PidFile):
        late = True

        def _lock(self, fd: int) -> bool:
            if self.late:
                self.late = False
                path.unlink()
            # The moment before the lock, in which the other process removes the file.
            return super()._lock(fd)

    file = Late(str(path))
    file.acquire()
    assert not file.late
    assert path.read_text() == OURS
    assert refusal(path) == in_use(path, os.getpid())
    file.remove()
    assert not path.exists()


# Existing files


@pytest.mark.parametrize("left", ["", "\n", "4194305\n", "4194305", "  17 \n"])
def test_what_nobody_owns_any_more_is_replaced(left: str, path: Path) -> None:
    if left.strip() == "17":
        left = f" {os.getpid()} \n"  # Our number, as every start in a container has it.
    path.write_text(left)
    with taken(path):
        assert path.read_text() == OURS


@contextlib.contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another program that lives."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.process
def test_the_number_of_a_live_process_without_a_lock_is_refused(path: Path) -> None:
    """As other programs write it."""
    with sleeper() as process:
        path.write_text(f"{process.pid}\n")
        assert refusal(path) == in_use(path, process.pid)
        assert path.read_text() == f"{process.pid}\n"


@pytest.mark.process
def test_a_number_that_another_process_has_by_now_is_replaced(path: Path) -> None:
    """As after a reboot: the process has begun long after the file was written."""
    with sleeper() as process:
        path.write_text(f"{process.pid}\n")
        hour_ago = time.time() - 3600
        os.utime(path, (hour_ago, hour_ago))
        with taken(path):
            assert path.read_text() == OURS


@pytest.mark.process
def test_the_number_of_a_process_that_only_waits_to_be_buried_is_replaced(path: Path) -> None:
    with sleeper() as process:
        path.write_text(f"{process.pid}\n")
        process.kill()
        state = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z", "its death")
        with taken(path):
            assert path.read_text() == OURS


@pytest.mark.parametrize("text", ["user nobody;\n", "12 13\n", "-1\n", "9" * 100, "\0"])
def test_what_is_no_process_id_is_never_overwritten(text: str, path: Path) -> None:
    path.write_text(text)
    assert refusal(path) == (
        f"--pid-file {path}: the file holds something other than a process id; remove it or choose"
        " another path"
    )
    assert path.read_text() == text


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("")
    path.symlink_to(target)
    assert refusal(path) == (
        f"--pid-file {path}: it is a symbolic link; remove it or choose another path"
    )
    assert target.read_text() == ""


def test_a_file_with_a_second_name_is_not_written(path: Path, tmp_path: Path) -> None:
    """In a folder of another user, it may be any file of root's."""
    target = tmp_path / "precious"
    target.write_text("")
    target.chmod(0o600)
    path.hardlink_to(target)
    assert refusal(path) == (
        f"--pid-file {path}: it is a hard link; remove it or choose another path"
    )
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("", 0o600)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.mkdir(), "it is a folder; choose another path"),
        (lambda path: os.mkfifo(path), "is not a file; choose another path"),
    ],
)
def test_what_is_no_file(make: Callable[[Path], object], sentence: str, path: Path) -> None:
    make(path)
    assert refusal(path).endswith(sentence)


def test_a_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "run" / "a.pid"
    assert refusal(path) == (
        f"--pid-file {path}: there is no folder {tmp_path}/run; create it or choose another path"
    )


# The command


def start(group: ProcessGroup, name: str, *options: str, app: str = APP) -> Process:
    argv = [str(command(group)), "--chdir", str(APPS), "--pid-file", str(group.folder / "a.pid")]
    argv += ["--socket", str(group.folder / f"{name}.sock"), *options, app]
    return group.start(argv, name=name)


def running(group: ProcessGroup, name: str, *options: str, app: str = APP) -> Process:
    process = start(group, name, *options, app=app)
    process.wait_for_log("listening on")
    return process


@pytest.mark.process
def test_two_servers_with_one_pid_file(processes: ProcessGroup, path: Path) -> None:
    first = running(processes, "first")
    assert path.read_text() == f"{first.pid}\n"
    second = start(processes, "second")
    assert second.wait() == 2
    assert second.log() == f"vsgi-fcgi: {in_use(path, first.pid)}\n"
    assert not (processes.folder / "second.sock").exists()
    assert path.read_text() == f"{first.pid}\n"
    assert first.stop() == 0
    assert not path.exists()


@pytest.mark.process
def test_one_that_was_killed_is_followed_by_the_next(processes: ProcessGroup, path: Path) -> None:
    first = running(processes, "first")
    first.stop(signal.SIGKILL)
    assert path.read_text() == f"{first.pid}\n"
    second = running(processes, "second")
    assert path.read_text() == f"{second.pid}\n"
    assert second.stop() == 0
    assert not path.exists()


@pytest.mark.process
@pytest.mark.parametrize("how", ["second signal", "graceful timeout"])
def test_it_is_removed_when_the_server_leaves_at_once(
    how: str, processes: ProcessGroup, path: Path
) -> None:
    grace = "0.1" if how == "graceful timeout" else "60"
    process = running(processes, "server", "--worker", "main", "--graceful-timeout", grace)
    with Gate(processes.folder) as gate, Client(f"{processes.folder}/server.sock") as client:
        client.ask(1, gate.url)
        gate.wait_for_app()

        def ended() -> bool:
            if process.running and how == "second signal":
                process.send_signal(signal.SIGTERM)
            return not process.running

        process.send_signal(signal.SIGTERM)
        wait_until(ended, "the end")
    assert process.wait() == 1
    assert how in process.log()
    assert not path.exists()


@pytest.mark.process
def test_it_is_removed_when_the_app_cannot_be_loaded(processes: ProcessGroup, path: Path) -> None:
    process = start(processes, "server", app="apps.routes:no_such_app")
    assert process.wait() == 2
    assert not path.exists()


@pytest.mark.process
def test_a_relative_path_is_one_in_the_folder_of_the_app(
    processes: ProcessGroup, path: Path, tmp_path: Path
) -> None:
    """And found again when the app has gone elsewhere."""
    (tmp_path / "walker.py").write_text("import os\nos.chdir('/')\napp = print\n")
    options = ["--chdir", str(tmp_path), "--pid-file", "a.pid"]
    process = running(processes, "server", *options, app="walker:app")
    assert path.read_text() == f"{process.pid}\n"
    assert process.stop() == 0
    assert not path.exists()


@pytest.mark.process
@pytest.mark.parametrize("how", ["fork", "exec"])
def test_a_child_that_outlives_the_server_does_not_keep_it(
    how: str, processes: ProcessGroup, tmp_path: Path, path: Path
) -> None:
    (tmp_path / "parent.py").write_text(
        "import os, signal, subprocess, sys\n"
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/fork':\n"
        "        pid = os.fork()\n"
        "        if pid == 0:\n"
        "            signal.pause()\n"
        "    else:\n"
        "        pid = subprocess.Popen(['sleep', '1000'], close_fds=False).pid\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [b'%d' % pid]\n"
    )
    first = running(
        processes, "first", "--chdir", str(tmp_path), "--worker", "main", app="parent:app"
    )
    with Client(f"{tmp_path}/first.sock") as client:
        child = int(client.get(f"/{how}").body)
    try:
        first.stop(signal.SIGKILL)
        second = running(processes, "second")
        assert path.read_text() == f"{second.pid}\n"
        os.kill(child, 0)  # It has lived all the while.
        assert second.stop() == 0
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.process
@pytest.mark.usefixtures("root")
def test_a_folder_that_is_closed_to_the_new_user(public_python: PublicPython) -> None:
    """The file stays behind, empty; the next server takes it."""
    with public_folder() as folder, ProcessGroup(folder) as group:
        (folder / "it.py").write_text("app = print\n")
        for name in ("first", "second"):
            argv = [public_python.executable, "-m", "vsgi_fcgi", "--pid-file", "a.pid"]
            argv += ["--socket", f"{name}.sock", "--user", NOBODY, "it:app"]
            process = group.start(argv, name=name, env=public_python.environ)
            process.wait_for_log("listening on")
            path = folder / "a.pid"
            assert path.read_text() == f"{process.pid}\n"
            assert path.stat().st_uid == 0
            assert process.stop() == 0
            assert path.read_text() == ""
