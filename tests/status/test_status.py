"""Test ``--status-bind`` as a monitor, a browser and a container platform use it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support.chrome import chrome
from support.commands import complaint, run_command
from support.fcgi.peer import Client
from support.processes import Process, ProcessGroup, free_port, wait_until

pytestmark = pytest.mark.process

TESTS = Path(__file__).parents[1]


@dataclass
class Site:
    """A server with a status."""

    port: int
    address: str
    process: Process

    def get(self, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers={"Host": host})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def report(self) -> dict[str, Any]:
        status, text = self.get("/json")
        assert status == 200
        found: dict[str, Any] = json.loads(text)
        return found


def serve(
    folder: Path,
    group: ProcessGroup,
    *options: str,
    app: str = "apps.stuck:app",
    port: int | None = None,
) -> Site:
    port, address = port or free_port(), str(folder / "app.sock")
    process = group.start(
        [
            *(sys.executable, "-m", "vsgi_fcgi", app, "--bind", f"unix:{address}"),
            *("--status-bind", f"127.0.0.1:{port}", *options),
        ],
        name="server",
        cwd=TESTS,
    )
    process.wait_for_log("serving the status on")
    return Site(port, address, process)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[ProcessGroup]:
    with ProcessGroup(tmp_path) as group:
        yield group


def test_the_status_is_answered_while_all_threads_are_stuck(
    tmp_path: Path, group: ProcessGroup
) -> None:
    site = serve(tmp_path, group, "--threads", "2", "--graceful-timeout", "0.1")
    with Client(site.address) as client:
        path = "/stuck?<script>alert(1)</script>"
        for id in range(1, 4):
            client.ask(id, path, more={"REMOTE_ADDR": "192.0.2.7"})
        wait_until(lambda: site.report()["now"]["busy"] == 2, "two stuck requests")
        report = site.report()
        assert report["now"]["queued"] == 1
        assert report["now"]["multiplexed_connections"] == 1
        (first, _) = report["requests"]
        assert (first["method"], first["target"], first["client"]) == ("GET", path, "192.0.2.7")
        assert first["process"] == site.process.pid
        status, stack = site.get(f"/stack?id={first['id']}")
        assert status == 200
        # The stack ends where the thread waits.
        assert stack.rstrip().splitlines()[-2].endswith("in wait_for_ever")
        assert site.get("/stacks")[1].count("in wait_for_ever") == 2
        status, page = site.get("/")
        assert status == 200
        assert "&lt;script&gt;alert" in page
        assert "<script>alert" not in page
        assert site.get("/ready") == (200, "ready\n")
        assert site.get("/alive") == (200, "alive\n")


def test_figures_count_requests_and_not_connections(tmp_path: Path, group: ProcessGroup) -> None:
    site = serve(tmp_path, group)
    idle = [Client(site.address) for _ in range(3)]
    with Client(site.address) as client:
        answers = [client.get("/quick") for _ in range(5)]
        answers += [client.get("/upload", b"x" * 1000), client.get("/broken")]
        client.start(1, length=-5)
        assert client.answer(1).status == 400
    report = site.report()
    assert report["now"]["busy"] == 0
    assert report["now"]["connections"] >= 3
    assert (report["responses"]["2xx"], report["responses"]["5xx"]) == (6, 1)
    assert report["refused"]["400"] == 1
    assert report["totals"]["received_bytes"] == 1000
    assert report["totals"]["sent_bytes"] == sum(len(answer.stdout) for answer in answers)
    assert report["run_time"]["count"] == report["queue_wait"]["count"] == 7
    assert report["history"][-1]["requests"] + report["history"][-2]["requests"] == 7
    for each in idle:
        each.close()


def test_held_requests_are_counted_until_they_end(tmp_path: Path, group: ProcessGroup) -> None:
    site = serve(tmp_path, group, "--push", app="apps.held:app")
    address = f"127.0.0.1:{site.port}"
    with Client(site.address) as client, Client(site.address) as other:
        client.ask(1, "/stream")
        client.ask(2, "/poll")
        wait_until(lambda: site.report()["now"]["held"] == 2, "two held requests")
        report = site.report()
        # No worker waits for them.
        assert (report["now"]["busy"], report["now"]["queued"]) == (0, 0)
        assert report["processes"][0]["held"] == 2
        assert "<b>2</b><span>requests are held</span>" in site.get("/")[1]
        assert "\nvsgi_fcgi_held 2.0\n" in site.get("/metrics")[1]
        assert "requests waiting: 0, held: 2;" in run_command(tmp_path, "status", address).out
        other.get("/close")
        wait_until(lambda: site.report()["now"]["held"] == 1, "the end of the stream")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server for tests of which one alone sends requests to the app."""
    folder = tmp_path_factory.mktemp("site")
    with ProcessGroup(folder) as group:
        yield serve(folder, group, "--status-bind", f"unix:{folder / 'status.sock'}")


