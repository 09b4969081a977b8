"""``--preload``: the app is loaded once, and processes are forked from it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.processes import ProcessGroup, logging_to, open_files, wait_until
from support.project import SAYS, Project
from support.supervised import Supervised, pids_app

pytestmark = pytest.mark.process

# Notes each time that it is loaded.
LOADED = "open('loaded', 'a').write('x')\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.save("app.py", LOADED + pids_app("len(__import__('gc').get_objects())"))
    return project


def test_the_app_is_loaded_once(processes: ProcessGroup, project: Project) -> None:
    server = Supervised(processes, project, "3", "--preload")
    server.ready(3)
    assert (project.folder / "loaded").read_text() == "x"
    # Those that serve, and the template.
    wait_until(lambda: len(server.children()) == 4, "the processes as children of the supervisor")
    server.wait_for_answers(lambda found: len(found) >= 2)
    assert server.process.stop() == 0
    assert processes.pids() == []
    assert not server.socket.exists()
    assert "WARNING" not in server.log()


def test_a_process_that_dies_is_forked_again(processes: ProcessGroup, project: Project) -> None:
    server = Supervised(processes, project, "2", "--preload")
    server.ready()
    pid = int(server.get().body[1:].partition(b",")[0])
    os.kill(pid, signal.SIGKILL)
    server.process.wait_for_log(f"process {pid} has ended unexpectedly (SIGKILL)")
    server.ready(3)
    assert (project.folder / "loaded").read_text() == "x"
    assert server.process.stop() == 0


def test_a_template_that_dies_is_replaced_when_it_is_needed(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project, "1", "--preload")
    server.ready(1)
    pid = int(server.get().body[1:].partition(b",")[0])
    (template,) = (child for child in server.children() if child != pid)
    os.kill(template, signal.SIGKILL)
    server.process.wait_for_log(f"process {template} has ended unexpectedly")
    assert server.get().status == 200
    server.process.send_signal(signal.SIGTTIN)
    server.ready(2)
    assert (project.folder / "loaded").read_text() == "xx"
    assert server.process.stop() == 0


def test_signals_do_not_end_the_template_and_its_log_files_are_reopened(
    processes: ProcessGroup, project: Project
) -> None:
    project.save("logging.toml", logging_to("error.log"))
    server = Supervised(processes, project, "1", "--preload", "--log-config", "logging.toml")
    server.ready(1)
    log = project.folder / "error.log"
    log.rename(project.folder / "old.log")
    for number, text in ((signal.SIGUSR1, "SIGUSR1: the log"), (signal.SIGUSR2, "SIGUSR2: no")):
        server.process.send_signal(number)
        server.process.wait_for_log(text)
    pid = int(server.get().body[1:].partition(b",")[0])
    os.kill(pid, signal.SIGKILL)
    server.ready(2)
    assert (project.folder / "loaded").read_text() == "x"
    pid = int(server.get().body[1:].partition(b",")[0])
    # The process has inherited the old file from the template.
    old = str(project.folder / "old.log")
    wait_until(lambda: old not in open_files(pid), "the new file")
    assert str(log) in open_files(pid)
    assert server.process.stop() == 0


def test_a_reload_loads_the_new_version(processes: ProcessGroup, project: Project) -> None:
    """Unlike with other servers: the supervisor itself has not loaded the app."""
    server = Supervised(processes, project, "2", "--preload")
    server.ready()
    with server.connect() as client:
        client.get()
        project.save("app.py", LOADED + SAYS.format("version 2"))
        server.reload()
        wait_until(lambda: client.get().body == b"version 2", "the new version")
    assert (project.folder / "loaded").read_text() == "xx"
    project.save("app.py", "import settings_of_nobody\n")
    server.process.send_signal(signal.SIGHUP)
    server.process.wait_for_log("loaded; processes of the old version that continue: 2")
    wait_until(lambda: len(server.children()) == 3, "the end of the failed template")
    server.process.send_signal(signal.SIGTTIN)
    server.ready(5)
    assert server.answers() == {"version 2"}
    assert server.process.stop() == 0


def test_an_app_that_cannot_be_loaded(processes: ProcessGroup, project: Project) -> None:
    project.save("app.py", "import settings_of_nobody\n")
    server = Supervised(processes, project, "2", "--preload")
    assert server.process.wait() == 2
    assert server.log().count("Traceback") == 1


def test_processes_stop_when_the_supervisor_was_killed(
    processes: ProcessGroup, project: Project
) -> None:
    server = Supervised(processes, project, "2", "--preload")
    server.ready()
    server.process.stop(signal.SIGKILL)
    wait_until(lambda: processes.pids() == [], "the end of the processes", 5)


def test_an_app_that_has_used_gevent(processes: ProcessGroup, project: Project) -> None:
    """The event loop of the template is not shared with the processes."""
    project.save("app.py", "import gevent\ngevent.sleep(0.01)\n" + pids_app())
    server = Supervised(processes, project, "2", "--preload")
    server.ready()
    server.wait_for_answers(lambda found: len(found) == 2)
    assert server.process.stop() == 0
