"""Test cgi-fcgi, the CGI bridge of the FastCGI developer's kit."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
from support.front_ends.servers import APPS, AppServer, command, find
from support.processes import ProcessGroup, wait_until

APP = "apps.routes:app"

ENVIRON = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SCRIPT_NAME": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
}


def bridge(
    group: ProcessGroup, address: str, path: str, body: bytes | None = None
) -> tuple[list[str], bytes]:
    """Run it as a web server runs a CGI program; the header block and the body that it wrote."""
    path_info, _, query = path.partition("?")
    environ = {**ENVIRON, "REQUEST_METHOD": "GET", "PATH_INFO": path_info, "QUERY_STRING": query}
    if body is not None:
        environ.update(REQUEST_METHOD="POST", CONTENT_LENGTH=str(len(body)))
    argv = [find("cgi-fcgi"), "-bind", "-connect", address]
    run = subprocess.run(
        argv,
        input=body or b"",
        env=environ,
        capture_output=True,
        timeout=20,
        check=True,
        cwd=group.folder,
    )
    head, _, rest = run.stdout.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), rest


@pytest.mark.parametrize("worker", ["thread", "main"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_the_bridge(processes: ProcessGroup, kind: str, worker: str) -> None:
    server = AppServer(processes, APP, "--worker", worker)
    address = "app.sock" if kind == "unix" else f"127.0.0.1:{server.port}"
    head, body = bridge(processes, address, "/echo/x")
    assert head[0] == "Status: 200 OK"
    assert "Content-Type: application/json" in head
    assert json.loads(body)["environ"]["PATH_INFO"] == "/echo/x"
    head, body = bridge(processes, address, "/upload", bytes(300_000))
    assert head[0] == "Status: 200 OK"
    assert body.startswith(b"300000 ")
    head, body = bridge(processes, address, "/stream?pieces=20")
    assert len(body) == 20 * 65536
    assert server.process.stop() == 0
    assert "Traceback" not in server.process.log()


def test_it_starts_the_server_on_descriptor_0(processes: ProcessGroup) -> None:
    """``-start`` passes no arguments, so the program is a script of two lines.

    libfcgi 2.4.5 sends SIGTERM to its process group before it exits, with all that it has started.
    """
    script = processes.folder / "app.fcgi"
    script.write_text(f"#!/bin/sh\nexec setsid {command(processes)} --chdir {APPS} {APP}\n")
    script.chmod(0o755)
    start = [find("cgi-fcgi"), "-start", "-connect", "app.sock", str(script), "2"]
    assert processes.start(start).wait() == 0
    wait_until(lambda: len(processes.pids()) == 2, "two processes")
    for _ in range(10):
        head, _ = bridge(processes, "app.sock", "/echo")
        assert head[0] == "Status: 200 OK"
    for pid in processes.pids():
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not processes.pids(), "the end of both")