def test_metrics_are_what_prometheus_reads(site: Site) -> None:
    with Client(site.address) as client:
        client.get("/quick")
        client.get("/broken")
    status, text = site.get("/metrics")
    assert status == 200
    parsed: Any = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    responses = {
        sample.labels["class"]: sample.value for sample in families["vsgi_fcgi_responses"].samples
    }
    assert (responses["2xx"], responses["5xx"]) == (1, 1)
    (count,) = (
        sample.value
        for sample in families["vsgi_fcgi_run_time_seconds"].samples
        if sample.name.endswith("_count")
    )
    assert count == 2


def test_a_name_that_another_site_made_point_here_gets_nothing(site: Site) -> None:
    refused = 403, "The header Host must be localhost or an IP address.\n"
    assert site.get("/json", host="evil.example") == refused
    assert site.get("/json", host=f"localhost:{site.port}")[0] == 200
    assert site.get("/other")[0] == 404
    # Browsers always send Host. The checks of HAProxy, for example, do not.
    with socket.create_connection(("127.0.0.1", site.port), 20) as sock:
        sock.sendall(b"GET /alive HTTP/1.0\r\n\r\n")
        assert b"".join(iter(lambda: sock.recv(4096), b"")).endswith(b"\r\n\r\nalive\n")


def test_a_unix_socket(site: Site) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(Path(site.address).with_name("status.sock")))
        sock.sendall(b"GET /alive HTTP/1.0\r\n\r\n")
        data = b""
        while piece := sock.recv(4096):
            data += piece
    assert data.endswith(b"\r\n\r\nalive\n")


def test_a_server_that_stops_is_not_ready(tmp_path: Path, group: ProcessGroup) -> None:
    site = serve(tmp_path, group, "--graceful-timeout", "20")
    with Client(site.address) as client:
        client.ask(1, "/stuck")
        wait_until(lambda: site.report()["now"]["busy"], "the request")
        site.process.send_signal(signal.SIGTERM)
        wait_until(lambda: site.get("/ready")[0] == 503, "the stop")
        assert site.get("/alive")[0] == 200
        assert site.report()["processes"][0]["state"] == "stopping"
        site.process.send_signal(signal.SIGKILL)


@pytest.mark.live
def test_the_page_in_a_browser(tmp_path: Path, group: ProcessGroup) -> None:
    site = serve(tmp_path, group, "--slow-request", "0.1")
    with Client(site.address) as client, chrome(group) as browser:

        def text(selector: str) -> str:
            found: str = browser.evaluate(f"document.querySelector('{selector}').innerText")
            return found

        browser.open(f"http://127.0.0.1:{site.port}/")
        assert "No request runs" in text("main")
        client.ask(1, "/stuck?<b>&'\"")
        # The page updates itself.
        wait_until(
            lambda: "/stuck?<b>&'\"" in text("main"),
            "the request on the page",
        )
        wait_until(lambda: "slow" in text("td"), "slow")
        browser.evaluate("document.querySelector('a.button').click()")
        wait_until(
            lambda: "wait_for_ever" in text("dialog"),
            "the stack",
        )
        # On a phone, nothing is wider than the screen.
        size = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
        browser.call("Emulation.setDeviceMetricsOverride", **size)
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360
        colours = set()
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.call("Emulation.setEmulatedMedia", features=features)
            colours.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert colours == {"rgb(255, 255, 255)", "rgb(13, 17, 23)"}
        assert browser.complaints == []
        # Without JavaScript, the page has the same tables, and updates itself.
        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        _, page = site.get("/")
        assert re.search(r'<noscript><meta http-equiv="refresh"', page)
        site.process.send_signal(signal.SIGKILL)


