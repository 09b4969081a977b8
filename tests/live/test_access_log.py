"""Test the access log behind real web servers, for every way in which a request can end."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
from support.fcgi.peer import Client as FastCGIClient
from support.front_ends.servers import AppServer, Lighttpd, Nginx, command
from support.gates import Gate
from support.http import request
from support.lines import LogFile
from support.processes import ProcessGroup, wait_until

APP = "apps.routes:app"

HEADERS = {"User-Agent": 'Tester "1.0"\\', "Referer": "http://example.org/?a=\xe9"}

LINE = re.compile(
    r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "POST /upload\?a=1 HTTP/1\.1"'
    r' 200 (\d+) "http://example\.org/\?a=(?:\\xc3\\xa9|\\xe9)" "Tester \\"1\.0\\"\\\\"'
)


@pytest.fixture
def log(processes: ProcessGroup) -> LogFile:
    return LogFile(processes.folder / "access.log")


def test_a_combined_line_behind_nginx(processes: ProcessGroup, log: LogFile) -> None:
    server = AppServer(processes, APP, "--access-log", str(log.path))
    answer = request(
        Nginx(processes, server).port, "/upload?a=1", method="POST", body=b"body", headers=HEADERS
    )
    found = LINE.fullmatch(log.only())
    assert found is not None, log.lines()
    assert int(found[1]) == len(answer.body)


def test_a_combined_line_behind_lighttpd(processes: ProcessGroup, log: LogFile) -> None:
    lighttpd = Lighttpd(processes, f"--access-log {log.path} {APP}")
    answer = request(lighttpd.port, "/upload?a=1", method="POST", body=b"body", headers=HEADERS)
    found = LINE.fullmatch(log.only())
    assert found is not None, log.lines()
    assert int(found[1]) == len(answer.body)


def test_standard_output_is_descriptor_1(processes: ProcessGroup) -> None:
    options = ("--access-log", "-", "--access-log-format", "said: %(uri)s %(end)s")
    server = AppServer(processes, APP, *options)
    with FastCGIClient(str(server.socket)) as client:
        client.get("/echo")
        server.process.wait_for_log("\nsaid: /echo complete\n")


@pytest.mark.parametrize("worker", ["thread", "main"])
def test_a_graceful_stop_leaves_no_line_out(
    processes: ProcessGroup, log: LogFile, worker: str
) -> None:
    options = ("--access-log-format", "%(uri)s %(end)s", "--worker", worker)
    server = AppServer(processes, APP, "--access-log", str(log.path), *options)
    with Gate(processes.folder) as gate, FastCGIClient(str(server.socket)) as client:
        for number in range(100):
            client.get(f"/echo?{number}")
        client.ask(1, gate.url)
        gate.wait_for_app()
        server.process.send_signal(signal.SIGTERM)
        gate.open()
        client.answer(1)
        client.read_to_end()
    assert server.process.wait() == 0
    assert log.lines() == [*(f"/echo?{n} complete" for n in range(100)), f"{gate.url} complete"]


@pytest.mark.parametrize("worker", ["thread", "main"])
@pytest.mark.parametrize("by", ["a second signal", "the graceful timeout"])
def test_what_a_sudden_end_cuts_off_has_its_lines(
    processes: ProcessGroup, log: LogFile, worker: str, by: str
) -> None:
    """Even if the app never lets the main context go on."""
    options = ["--access-log-format", "%(U)s %(end)s", "--worker", worker]
    if by == "the graceful timeout":
        options += ["--graceful-timeout", "0.2"]
    server = AppServer(processes, APP, "--access-log", str(log.path), *options)
    began = processes.folder / "began"
    with FastCGIClient(str(server.socket)) as client:
        client.get("/echo")
        client.start(2, "/upload", length=10)
        client.ask(1, f"/burn?seconds=50&began={began}")
        wait_until(began.exists, "the app to begin")
        server.process.send_signal(signal.SIGTERM)

        def ended() -> bool:
            if by == "a second signal":
                server.process.send_signal(signal.SIGTERM)
            return not server.process.running

        wait_until(ended, "the end", 10)
    assert server.process.wait() == 1
    assert sorted(log.lines()) == ["/burn stopped", "/echo complete", "/upload stopped"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["--access-log", "/no/such/folder/log"],
            "vsgi-fcgi: access log /no/such/folder/log: the file cannot be opened: No such file or"
            " directory; choose a file that this user may write to\n",
        ),
        (
            ["--access-log-format", "%(staus)s", "--check-config"],
            "vsgi-fcgi: --access-log-format contains %(staus)s, which is unknown;",
        ),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(
    processes: ProcessGroup, tmp_path: Path, options: list[str], complaint: str
) -> None:
    argv = [str(command(processes)), "--chdir", str(Path(__file__).parents[1])]
    argv += ["--socket", str(tmp_path / "socket"), *options, APP]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "socket").exists()
