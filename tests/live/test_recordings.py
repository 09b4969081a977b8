"""Test recordings behind real web servers whose clients leave, and what failing tests attach."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.front_ends.servers import APPS, AppServer, HAProxy, Nginx
from support.http import connect
from support.processes import ProcessGroup, wait_until
from support.relay_server import RelayServer

from vsgi_fcgi.cli import main
from vsgi_fcgi.recording.file import About, read_recording
from vsgi_fcgi.recording.records import Record

SECRET = "tHe-SeCrEt"


def recorded(folder: Path) -> tuple[Path, About, list[Record]]:
    """The recording in a folder, as soon as there is one."""
    wait_until(lambda: list(folder.glob("*.recording")), "a recording")
    (path,) = folder.glob("*.recording")
    return path, *read_recording(str(path))


def leave(port: int, path: str, begun: Path) -> None:
    """Send a request with secrets, and leave when the app has begun."""
    with connect(port) as sock:
        lines = (
            f"GET {path} HTTP/1.1",
            "Host: example.org",
            f"Cookie: session={SECRET}",
            f"Authorization: Bearer {SECRET}",
            f"X-Api-Key: {SECRET}",
        )
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        wait_until(begun.exists, "the app to begin")


@pytest.mark.parametrize("kind", [Nginx, HAProxy])
def test_a_client_that_leaves(
    kind: type[Nginx | HAProxy],
    processes: ProcessGroup,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    server = AppServer(processes, "apps.gone:app", "--record", str(folder))
    web = kind(processes, server)
    report = tmp_path / "report"
    # HAProxy aborts a request when it cannot pass on what the app sends.
    way = "beats" if kind is HAProxy else "silent"
    prefix = "/alone" if kind is HAProxy else ""
    leave(web.port, f"{prefix}/{way}?report={report}&key={SECRET}", report.with_suffix(".begun"))
    path, about, found = recorded(folder)
    assert SECRET not in path.read_text()
    assert about.reasons[0].startswith(("the connection ended before its", "request 1: the web"))
    assert [each.name for each in found[:2]] == ["BEGIN_REQUEST", "PARAMS"]
    assert main(["replay", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"RequestStarted: GET {prefix}/{way}?***" in out
    assert main(["timeline", str(path)]) == 0
    page = capsys.readouterr().out
    assert f"GET {prefix}/{way}?***" in page
    assert "the app runs, or waits for a worker" in page
    assert SECRET not in page


def test_the_relay_records_its_web_servers(
    processes: ProcessGroup, behind: ProcessGroup, tmp_path: Path
) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    relay = RelayServer(processes, AppServer(behind, "apps.gone:app"), "--record", str(folder))
    web = Nginx(processes, relay)
    report = tmp_path / "report"
    leave(web.port, f"/silent?report={report}", report.with_suffix(".begun"))
    path, about, found = recorded(folder)
    assert SECRET not in path.read_text()
    assert about.reasons == ["the connection ended before its requests: 1"]
    assert [each.name for each in found[:2]] == ["BEGIN_REQUEST", "PARAMS"]


FAILING = """
from support.fcgi.peer import Client
from support.front_ends.servers import AppServer

def test_a_request_that_hangs(processes):
    server = AppServer(processes, "apps.echo:app", "--graceful-timeout", "0.1")
    # It is still open when the test fails.
    client = Client(str(server.socket))
    client.get("/before")
    client.start(2, "/hangs", length=10)
    client.get("/after", id=3)
    assert False, "it hangs"
"""


def test_a_test_that_fails_has_the_recordings(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from conftest_of_all import processes\n"
        "from support.recordings import pytest_runtest_makereport\n"
    )
    (tmp_path / "conftest_of_all.py").write_text((APPS / "conftest.py").read_text())
    (tmp_path / "test_failing.py").write_text(FAILING)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{APPS}{os.pathsep}{tmp_path}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    _, _, attached = run.stdout.partition("- recordings of process ")
    assert ".recording: open when the test failed\n" in attached
    assert "RequestStarted: GET /before, " in attached
    assert "RequestStarted: GET /hangs, " in attached
    assert "id 2 had not ended; the state of its input was STDIN" in attached