def test_each_process_tells_about_all(tmp_path: Path, group: ProcessGroup) -> None:
    site = serve(tmp_path, group, "--processes", "2", "--threads", "1", "--graceful-timeout", "1")

    def pids() -> set[int]:
        report = site.report()
        return {each["pid"] for each in report["processes"] if each["state"] == "serving"}

    before = wait_until(lambda: len(pids()) == 2 and pids(), "two processes")
    clients: list[Client] = []
    try:
        for _ in range(4):
            clients.append(Client(site.address))
            clients[-1].get("/quick")

        def are_stuck() -> bool:
            # Either process may accept a connection, so the next one may reach the other process.
            clients.append(Client(site.address))
            clients[-1].ask(1, "/stuck")
            return bool(site.report()["now"]["busy"] == 2)

        wait_until(are_stuck, "all threads are stuck")
        # Each process publishes the stacks of its long requests for the others.
        wait_until(lambda: all(each["stack"] for each in site.report()["requests"]), "the stacks")
        report = site.report()
        assert {each["process"] for each in report["requests"]} == before
        assert len(report["requests"]) == 2
        assert report["responses"]["2xx"] == 4
        # The figures of a process that has ended are kept.
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(pids()) == 2 and victim not in pids(), "a new process")
        report = site.report()
        assert report["responses"]["2xx"] == 4
        assert report["totals"]["worker_deaths"] == 1
    finally:
        for client in clients:
            client.close()


def test_the_commands_show_what_runs_in_a_terminal(tmp_path: Path, group: ProcessGroup) -> None:
    site = serve(tmp_path, group, "--threads", "1")
    address = f"127.0.0.1:{site.port}"
    with Client(site.address) as client:
        client.get("/quick")
        forged = {"REMOTE_ADDR": "192.0.2.7\x1b[2J\nforged"}
        client.ask(1, "/stuck?\x1b[31m\nforged" + "x" * 100, more=forged)
        wait_until(lambda: site.report()["now"]["busy"], "the stuck request")
        shown = run_command(tmp_path, "status", address)
        assert shown.status == 0, shown.err
        assert "workers busy: 1 of 1" in shown.out
        assert r" 192.0.2.7\x1b[2J\nforged  GET /stuck?\x1b[31m" in shown.out
        assert max(map(len, shown.out.splitlines())) <= 80
        found = json.loads(run_command(tmp_path, "status", address, "--json").out)
        assert found["responses"]["2xx"] == 1
        # The address may come from the configuration file of the server.
        (tmp_path / "site.toml").write_text(f'status-bind = "{address}"\n')
        stacks = run_command(tmp_path, "stacks", "--config", "site.toml").out
        assert "in wait_for_ever" in stacks
        (request,) = site.report()["requests"]
        for text in (stacks, site.get(f"/stack?id={request['id']}")[1], site.get("/stacks")[1]):
            assert r"GET /stuck?\x1b[31m\nforgedx" in text
            assert "\x1b" not in text
        site.process.send_signal(signal.SIGKILL)
    site.process.wait(20)
    assert "cannot be read: " in complaint(tmp_path, "status", address)
    assert "ADDRESS is missing" in complaint(tmp_path, "stacks")


