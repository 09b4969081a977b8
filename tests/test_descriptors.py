"""Test closed descriptors 0, 1 and 2, which FastCGI 1.0 (section 2.2) allows."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from support.processes import ProcessGroup, free_port, wait_until
from support.server import run_script

pytestmark = pytest.mark.process

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x"]
"""

SCRIPT = """
import sys
from site_app import app
from vsgi_fcgi import Server

server = Server(app)
server.listen("unix:app.sock")
{run}
"""

FLUP = """
from site_app import app
from vsgi_fcgi.flup import WSGIServer

WSGIServer(app, bindAddress="app.sock").run()
"""

COMMAND = ("-m", "vsgi_fcgi")
UPSTREAM = ("--upstream", "unix:behind.sock")

STARTS = {
    "unix": (*COMMAND, "site_app:app", "--socket", "app.sock"),
    "tcp": (*COMMAND, "site_app:app", "--bind", "127.0.0.1:{port}"),
    "http": (*COMMAND, "site_app:app", "--http", "127.0.0.1:{port}"),
    "gateway": (*COMMAND, "gateway", "--http", "127.0.0.1:{port}", *UPSTREAM),
    "relay": (*COMMAND, "relay", "--socket", "app.sock", *UPSTREAM),
    "doctor": (*COMMAND, "doctor", "--socket", "app.sock"),
    "run": ("-c", SCRIPT.format(run="server.run()")),
    "start": ("-c", SCRIPT.format(run="import time\nserver.start()\ntime.sleep(60)")),
    "flup": ("-c", FLUP),
}


@pytest.mark.parametrize("way", STARTS)
def test_no_socket_becomes_a_standard_descriptor(
    way: str, processes: ProcessGroup, tmp_path: Path
) -> None:
    """Text on stdout or stderr would be sent to a web server."""
    (tmp_path / "site_app.py").write_text(APP)
    port = free_port()
    argv = [sys.executable, *(word.replace("{port}", str(port)) for word in STARTS[way])]
    # The shell has nothing left to say it with; `exec` keeps the process's number.
    process = processes.start(
        ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *argv],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
    )

    def connected() -> socket.socket | None:
        assert process.running
        tcp = not (tmp_path / "app.sock").exists()
        sock = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        if sock.connect_ex(("127.0.0.1", port) if tcp else str(tmp_path / "app.sock")) == 0:
            return sock
        sock.close()
        return None

    sock = wait_until(connected, "a connection")
    assert sock is not None
    with sock:
        for fd in (0, 1, 2):
            assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == os.devnull


def test_where_there_is_no_dev_null_a_pipe_stands_in() -> None:
    """As in some chroots: what reads is at an end, what writes gets an error."""
    script = """
import os
from vsgi_fcgi.descriptors import open_standard

os.devnull = "/nowhere"
kept = os.dup(1)
for fds in ((0, 1, 2), (1, 2), (0, 2)):
    for fd in (0, 1, 2):
        os.close(fd)
    before = os.listdir("/proc/self/fd")
    open_standard(fds)
    states = []
    for fd in (0, 1, 2):
        try:
            states.append(f"{os.read(fd, 9)} {os.get_inheritable(fd)}")
        except OSError:
            states.append("closed")
    left = len(os.listdir("/proc/self/fd")) - len(before) - len(fds)
    os.write(kept, f"{', '.join(states)}; left open: {left}\\n".encode())
    open_standard()
"""
    assert run_script(script).splitlines() == [
        "b'' True, b'' True, b'' True; left open: 0",
        "closed, b'' True, b'' True; left open: 0",
        "b'' True, closed, b'' True; left open: 0",
    ]
