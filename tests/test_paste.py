"""Test a server in a file of PasteDeploy."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from paste.deploy import loadserver  # type: ignore[import-untyped]
from support.fcgi.peer import Client
from support.flup import listens
from support.front_ends.hosts import replaced
from support.front_ends.servers import APPS, EXAMPLES
from support.processes import Process, ProcessGroup, free_port, wait_until

from vsgi_fcgi.exceptions import UsageError

pytestmark = pytest.mark.process

SCRIPT = """\
import sys

sys.path.insert(0, sys.argv[1])
from paste.deploy import loadapp, loadserver

uri = f"config:{sys.argv[2]}"
loadserver(uri)(loadapp(uri))
print("the end")
"""

FACTORY = """\
from apps.routes import app

def make(global_conf, **local_conf):
    return app
"""


def write(folder: Path, lines: str) -> Path:
    """Write the file of the examples, with other lines about the server if there are any."""
    text = replaced((EXAMPLES / "site.ini").read_text(), "mysite:make_app", "paste_app:make")
    head, _, own = text.partition("use = egg:vsgi-fcgi\n")
    path = folder / "site.ini"
    path.write_text(f"{head}use = egg:vsgi-fcgi\n{lines or own}\n")
    return path


def start(group: ProcessGroup, lines: str, stdin: socket.socket | None = None) -> Process:
    folder = group.folder
    (folder / "paste_app.py").write_text(FACTORY)
    (folder / "serve.py").write_text(SCRIPT)
    argv = [sys.executable, "serve.py", str(APPS), str(write(folder, lines))]
    return group.start(argv, name="server", env={"PYTHONPATH": str(folder)}, stdin=stdin)


def test_a_server(processes: ProcessGroup) -> None:
    """Addresses as for other servers of Paste, and as for ``vsgi-fcgi``."""
    path, port = processes.folder / "app.sock", free_port()
    lines = f"host = 127.0.0.1\nport = {port}\nsocket = {path}\nbind = unix:{path}.2, unix:{path}.3"
    process = start(processes, f"{lines}\nsocket-mode = 0600\nworker = main\n")
    places: list[Any] = [str(path), f"{path}.2", f"{path}.3", ("127.0.0.1", port)]
    # The last one that it opens.
    wait_until(lambda: listens(process, Path(f"{path}.3")), "the server")
    assert path.stat().st_mode & 0o777 == 0o600
    for place in places:
        with Client(place) as client:
            assert b'"wsgi.multithread": false' in client.get("/echo").body
    assert process.stop() == 0
    assert process.log() == "the end\n"


def test_the_example(processes: ProcessGroup) -> None:
    process = start(processes, "")
    path = processes.folder / "site.sock"
    wait_until(lambda: listens(process, path), "the server")
    assert path.stat().st_mode & 0o777 == 0o666, process.log()
    with Client(str(path)) as client:
        assert b'"wsgi.multithread": true' in client.get("/echo").body
    assert process.stop() == 0


def test_descriptor_0(processes: ProcessGroup) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        process = start(processes, "threads = 2", stdin=sock)
        with Client(sock.getsockname()) as client:
            assert b'"wsgi.multithread": true' in client.get("/echo").body
        assert process.stop() == 0


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            "thread = 3",
            "thread: vsgi-fcgi has no such setting; did you mean threads",
        ),
        ("user = www-data", "user: vsgi-fcgi has no such setting; "),
        ("threads = many", "threads: 'many' is not a whole number"),
        ("threads = 0", "threads is 0, but must be at least 1"),
        ("host = 127.0.0.1", "--address 127.0.0.1: the port is missing; "),
        ("bind = /run/a.sock, 9000", "'9000' is not a usable address: write 127.0.0.1:9000"),
    ],
)
def test_a_section_that_has_to_be_mended(tmp_path: Path, lines: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}"):
        loadserver(f"config:{write(tmp_path, lines)}")