def test_the_address_of_another_http_server(tmp_path: Path, group: ProcessGroup) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = (sys.executable, "-m", "vsgi_fcgi", "apps.echo:app", "--http", address)
    group.start([*command], name="other", cwd=TESTS).wait_for_log("http://")
    for options in ((), ("--json",), ("--watch",)):
        found = complaint(tmp_path, "status", address, *options)
        assert found.startswith(f"{address}: the response is not a status; name the address of")


def test_the_stacks_show_the_line_at_which_each_of_16_threads_is(
    tmp_path: Path, group: ProcessGroup
) -> None:
    site = serve(tmp_path, group, "--threads", "16")
    places = {
        "/stuck": ("in wait_for_ever", "with lock:"),
        "/sleep": ("in app", "time.sleep(1000)"),
        "/call": ("in app", "ctypes.CDLL(None).sleep(1000)"),
        # A thread that computes gives way to the others where its loop begins anew.
        "/compute": ("in compute", "number += 1" if sys.version_info >= (3, 14) else "while True:"),
    }
    with Client(site.address) as client:
        for id, path in enumerate(places, 1):
            client.ask(id, path)
        wait_until(lambda: site.report()["now"]["busy"] == len(places), "the requests")
        found: dict[str, tuple[str, str]] = {}

        def all_are_there() -> bool:
            workers = run_command(tmp_path, "stacks", f"127.0.0.1:{site.port}").out.split("\n\n")
            assert len(workers) == 16
            assert sum(worker.splitlines()[0].endswith(": idle") for worker in workers) == 12
            for worker in workers:
                title, *lines = worker.rstrip().splitlines()
                if title.endswith(": idle"):
                    assert not lines
                    continue
                *_, place, line = lines
                for path in places:
                    if f": GET {path} has run for " in title:
                        found[path] = place[place.index("in ") :], line.strip()
            return found == places

        wait_until(all_are_there, "the lines", log=lambda: str(found))
        site.process.send_signal(signal.SIGKILL)


def test_the_live_view_shows_changes_and_ends_at_ctrl_c(
    tmp_path: Path, group: ProcessGroup
) -> None:
    site = serve(tmp_path, group, "--threads", "8")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
    argv = [sys.executable, "-m", "vsgi_fcgi", "status", f"127.0.0.1:{site.port}", "--watch"]
    env = group.environ()
    for name in ("COLUMNS", "LINES"):
        # They count for more than the terminal itself, and pytest-xdist sets them.
        env.pop(name, None)
    shown = ""

    def screen() -> str:
        """Return the last complete screen: each begins by clearing the one before."""
        nonlocal shown
        while select.select([master], [], [], 0)[0]:
            shown += os.read(master, 65536).decode()
        return shown.split("\x1b[H\x1b[J")[-2] if shown.count("\x1b[H\x1b[J") > 1 else ""

    with (
        Client(site.address) as client,
        subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=TESTS
        ) as process,
    ):
        try:
            wait_until(lambda: "workers busy: 0 of 8" in screen(), "the first screen")
            for id in range(1, 9):
                client.ask(id, f"/stuck?{'x' * 100}")
            wait_until(lambda: "workers busy: 8 of 8" in screen(), "the next one")
            lines = screen().splitlines()
            # It fits into the terminal, so that nothing scrolls.
            assert len(lines) == 9
            assert lines[-1] == "… and 8 more lines"
            plain = [re.sub(r"\x1b\[\d*m", "", line) for line in lines]
            assert max(map(len, plain)) == 60
            # It goes on when the server restarts.
            site.process.send_signal(signal.SIGKILL)
            wait_until(lambda: "cannot be read: " in screen(), "the end of the server")
            restarted = serve(tmp_path, group, "--threads", "7", port=site.port)
            wait_until(lambda: "workers busy: 0 of 7" in screen(), "its return")
            restarted.process.send_signal(signal.SIGKILL)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            screen()
            assert "Traceback" not in shown
        finally:
            process.kill()
            os.close(master)
            os.close(slave)
