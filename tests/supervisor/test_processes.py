"""``--processes``: several processes serve, are replaced when they die, and load new code."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.accounts import PublicPython, public_folder
from support.fcgi.peer import Client
from support.gates import Gate
from support.http import request
from support.processes import ProcessGroup, free_port, open_files, wait_until
from support.project import SAYS, Project
from support.supervised import Supervised, pids_app

pytestmark = pytest.mark.process


class LogPipe:
    """A named pipe for a log, which is read only if the test says so."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._text = ""

    def fill(self) -> None:
        """Let it take nothing more."""
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self._fd, bytes(select.PIPE_BUF))

    def read(self) -> str:
        """Read what it holds, and return all that was read so far, without what `fill` wrote."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 1 << 20):
                self._text += data.decode().replace("\0", "")
        return self._text


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.save("app.py", pids_app("environ['wsgi.multiprocess']"))
    return project


def test_all_processes_serve_and_the_app_knows_it(
    processes: ProcessGroup, project: Project
) -> None:
    port = free_port()
    options = ("--pid-file", "app.pid", "--http", f"127.0.0.1:{port}")
    server = Supervised(processes, project, "2", *options)
    # Each one also listens on a private socket for --http.
    server.ready(4)
    assert len(server.children()) == 2
    server.wait_for_answers(lambda found: len(found) == 2)
    assert {answer.partition(", ")[2] for answer in server.answers()} == {"True)"}
    assert request(port, "/").text.endswith(", True)")
    assert (project.folder / "app.pid").read_text() == f"{server.process.pid}\n"
    assert server.process.stop() == 0
    assert not server.socket.exists()
    assert not (project.folder / "app.pid").exists()
    assert processes.pids() == []
    assert "WARNING" not in server.log()


def test_the_supervisor_loads_neither_the_app_nor_gevent(
    processes: ProcessGroup, project: Project
) -> None:
    processes.measured = False  # coverage loads gevent
    server = Supervised(processes, project, "1")
    server.ready(1)
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "_gevent" not in maps
    assert "libev" not in maps
    assert "_gevent" in Path(f"/proc/{server.children()[0]}/maps").read_text()


def test_a_process_that_dies_is_replaced_at_once(processes: ProcessGroup, project: Project) -> None:
    server = Supervised(processes, project)
    server.ready()
    before = server.children()
    os.kill(before[0], signal.SIGKILL)
    server.process.wait_for_log(f"process {before[0]} has ended unexpectedly (SIGKILL)")
    server.ready(3)
    after = server.children()
    assert len(after) == 2
    assert before[1] in after
    assert before[0] not in after
    assert server.process.stop() == 0


def test_one_that_dies_young_again_and_again_gets_longer_and_longer_pauses(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project)
    server.ready()
    project.save("app.py", "import os; os._exit(7)\n")
    os.kill(server.children()[0], signal.SIGKILL)

    def pauses() -> list[str]:
        return [line for line in server.log().splitlines() if "(status 7) while it loaded" in line]

    wait_until(lambda: len(pauses()) >= 3, "three failed starts")
    # The other one serves on.
    assert len(server.answers()) == 1
    project.save("app.py", pids_app())
    server.ready(3)
    assert server.process.stop() == 0


def test_an_app_that_cannot_be_loaded_at_the_first_start(
    processes: ProcessGroup, project: Project
) -> None:
    project.save("app.py", "import settings_of_nobody\n")
    server = Supervised(processes, project, "2")
    assert server.process.wait() == 2
    assert server.log().count("Traceback") == 1
    assert "No module named 'settings_of_nobody'" in server.log()
    assert not server.socket.exists()


def test_an_app_that_ends_the_process_at_the_first_start(
    processes: ProcessGroup, project: Project
) -> None:
    project.save("app.py", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    server = Supervised(processes, project, "2")
    assert server.process.wait() == 128 + signal.SIGSEGV
    assert "(SIGSEGV) while it loaded the app" in server.log()


def test_a_process_that_hangs_at_the_first_start(processes: ProcessGroup, project: Project) -> None:
    project.save("app.py", "import time; time.sleep(1000)\n")
    server = Supervised(processes, project, "1", "--start-timeout", "0.5")
    assert server.process.wait() == 1
    assert "has not loaded the app within 0.5 s; killing it" in server.log()


# Reloading


def test_sighup_loads_the_new_version(processes: ProcessGroup, project: Project) -> None:
    project.save("app.py", SAYS.format("version 1"))
    server = Supervised(processes, project)
    server.ready()
    before = server.children()
    project.save("app.py", SAYS.format("version number 2"))
    server.process.send_signal(signal.SIGHUP)
    server.process.wait_for_log("reloaded: all processes serve the new version")
    server.wait_for_answers(lambda found: found == {"version number 2"})
    wait_until(lambda: len(server.children()) == 2, "the end of the old processes")
    assert not set(before) & set(server.children())
    assert server.process.stop() == 0


def test_a_log_that_is_not_read_holds_up_neither_a_reload_nor_a_stop(
    processes: ProcessGroup, project: Project
) -> None:
    log = LogPipe(project.folder / "log")
    handler = {"class": "logging.FileHandler", "filename": "log"}
    logger = {"level": "INFO", "handlers": ["pipe"]}
    config = {"version": 1, "handlers": {"pipe": handler}, "loggers": {"vsgi_fcgi": logger}}
    project.save("logging.json", json.dumps(config))
    server = Supervised(processes, project, "2", "--log-config", "logging.json")
    server.wait_for_answers(lambda found: len(found) == 2)
    log.fill()
    before = server.answers()
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_answers(lambda found: len(found) == 2 and not found & before)
    log.read()
    server.process.send_signal(signal.SIGTTIN)
    wait_until(lambda: "the number of processes is 3 now" in log.read(), "the signal", log=log.read)
    assert re.search(r"^log records lost, because nothing read the log: \d+$", log.read(), re.M)
    log.fill()
    # Not 0, because the processes could not write their last log records.
    assert server.process.stop() == 1


def test_a_link_to_the_release_is_followed_again(processes: ProcessGroup, project: Project) -> None:
    """The working directory is named by the link, as a shell and systemd name it."""
    project.save("1/app.py", SAYS.format("version 1"))
    project.save("2/app.py", SAYS.format("version 2"))
    current = project.folder / "current"
    current.symlink_to("1")
    server = Supervised(processes, project, "1", "--chdir", str(current))
    server.ready(1)
    assert server.answers() == {"version 1"}
    current.unlink()
    current.symlink_to("2")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_answers(lambda found: found == {"version 2"})


def test_a_new_version_that_cannot_be_loaded_leaves_the_old_one(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project)
    server.ready()
    before = set(server.children())
    project.save("app.py", "import settings_of_nobody\n")
    server.process.send_signal(signal.SIGHUP)
    server.process.wait_for_log("loaded; processes of the old version that continue: 2")
    assert "No module named 'settings_of_nobody'" in server.log()
    assert set(server.children()) == before
    # The next one is loaded.
    project.save("app.py", SAYS.format("repaired"))
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_answers(lambda found: found == {"repaired"})
    assert server.process.stop() == 0


def test_running_requests_end_in_the_process_in_which_they_began(
    processes: ProcessGroup, project: Project
) -> None:
    text = "__import__('pathlib').Path(environ['QUERY_STRING'][3:].replace('%2F', '/')).read_text()"
    project.save("app.py", pids_app(f"environ['PATH_INFO'] == '/gate' and {text}"))
    server = Supervised(processes, project, "1")
    server.ready(1)
    before = server.children()
    with Gate(processes.folder) as gate, server.connect() as client:
        client.ask(1, gate.url)
        gate.wait_for_app()
        server.process.send_signal(signal.SIGHUP)
        server.process.wait_for_log("reloaded: all processes serve the new version")
        gate.open()
        answer = client.answer(1).body.decode()
    assert int(answer[1:].partition(",")[0]) in before
    wait_until(lambda: len(server.children()) == 1, "the end of the old process")


LOADING = """
import os, pathlib, select, signal
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path("told").touch())
gate = os.open({!r}, os.O_RDONLY | os.O_NONBLOCK)
while not select.select([gate], [], [], 0.01)[0]:
    pass  # a longer call would not notice a signal that comes just before it
