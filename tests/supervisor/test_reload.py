"""``--reload``: an edit is served at once, a mistake is shown, and nothing gets lost meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.gates import Gate
from support.processes import ProcessGroup, wait_until
from support.project import SAYS, Project, Reloading

pytestmark = pytest.mark.process

# Waits at a FIFO that the query names, and says before that it does.
WAITS = """\
from pathlib import Path

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/gate":
        Path(environ["QUERY_STRING"].removeprefix("at=").replace("%2F", "/")).read_bytes()
    return [b"version 1"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


# Edits


def test_each_edit_is_served_and_the_log_says_what_it_was(
    processes: ProcessGroup, project: Project
) -> None:
    project.save("shop/__init__.py", "")
    now = time.time()
    project.save("shop/views.py", "TEXT = 'version 1'\n", at=now)
    project.save(
        "shop/wsgi.py", f"from .views import TEXT\n{SAYS.format('?')}".replace("'?'", "TEXT")
    )
    server = Reloading(processes, project, app="shop.wsgi:app")
    assert server.get().body == b"version 1"
    # Of the same size, and of the same second: what Python has compiled would look as if current.
    for number in range(2, 4):
        project.save("shop/views.py", f"TEXT = 'version {number}'\n", at=now)
        server.wait_for(f"version {number}")
    assert server.changes() == ["shop/views.py"] * 2
    assert server.process.stop() == 0
    assert not server.socket.exists()


def test_the_app_does_not_take_the_supervisor_for_another_process_of_it(
    processes: ProcessGroup, project: Project
) -> None:
    """Its socket is inherited, but from ours."""
    project.save("app.py", SAYS.format("?").replace("'?'", "str(environ['wsgi.multiprocess'])"))
    assert Reloading(processes, project).get().body == b"False"


def test_a_module_that_is_imported_late_is_watched(
    processes: ProcessGroup, project: Project
) -> None:
    project.save("late.py", "TEXT = 'version 1'\n")
    project.save(
        "app.py",
        SAYS.format("?")
        .replace("    start", "    import late\n    start", 1)
        .replace("'?'", "late.TEXT"),
    )
    server = Reloading(processes, project)
    assert server.get().body == b"version 1"
    # Before anybody can have noticed that the module is there.
    project.save("late.py", "TEXT = 'version 2'\n")
    server.wait_for("version 2")
    project.save("late.py", "TEXT = 'version 3'\n")
    server.wait_for("version 3")
    assert server.changes() == ["late.py"] * 2


def test_many_files_with_long_names_are_watched(processes: ProcessGroup, tmp_path: Path) -> None:
    """Their names are longer in messages than on the disk."""
    project = Project(tmp_path / ("é" * 120))
    for number in range(200):
        project.save(f"part{number}.py", "")
    project.save("part199.py", "TEXT = 'version 1'\n")
    imports = "".join(f"import part{number}\n" for number in range(200))
    project.save("app.py", imports + SAYS.format("?").replace("'?'", "part199.TEXT"))
    server = Reloading(processes, project)
    assert server.get().body == b"version 1"
    project.save("part199.py", "TEXT = 'version 2'\n")
    server.wait_for("version 2")


def test_extra_files_and_folders_are_watched_and_nothing_else(
    processes: ProcessGroup, project: Project
) -> None:
    project.save(
        "app.py", SAYS.format("?").replace("'?'", "(open('a.txt').read() + open('t/b').read())")
    )
    project.save("a.txt", "a1 ")
    project.save("t/b", "b1")
    project.save("unused.py", "")
    server = Reloading(processes, project, "--reload-extra", "a.txt", "--reload-extra", "t")
    assert server.get().body == b"a1 b1"
    project.save("unused.py", "# It is not imported.")
    project.save("a.txt", "a2 ")
    wait_until(lambda: len(server.changes()) == 1, "a restart")
    assert server.get().body == b"a2 b1"
    project.save("t/b", "b2")
    wait_until(lambda: len(server.changes()) == 2, "a restart")
    assert server.get().body == b"a2 b2"
    assert server.changes() == ["a.txt", "t/b"]


# Mistakes


def test_an_app_that_fails_at_the_first_start_shows_why_and_recovers(
    processes: ProcessGroup, project: Project
) -> None:
    project.save("app.py", "import settings\n" + SAYS.format("version 1"))
    server = Reloading(processes, project)
    answer = server.get("/some/path")
    assert answer.status == 500
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    page = answer.body.decode()
    assert f"File &quot;{project.folder}/app.py&quot;, line 1, in &lt;module&gt;" in page
    assert "No module named &#x27;settings&#x27;" in page
    # The missing module appears, with a mistake of its own.
    project.save("settings.py", "raise LookupError('<b>')\n")
    page = server.wait_for("LookupError").body.decode()
    assert "LookupError: &lt;b&gt;" in page
    assert "<b>" not in page
    project.save("settings.py", "DEBUG = True\n")
    server.wait_for("version 1")
    log = server.log()
    assert log.count("ModuleNotFoundError: No module named 'settings'\n") == 2  # with the sentence
    assert log.count(f'File "{project.folder}/settings.py", line 1, in <module>') == 1
    assert server.changes() == ["settings.py"] * 2
    assert server.process.stop() == 0


def test_a_mistake_in_an_edit_is_shown_until_the_next_one(
    processes: ProcessGroup, project: Project
) -> None:
    project.says("version 1")
    server = Reloading(processes, project)
    assert server.get().body == b"version 1"
    project.save("app.py", "def app(:\n")
    answer = server.wait_for("SyntaxError")
    assert answer.status == 500
    assert b"def app(:" in answer.body
    project.save("app.py", "from gevent import monkey; monkey.patch_all(); app = print\n")
    server.wait_for("remove monkey.patch_all() or use --worker greenlet")
    project.says("version 2")
    server.wait_for("version 2")


def test_a_mistake_outside_of_the_working_folder(
    processes: ProcessGroup, project: Project, tmp_path: Path
) -> None:
    """Python forgets a module whose import has failed, so only the traceback names its file."""
    library = Project(tmp_path / "library")
    library.save("lib.py", "def says(:\n")
    found = f"import sys; sys.path.insert(0, {str(library.folder)!r})\n"
    project.save("app.py", found + "from lib import app\n")
    server = Reloading(processes, project)
    server.wait_for("SyntaxError")
    library.save("lib.py", "raise LookupError\n")
    server.wait_for("LookupError")
    library.save("lib.py", SAYS.format("version 1"))
    server.wait_for("version 1")


def test_a_child_that_ends_by_itself_is_not_started_again_until_a_file_changes(
    processes: ProcessGroup, project: Project
) -> None:
    project.save("app.py", "import os\nos._exit(7)\n")
    server = Reloading(processes, project)
    server.process.wait_for_log("has ended unexpectedly (status 7); requests wait until")
    with Client(server.address) as early:
        early.ask(1, "/")
        project.says("version 1")
        # It has waited.
        assert early.answer(1).body == b"version 1"
    assert server.log().count("has ended unexpectedly") == 1
    (child,) = server.children()
    os.kill(child, signal.SIGKILL)
    server.process.wait_for_log("has ended unexpectedly (SIGKILL)")
    assert server.children() == []
    project.says("version 2")
    server.wait_for("version 2")
    # The end of an earlier version does not count.
    assert server.process.stop() == 0


def test_an_app_that_hangs_natively_is_replaced_and_killed(
    processes: ProcessGroup, project: Project
) -> None:
    """It holds the interpreter's lock, so that its process handles no signal any more."""
    with Gate(processes.folder) as gate:
        hangs = f"ctypes.PyDLL(None).system(b'cat {processes.folder}/gate')"
        text = SAYS.format("").replace("    start", f"    {hangs}\n    start", 1)
        project.save("app.py", f"import ctypes\n{text}")
        server = Reloading(processes, project, "--graceful-timeout", "0.1")
        with Client(server.address) as victim:
            victim.ask(1, "/")
            gate.wait_for_app()
            project.says("version 2")
            server.wait_for("version 2")
            server.process.wait_for_log("does not stop; killing it")
            victim.read_to_end()
    wait_until(lambda: len(server.children()) == 1, "the end of the one that hangs")


# What runs


def test_running_requests_end_with_the_code_that_they_began_with(
    processes: ProcessGroup, project: Project
) -> None:
    project.save("app.py", WAITS)
    server = Reloading(processes, project)
    server.ready()
    with Gate(processes.folder) as gate, Client(server.address) as client:
        client.ask(1, gate.url)
        gate.wait_for_app()
        project.save("app.py", WAITS.replace("version 1", "version 2"))
        server.wait_for("version 2")
        assert len(server.children()) == 2
        gate.open()
        assert client.answer(1).body == b"version 1"
        # The connection moves to the new child.
        wait_until(lambda: client.get().body == b"version 2", "the new version")
    wait_until(lambda: len(server.children()) == 1, "the end of the old child")


def test_old_children_do_not_pile_up(processes: ProcessGroup, project: Project) -> None:
    project.save("app.py", WAITS)
    server = Reloading(processes, project)
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(1, 7):
            if number > 1:
                project.save("app.py", WAITS.replace("version 1", f"version {number}"))
            server.wait_for(f"version {number}")
            gate = stack.enter_context(Gate(processes.folder, f"gate{number}"))
            clients.append(stack.enter_context(Client(server.address)))
            clients[-1].ask(1, gate.url)
            gate.wait_for_app()
        # Five more than the one that serves: the oldest had to go.
        clients[0].read_to_end()
        assert len(server.children()) == 5
        server.process.wait_for_log("still have requests; killing the oldest")


def test_ctrl_c_lets_a_running_request_end(processes: ProcessGroup, project: Project) -> None:
    project.save("app.py", WAITS)
    server = Reloading(processes, project)
    with Gate(processes.folder) as gate, Client(server.address) as client:
        client.ask(1, gate.url)
        gate.wait_for_app()
        server.interrupt()
        server.process.wait_for_log(": stopping")
        gate.open()
        assert client.answer(1).body == b"version 1"
    assert server.process.wait() == 0
    assert not server.socket.exists()
    assert "Traceback" not in server.log()


def test_a_second_signal_ends_it_at_once(processes: ProcessGroup, project: Project) -> None:
    project.save("app.py", WAITS)
    server = Reloading(processes, project)
    with Gate(processes.folder) as gate, Client(server.address) as client:
        client.ask(1, gate.url)
        gate.wait_for_app()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait_for_log("SIGTERM: stopping")

        def ended() -> bool:
            # Again and again: those that follow at once are one with the first.
            server.process.send_signal(signal.SIGTERM)
            return not server.process.running

        wait_until(ended, "the end", 5)
    assert server.process.wait() == 1
    assert not server.socket.exists()
    wait_until(lambda: processes.pids() == [], "the end of the child", 5)


def test_sighup_for_the_parent_stops_both(processes: ProcessGroup, project: Project) -> None:
    project.save("app.py", WAITS)
    server = Reloading(processes, project, "--pid-file", "app.pid")
    with Gate(processes.folder) as gate, Client(server.address) as client:
        client.ask(1, gate.url)
        gate.wait_for_app()
        assert (project.folder / "app.pid").read_text() == f"{server.process.pid}\n"
        server.process.send_signal(signal.SIGHUP)
        server.process.wait_for_log("SIGTERM: stopping")
        gate.open()
        assert client.answer(1).body == b"version 1"
    assert server.process.wait() == 0
    assert not server.socket.exists()
    assert not (project.folder / "app.pid").exists()
    assert processes.pids() == []


def test_a_child_does_not_outlive_a_parent_that_was_killed(
    processes: ProcessGroup, project: Project
) -> None:
    project.says("version 1")
    server = Reloading(processes, project)
    server.ready()
    assert len(processes.pids()) == 2
    server.process.stop(signal.SIGKILL)
    wait_until(lambda: processes.pids() == [], "the end of the child", 5)


# What it is started with


def test_descriptor_0_is_handed_on(processes: ProcessGroup, project: Project) -> None:
    project.save(
        "app.py",
        "import os, subprocess\n"
        "fds = subprocess.check_output(['ls', '-l', '/proc/self/fd'], close_fds=False).decode()\n"
        "variable = 'VSGI_FCGI_SUPERVISED' in os.environ\n"
        "seen = os.readlink('/proc/self/fd/0'), 'socket:' in fds, variable\n"
        + SAYS.format("?").replace("'?'", "repr(seen)"),
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Reloading(processes, project, stdin=listener)
        # Nothing of ours reaches the app's own children.
        assert server.get().body == b"('/dev/null', False, False)"
        project.says("version 2")
        server.wait_for("version 2")
        assert "listening on fcgi+fd://0/" in server.log()


def test_the_child_is_started_where_the_parent_was(
    processes: ProcessGroup, project: Project
) -> None:
    """Relative paths in the command line mean the same to both."""
    project.save("sub/app.py", SAYS.format("version 1"))
    project.save("settings.toml", 'chdir = "sub"\n')
    server = Reloading(processes, project, "--config", "settings.toml")
    assert server.get().body == b"version 1"
    project.save("sub/app.py", SAYS.format("version 2"))
    server.wait_for("version 2")
    assert server.changes() == ["app.py"]


@pytest.mark.parametrize(
    ("variables", "words", "sentence"),
    [
        (
            {},
            "--reload --reload-extra nowhere app",
            "nowhere does not exist; name a file or a folder",
        ),
        (
            {"VSGI_FCGI_SUPERVISED": "7"},
            "app",
            "VSGI_FCGI_SUPERVISED is only for processes that a supervisor starts; unset it",
        ),
    ],
)
def test_what_keeps_it_from_starting(
    variables: dict[str, str], words: str, sentence: str, project: Project
) -> None:
    project.says("never")
    run = subprocess.run(
        [sys.executable, "-m", "vsgi_fcgi", "--socket", "a.sock", *words.split()],
        cwd=project.folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("vsgi-fcgi: ")
    assert run.stderr.endswith(f"{sentence}\n")
    assert run.stderr.count("\n") == 1
    assert not (project.folder / "a.sock").exists()


def test_a_start_that_no_edit_can_mend_is_given_up(
    processes: ProcessGroup, project: Project
) -> None:
    project.says("never")
    server = Reloading(processes, project, "--access-log", "gone/access.log")
    assert server.process.wait() == 2
    assert "gone/access.log" in server.log()
