"""Test the units that ``vsgi-fcgi config systemd`` writes under a systemd that runs."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.accounts import PublicPython, public_folder
from support.fcgi.peer import Client
from support.front_ends.servers import command
from support.processes import ProcessGroup, wait_until
from support.systemd import Systemd, systemd_version

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

APP = """
import os

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
"""


class Asking:
    """Asks the service again and again, over a connection for each request."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: list[int] = []
        self.faults: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                with Client(self.address) as client:
                    self.answers.append(int(client.get("/").body))
            except (OSError, ValueError, AssertionError) as error:
                self.faults.append(repr(error))

    def wait_for_another(self, pids: set[int]) -> None:
        """Wait until a process answers that is none of these."""
        wait_until(lambda: not pids.issuperset(self.answers[-20:]), "an answer of another process")

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def systemd(processes: ProcessGroup, public_python: PublicPython) -> Iterator[Systemd]:
    """A systemd with the units of an app, as they are printed but for the path of the command."""
    units = processes.folder / "units"
    units.mkdir()
    program = str(command(processes))
    subprocess.run(
        [
            *(program, "config", "systemd", "pids:app", "--name", "site", "--processes", "2"),
            *("--chdir", "/srv/site", "--output", str(units)),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    (units / "test.target").write_text("[Unit]\nWants=site.socket site.service\n")
    service = units / "site.service"
    text = service.read_text()
    assert text.count(f"ExecStart={program} ") == 1
    text = text.replace(f"ExecStart={program} ", "ExecStart=/srv/site/vsgi-fcgi ")
    if systemd_version() < 253:
        # As the comment in it says.
        assert text.count("Type=notify-reload\n") == 1
        text = text.replace(
            "Type=notify-reload\n", "Type=notify\nExecReload=/bin/kill -HUP $MAINPID\n"
        )
    service.write_text(text)
    with public_folder() as site:
        (site / "pids.py").write_text(APP)
        script = site / "vsgi-fcgi"
        script.write_text(
            "#!/bin/sh\nPYTHONPATH=/srv/packages PYTHONDONTWRITEBYTECODE=1"
            f' exec {public_python.executable} -m vsgi_fcgi "$@"\n'
        )
        script.chmod(0o755)
        packages = Path(public_python.environ["PYTHONPATH"])
        with Systemd(processes, units, site, packages) as systemd:
            systemd.wait_for("site.service", "ActiveState", "active")
            yield systemd


def test_a_service_as_it_is_printed(systemd: Systemd) -> None:
    """It serves in its restrictions, and loses no request when it reloads, restarts or dies."""
    assert systemd.property("site.service", "StatusText").endswith("; processes: 2")
    main = systemd.property("site.service", "MainPID")
    with Asking(str(systemd.root / "run/site.sock")) as asking:
        wait_until(lambda: len(set(asking.answers)) == 2, "answers of both processes")
        before = set(asking.answers)
        systemd.run("systemctl", "reload", "site.service")
        asking.wait_for_another(before)
        assert systemd.property("site.service", "MainPID") == main
        before = set(asking.answers)
        systemd.run("systemctl", "restart", "site.service")
        asking.wait_for_another(before)
        assert systemd.property("site.service", "MainPID") != main
        assert asking.faults == []
        before = set(asking.answers)
        systemd.run("systemctl", "kill", "--signal=KILL", "site.service")
        asking.wait_for_another(before)
    # Only the request that ran in a killed process.
    assert len(asking.faults) <= 1
    assert systemd.property("site.service", "NRestarts") == "1"
    systemd.run("systemctl", "stop", "site.service", "site.socket")
    assert systemd.property("site.service", "Result") == "success"
    assert systemd.property("site.service", "ActiveState") == "inactive"