"""


def test_a_process_that_is_replaced_while_it_loads_takes_no_request(
    processes: ProcessGroup, project: Project
) -> None:
    """The app handles the signal that ends its import."""
    with Gate(processes.folder, "old") as old, Gate(processes.folder, "new") as new:
        project.save("app.py", LOADING.format(str(processes.folder / "old")) + SAYS.format("old"))
        server = Supervised(processes, project, "1")
        old.wait_for_app()
        with server.connect() as client:
            client.ask(1, "/")
            project.save(
                "app.py", LOADING.format(str(processes.folder / "new")) + SAYS.format("new")
            )
            server.process.send_signal(signal.SIGHUP)
            wait_until((project.folder / "told").exists, "the signal in the app")
            new.wait_for_app()
            old.open()
            wait_until(lambda: len(server.children()) == 1, "the end of the old process")
            new.open()
            assert client.answer(1).body == b"new"
    assert "does not stop" not in server.log()
    assert server.process.stop() == 0


# Signals


def test_a_process_that_is_stopped_while_it_loads_ends_when_it_serves(
    processes: ProcessGroup, project: Project
) -> None:
    """The app handles the signal that tells the process during the import."""
    text = LOADING.format(str(processes.folder / "gate"))
    project.save("app.py", text + pids_app("''"))
    with Gate(processes.folder) as gate:
        server = Supervised(processes, project, "1")
        gate.wait_for_app()
        server.process.send_signal(signal.SIGTERM)
        wait_until((project.folder / "told").exists, "the signal in the app")
        gate.open()
        assert server.process.wait() == 0
    assert "does not stop" not in server.log()


def test_one_process_more_and_one_fewer(processes: ProcessGroup, project: Project) -> None:
    server = Supervised(processes, project, "1")
    server.ready(1)
    server.process.send_signal(signal.SIGTTIN)
    server.ready(2)
    wait_until(lambda: len(server.children()) == 2, "two processes")
    for _ in range(2):
        # Never fewer than one.
        server.process.send_signal(signal.SIGTTOU)
        wait_until(lambda: len(server.children()) == 1, "one process")
    assert len(server.answers()) == 1
    assert server.process.stop() == 0


def test_sigterm_to_one_process_replaces_it(processes: ProcessGroup, project: Project) -> None:
    server = Supervised(processes, project)
    server.ready()
    before = server.children()
    os.kill(before[0], signal.SIGTERM)
    server.process.wait_for_log(f"process {before[0]} is replaced: SIGTERM")
    server.ready(3)
    wait_until(lambda: before[0] not in server.children(), "the end of the old process")
    assert len(server.children()) == 2
    assert "unexpectedly" not in server.log()


def test_a_process_serves_until_the_one_that_replaces_it_does(
    processes: ProcessGroup, project: Project
) -> None:
    """Also if the new one loads the app for longer than requests may take to end."""
    server = Supervised(processes, project, "1", "--graceful-timeout", "0.2")
    server.ready(1)
    (old,) = server.children()
    waits = f"import pathlib\npathlib.Path({str(processes.folder / 'gate')!r}).read_text()\n"
    project.save("app.py", waits + pids_app("'new'"))
    with Gate(processes.folder) as gate, server.connect() as client:
        os.kill(old, signal.SIGTERM)
        server.process.wait_for_log(f"process {old} is replaced: SIGTERM")
        gate.wait_for_app()
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.4, "the end of the graceful timeout")
        assert client.get().body.startswith(b"(%d," % old)
        gate.open()
        wait_until(lambda: client.get().body.endswith(b"'new')"), "the new process")
    assert "unexpectedly" not in server.log()
    assert server.process.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_fast_stop_does_not_wait_for_requests(
    processes: ProcessGroup, project: Project, number: int
) -> None:
    project.save("app.py", "import time\ndef app(environ, start_response):\n    time.sleep(1000)\n")
    server = Supervised(processes, project, "1")
    server.ready(1)
    with server.connect() as client:
        client.ask(1, "/")
        # A second connection is accepted after the first one.
        wait_until(lambda: bool(_established(server)), "the request")
        server.process.send_signal(number)
        assert server.process.wait() == 1
        client.read_to_end()
    assert processes.pids() == []


def _established(server: Supervised) -> list[str]:
    found = Path("/proc/net/unix").read_text().splitlines()
    # 03 is SS_CONNECTED.
    return [line for line in found if str(server.socket) in line and line.split()[5] == "03"]


def test_the_connections_in_the_backlog_are_served_at_a_stop(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project, "1")
    server.ready(1)
    (child,) = server.children()
    os.kill(child, signal.SIGSTOP)
    with server.connect() as client:
        client.ask(1, "/")
        server.process.send_signal(signal.SIGTERM)
        server.process.wait_for_log("SIGTERM: stopping")
        os.kill(child, signal.SIGCONT)
        assert str(child) in client.answer(1).body.decode()
    assert server.process.wait() == 0


def test_log_files_are_reopened(processes: ProcessGroup, project: Project) -> None:
    server = Supervised(processes, project, "2", "--access-log", "access.log")
    server.ready()
    log = project.folder / "access.log"
    log.rename(project.folder / "old.log")
    server.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: server.log().count("SIGUSR1: the log files") == 2, "both processes")
    assert server.process.stop() == 0


def test_log_files_that_are_renamed_while_the_app_is_loaded_are_reopened(
    processes: ProcessGroup, project: Project
) -> None:
    """The supervisor cannot send SIGUSR1 to a process that may not handle it yet."""
    os.mkfifo(project.folder / "gate")
    project.save(
        "app.py",
        "import logging\nFILE = logging.FileHandler('app.log')\nopen('gate').read()\n" + pids_app(),
    )
    server = Supervised(processes, project, "1")
    log = project.folder / "app.log"
    wait_until(log.exists, "the log of the app")
    log.rename(project.folder / "old.log")
    server.process.send_signal(signal.SIGUSR1)
    server.process.send_signal(signal.SIGTTOU)
    server.process.wait_for_log("the number of processes is 1 now")
    (project.folder / "gate").write_text("")
    server.ready(1)
    (pid,) = server.children()
    wait_until(log.exists, "the new file")
    wait_until(lambda: str(project.folder / "old.log") not in open_files(pid), "its use")
    assert server.process.stop() == 0


# What it is started by


def test_descriptor_0_is_handed_on(processes: ProcessGroup, project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Supervised(processes, project, "1", stdin=listener)
        assert server.get().status == 200
        server.ready(1)
        server.process.send_signal(signal.SIGHUP)
        server.process.wait_for_log("reloaded")
        assert server.get().status == 200
        assert server.process.stop() == 0


def test_processes_stop_when_the_supervisor_was_killed(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project)
    server.ready()
    server.process.stop(signal.SIGKILL)
    wait_until(lambda: processes.pids() == [], "the end of the processes", 5)
    assert server.log().count("stopped") == 2
    assert server.log().count("the supervisor has ended unexpectedly") == 2


def test_a_supervisor_that_is_stopped_for_a_while(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project)
    server.ready()
    server.process.send_signal(signal.SIGSTOP)
    assert server.get().status == 200
    victim, other = server.children()
    os.kill(victim, signal.SIGKILL)
    assert server.get().body.startswith(b"(%d," % other)
    server.process.send_signal(signal.SIGCONT)
    server.ready(3)
    assert server.process.stop() == 0


def test_stdin_that_is_closed(processes: ProcessGroup, project: Project) -> None:
    """No socket of the supervisor becomes descriptor 0."""
    script = (
        "import os, sys; os.close(0);"
        f" os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'vsgi_fcgi', '--processes',"
        f" '1', '--socket', 'closed.sock', 'app'])"
    )
    process = processes.start([sys.executable, "-c", script], name="server", cwd=project.folder)
    process.wait_for_log("listening on")
    assert os.readlink(f"/proc/{process.pid}/fd/0") == "/dev/null"
    assert process.stop() == 0


# Its threads use up what the host allows.
GREEDY = """
import threading, time

