"""Test the server as in a container: process 1, a user without a name, a read-only root."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.accounts import PublicPython, public_folder
from support.fcgi.peer import Client
from support.processes import Process, ProcessGroup, wait_until

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("root")]

APP = """
import errno, json, os

def written(path):
    try:
        with open(path, "w"):
            return "written"
    except OSError as error:
        return errno.errorcode[error.errno]

def app(environ, start_response):
    facts = {"pid": os.getpid(), "uid": os.getuid(), "groups": os.getgroups()}
    facts["root"] = written("/etc/vsgi-fcgi-test")
    facts["body"] = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(facts).encode()]
"""

# The folder of the socket stays writable, and a file system in memory is there for temporary files.
BOX = """
set -e
mount --make-rprivate /
mkdir -p spool
mount -t tmpfs -o mode=1777 tmpfs spool
mount --bind run run
mount -o remount,bind,ro /
exec setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all "$@"
"""
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture
def folder() -> Iterator[Path]:
    for program in ("unshare", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no namespaces can be made here")
    with public_folder() as folder:
        (folder / "facts.py").write_text(APP)
        (folder / "run").mkdir()
        (folder / "run").chmod(0o777)
        yield folder


@pytest.fixture
def box(public_python: PublicPython, folder: Path) -> Iterator[Process]:
    """The server in its namespaces; the process is `unshare`, whose child it is."""
    with ProcessGroup(folder) as group:
        group.measured = False  # coverage could not write what it has measured
        argv = [*NAMESPACES, "sh", "-c", BOX, "sh", public_python.executable, "-m", "vsgi_fcgi"]
        argv += ["--bind", f"unix:{folder}/run/app.sock", "--socket-mode", "0666"]
        argv += ["--spool-dir", str(folder / "spool"), "--access-log", "-", "facts:app"]
        env = {**public_python.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        process = group.start(argv, name="server", env=env)
        process.wait_for_log("listening on")
        yield process


def test_it_serves_and_stops(box: Process, folder: Path) -> None:
    body = bytes(3 << 20)  # more than is kept in memory
    with Client(str(folder / "run" / "app.sock")) as client:
        facts = json.loads(client.get("/", body).body)
    assert facts == {"pid": 1, "uid": 10001, "groups": [], "root": "EROFS", "body": len(body)}
    (server,) = Path(f"/proc/{box.pid}/task/{box.pid}/children").read_text().split()
    subprocess.run(["kill", "-TERM", server], check=True)
    assert box.wait() == 0
    log = box.log()
    assert "SIGTERM: stopping" in log
    assert '"POST / HTTP/1.1" 200' in log
    assert wait_until(lambda: not (folder / "run" / "app.sock").exists(), "the end of the socket")


ORPHANS = """
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/orphan":
        read, write = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.write(write, b"%d" % os.getpid())
            os._exit(0)
        os.wait()
        body = os.read(read, 100)
    else:
        body = repr(os.path.exists("/proc" + environ["PATH_INFO"])).encode()
    start_response("200 OK", [])
    return [body]
"""


def test_orphans_are_reaped_by_a_supervisor(processes: ProcessGroup) -> None:
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no namespaces can be made here")
    (processes.folder / "orphans.py").write_text(ORPHANS)
    address = f"{processes.folder}/app.sock"
    argv = [*NAMESPACES, sys.executable, "-m", "vsgi_fcgi", "--socket", address]
    server = processes.start([*argv, "--processes", "1", "orphans:app"], name="server")
    server.wait_for_log("listening on")

    def get(path: str) -> bytes:
        with Client(address) as client:
            return client.get(path).body

    # As a zombie it would have a folder in /proc.
    orphan = get("/orphan").decode()
    wait_until(lambda: get(f"/{orphan}") == b"False", "the end of the orphan")
    assert get("/1") == b"True"
    (supervisor,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    subprocess.run(["kill", "-TERM", supervisor], check=True)
    assert server.wait() == 0
