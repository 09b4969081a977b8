"""Test the special behaviour of h2o: ``examples/h2o.yaml`` and ``examples/h2o-spawn.yaml``."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, IncompleteRead

import pytest
from support.front_ends.hosts import not_as_root, replaced
from support.front_ends.more_servers import H2O
from support.front_ends.servers import APPS, EXAMPLES, AppServer, WebServer, find, search_path
from support.gates import Gate
from support.http import connect, request
from support.processes import Process, ProcessGroup, wait_until

APP = "apps.routes:app"


@pytest.fixture(scope="module")
def h2o(tmp_path_factory: pytest.TempPathFactory) -> Iterator[H2O]:
    with ProcessGroup(tmp_path_factory.mktemp("h2o")) as group:
        server = AppServer(group, APP, "--max-body-bytes", "3000000", "--threads", "4")
        yield H2O(group, server)


def test_headers_that_are_split_over_records_and_repeated(h2o: H2O) -> None:
    sent = {f"X-Number-{number}": chr(97 + number) * 4000 for number in range(25)}
    connection = HTTPConnection("127.0.0.1", h2o.port, timeout=20)
    connection.putrequest("GET", "/echo")
    repeated = [("Cookie", "a=1"), ("Cookie", "b=2"), ("X-Twice", "one"), ("X-Twice", "two")]
    for name, value in [*sent.items(), *repeated]:
        connection.putheader(name, value)
    connection.endheaders()
    seen = json.loads(connection.getresponse().read())["environ"]
    connection.close()
    for name, value in sent.items():
        assert seen[f"HTTP_{name.upper().replace('-', '_')}"] == value
    assert seen["HTTP_COOKIE"] == "a=1;b=2"
    assert seen["HTTP_X_TWICE"] == "one, two"
    # The name in the configuration, and not the one that was asked for.
    assert seen["SERVER_NAME"] == "localhost"
    assert seen["SERVER_SOFTWARE"].startswith("h2o/")


def test_a_connection_for_each_request_and_none_before_it_is_complete(h2o: H2O) -> None:
    def accepted() -> int:
        count: int = request(h2o.port, "/stats").json()["connections_accepted"]
        return count

    before = accepted()
    assert accepted() == before + 1
    with connect(h2o.port) as sock:
        sock.sendall(b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        assert accepted() == before + 2
        sock.sendall(b" of it")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert accepted() == before + 4


def test_head_has_the_length(h2o: H2O) -> None:
    answer = request(h2o.port, "/echo", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0


def test_a_body_that_is_too_large(h2o: H2O) -> None:
    """With connections that are kept, h2o would die of the first."""
    for _ in range(10):
        assert request(h2o.port, "/upload", method="PUT", body=bytes(3000001)).status == 413
    answer = request(h2o.port, "/upload", method="PUT", body=bytes(3000000))
    assert answer.text.startswith("3000000 ")


def test_what_the_app_says_to_wsgi_errors(h2o: H2O) -> None:
    assert request(h2o.port, "/errors").text == "complained\n"
    sign = "[lib/handler/fastcgi.c] in request:/errors:a complaint: \u00e4 \u2603"
    h2o.process.wait_for_log(sign)


def test_an_answer_that_breaks_off(h2o: H2O) -> None:
    """A client learns of it by the length, and by nothing else."""
    with pytest.raises(IncompleteRead):
        request(h2o.port, "/short")
    answer = request(h2o.port, "/fail_midway?pieces=2")
    assert (answer.status, len(answer.body)) == (200, 131072)
    assert answer.headers["Transfer-Encoding"] == "chunked"


def test_a_client_that_leaves_ends_its_request(h2o: H2O) -> None:
    report = h2o.process.log_path.with_name("left")
    with connect(h2o.port) as sock:
        sock.sendall(f"GET /drip?report={report} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(100)
    wait_until(report.exists, "the end of the app's answer")


def test_a_server_that_does_not_run(processes: ProcessGroup) -> None:
    server = AppServer(processes, APP)
    h2o = H2O(processes, server)
    assert server.process.stop() == 0
    assert request(h2o.port).status == 503
    assert "connection failed" in h2o.error_log()


class H2OSpawn(WebServer):
    """h2o with ``examples/h2o-spawn.yaml``, which starts the server.

    Args:
        group: the group that it belongs to.
        changes: replacements in the file.
    """

    def __init__(self, group: ProcessGroup, *changes: tuple[str, str]) -> None:
        self._config = EXAMPLES / "h2o-spawn.yaml"
        text = self._config.read_text()
        for old, new in changes:
            text = replaced(text, old, new)
        if changes:
            self._config = group.folder / "h2o.yaml"
            self._config.write_text(text)
        self._start(group)
        self.process.wait_for_log("listening on fcgi+fd://0/")

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        (group.folder / "h2o-port.yaml").write_text(f"{self.port}\n")
        env = {"PATH": search_path(group), "APP": f"--chdir {APPS} {APP}"}
        argv = [*not_as_root(), find("h2o"), "-c", str(self._config)]
        return group.start(argv, name=name, env=env)

    def server_pid(self) -> int:
        """The process that answers."""
        lines = [line for line in self.server_log().splitlines() if "INFO listening on" in line]
        return int(lines[-1].split()[1])


def test_the_server_goes_with_h2o_that_started_it(processes: ProcessGroup) -> None:
    """And a request that runs comes to its end."""
    h2o = H2OSpawn(processes)
    seen = request(h2o.port, "/a/b").json()["environ"]
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("", "/a/b")
    with Gate(processes.folder) as gate, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(request, h2o.port, gate.url)
        gate.wait_for_app()
        h2o.process.send_signal(signal.SIGTERM)
        h2o.process.wait_for_log("gracefully shutting down")
        gate.open()
        assert answer.result(10).text == "before\nafter\n"
    assert h2o.process.wait() == 0
    wait_until(lambda: not processes.pids(), "the server's end", 5)
    assert h2o.server_log().rstrip().endswith("INFO stopped")


def test_a_server_that_died_is_not_started_again(processes: ProcessGroup) -> None:
    """Requests wait for as long as the app may be silent."""
    h2o = H2OSpawn(processes, ("timeout.io: 60000", "timeout.io: 300"))
    os.kill(h2o.server_pid(), signal.SIGKILL)
    assert request(h2o.port).status == 503
    wait_until(lambda: "I/O timeout" in h2o.error_log(), "the reason")


def test_with_multiwatch_it_is(processes: ProcessGroup) -> None:
    watch = f"exec {find('multiwatch')} -- $(command -v vsgi-fcgi)"
    h2o = H2OSpawn(processes, ("exec vsgi-fcgi", watch))
    first = h2o.server_pid()
    os.kill(first, signal.SIGKILL)
    assert request(h2o.port).status == 200
    # The log is written by a thread of its own.
    wait_until(lambda: h2o.server_pid() != first, "the log of the new server")
    assert h2o.process.stop() == 0
    wait_until(lambda: not processes.pids(), "the server's end", 5)
    assert h2o.server_log().rstrip().endswith("INFO stopped")