def app(environ, start_response):
    try:
        while True:
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    except RuntimeError:
        start_response("200 OK", [])
        return [b"here"]
"""


@pytest.mark.usefixtures("root")
def test_a_host_that_allows_no_more_processes(
    public_python: PublicPython,
) -> None:
    """Root may start as many as it likes, so the supervisor changes its user."""
    with public_folder() as folder, ProcessGroup(folder) as group:
        group.measured = False
        folder.chmod(0o777)
        (folder / "app.py").write_text(GREEDY)
        # A user whose processes are only those of this test.
        argv = ["prlimit", "--nproc=12", public_python.executable, "-m", "vsgi_fcgi"]
        argv += ["--socket", f"{folder}/app.sock"]
        argv += [
            "--user",
            "47011",
            "--group",
            "47011",
            "--processes",
            "1",
            "--threads",
            "20",
            "app",
        ]
        server = group.start(argv, name="server", env=public_python.environ)
        server.wait_for_log("listening on")
        with Client(f"{folder}/app.sock") as client:
            assert client.get().body == b"here"
        server.send_signal(signal.SIGTTIN)
        server.wait_for_log("no further process can be started: Resource temporarily unavailable;")
        assert "; 1 continue to serve" in server.log()
        with Client(f"{folder}/app.sock") as client:
            assert client.get().body == b"here"
        assert server.stop() == 0


@pytest.mark.parametrize("option", ["--reload", "--debug"])
def test_options_that_need_a_single_process(option: str, project: Project) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "vsgi_fcgi", "--processes", "2", option, "app"],
        cwd=project.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert run.returncode == 2
    assert f"{option} needs a single process; leave out --processes" in run.stderr
