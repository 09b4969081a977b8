"""Test HAProxy, which sends many requests at once on a connection: ``examples/haproxy.cfg``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise, product
from pathlib import Path

import pytest
from support.fcgi.records import (
    ABORT_REQUEST,
    END_REQUEST,
    GET_VALUES,
    STDERR,
    STDIN,
    STDOUT,
    Record,
)
from support.fcgi.tap import Line, Tap
from support.front_ends.places import WORKERS
from support.front_ends.servers import DIES_OF_STDERR_BEFORE, EXAMPLES, AppServer, HAProxy
from support.gates import Gate
from support.http import connect, receive, request
from support.processes import ProcessGroup, wait_until

APP = "apps.routes:app"

SHARED, ALONE = "", "/alone"


class Behind:
    """HAProxy with a server behind it, and a tap in between.

    Args:
        group: the group that they belong to.
        *options: more options for the server.
    """

    def __init__(self, group: ProcessGroup, *options: str) -> None:
        self.folder = group.folder
        self.server = AppServer(group, APP, *options)
        self.tap = Tap(group.folder / "tap.sock", self.server.socket)
        self.haproxy = HAProxy(group, self.server, self.tap.path)

    @property
    def port(self) -> int:
        return self.haproxy.port

    def accepted(self) -> int:
        """Connections that the server has accepted, by its own figures."""
        accepted: int = request(self.port, "/stats").json()["connections_accepted"]
        return accepted

    def line(self, path: str) -> tuple[Line, int]:
        """The connection on which a request has come, and its id there."""

        def find() -> tuple[Line, int] | None:
            for line in reversed(self.tap.lines):
                for id in reversed(line.ids()):
                    if ("REQUEST_URI", path) in line.params(id):
                        return line, id
            return None

        found = wait_until(find, f"{path} on the line")
        assert found is not None
        return found

    def close(self) -> None:
        assert self.haproxy.process.running, self.haproxy.error_log()
        self.tap.close()


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with ProcessGroup(tmp_path_factory.mktemp("haproxy")) as group:
        behind = Behind(group, "--threads", "64")
        yield behind
        behind.close()


def sent_for(line: Line, id: int, kind: int = STDOUT) -> list[Record]:
    """The records that the server has sent for a request."""
    return [record for record in line.answers() if (record.id, record.kind) == (id, kind)]


def test_the_example(processes: ProcessGroup) -> None:
    server = AppServer(processes, "hello:app", folder=EXAMPLES)
    haproxy = HAProxy(processes, server)
    for prefix in (SHARED, ALONE):
        for path in ("/", "/some/p%20ath", *(["", "x/y"] if prefix else [])):
            answer = request(haproxy.port, prefix + path)
            assert answer.status == 200
            assert f"You asked for: GET {prefix}{path}\n" in answer.text
            assert "HAProxy" in answer.text
    # A newline in a path is refused by HAProxy where it is to find PATH_INFO.
    assert request(haproxy.port, "/a%0Ab").status == 500
    assert server.process.stop() == 0


# Sharing.


def test_requests_at_the_same_time_share_connections(behind: Behind, tmp_path: Path) -> None:
    before = behind.accepted()
    with ThreadPoolExecutor(40) as pool:
        paths = [f"/meet?count=40&met={tmp_path}/shared"] * 40
        answers = list(pool.map(lambda path: request(behind.port, path), paths))
        assert {answer.text for answer in answers} == {"met\n"}
        shared = behind.accepted() - before
        paths = [f"{ALONE}/meet?count=10&met={tmp_path}/alone"] * 10
        answers = list(pool.map(lambda path: request(behind.port, path), paths))
        assert {answer.text for answer in answers} == {"met\n"}
        alone = behind.accepted() - before - shared
    assert shared <= 1
    assert 9 <= alone <= 10


def test_ids_are_odd_and_grow_until_the_connection_is_retired(processes: ProcessGroup) -> None:
    behind = Behind(processes, "--threads", "2")
    count = 1030
    # Not 204: HAProxy 3.0 closes the client's connection after one from FastCGI.
    asked = b"GET /status?code=304+N HTTP/1.1\r\nHost: x\r\n\r\n" * (count - 1)
    asked += b"GET /status?code=304+N HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    def ask(_: int) -> int:
        with connect(behind.port) as sock:
            sock.sendall(asked)
            return b"".join(receive(sock)).count(b"HTTP/1.1 304 N\r\n")

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == [count] * 16
    first, second = behind.tap.lines
    assert first.ids() == list(range(1, 0x8000, 2))
    assert second.ids() == list(range(1, 2 * (16 * count - 0x4000), 2))
    # The other one is kept as long as HAProxy keeps idle connections.
    wait_until(lambda: first.ended, "the end of the first connection")
    behind.close()


def test_the_server_is_asked_how_many_requests_it_takes(
    processes: ProcessGroup, tmp_path: Path
) -> None:
    """And its answer counts: the file's own ``option max-reqs`` would let all share one."""
    behind = Behind(processes, "--threads", "16", "--max-requests-per-connection", "3")
    assert request(behind.port, "/echo").status == 200
    with ThreadPoolExecutor(4) as pool:
        paths = [f"/meet?count=4&met={tmp_path}/met"] * 4
        answers = list(pool.map(lambda path: request(behind.port, path), paths))
    assert {answer.text for answer in answers} == {"met\n"}
    for line in behind.tap.lines:
        assert line.requests()[0].kind == GET_VALUES
        assert line.values() == (
            ["FCGI_MAX_REQS", "FCGI_MPXS_CONNS"],
            {"FCGI_MAX_REQS": "3", "FCGI_MPXS_CONNS": "1"},
        )
    assert [len(line.ids()) for line in behind.tap.lines] == [1 + 3, 1]
    behind.close()


def test_a_server_that_is_full_harms_no_neighbour(processes: ProcessGroup) -> None:
    behind = Behind(processes, "--threads", "1", "--max-queued", "1")
    with Gate(behind.folder) as gate, ThreadPoolExecutor(12) as pool:
        held = pool.submit(request, behind.port, gate.url)
        gate.wait_for_app()
        many = [pool.submit(request, behind.port, "/echo") for _ in range(10)]
        wait_until(lambda: sum(future.done() for future in many) == 9, "the answers of the full")
        refused = [future.result() for future in many if future.done()]
        assert {(answer.status, answer.headers["Retry-After"]) for answer in refused} == {
            (503, "1")
        }
        gate.open()
        assert held.result().text == "before\nafter\n"
        assert sorted(future.result().status for future in many) == [200] + [503] * 9
    behind.close()


# Params.


def test_params_that_are_empty_or_repeated(behind: Behind) -> None:
    with connect(behind.port) as sock:
        headers = (
            "Host: x\r\nX-Thing: 1\r\nX-Thing: 2\r\nCookie: a=1\r\nCookie: b=2\r\nX-Empty:\r\n"
        )
        headers += "Authorization: Basic abc\r\nConnection: close\r\n"
        sock.sendall(f"GET /echo/params HTTP/1.1\r\n{headers}\r\n".encode())
        answer = b"".join(receive(sock)).decode()
    line, id = behind.line("/echo/params")
    params = line.params(id)
    # What it makes up itself is left out when it is empty; a header is not.
    assert {"QUERY_STRING", "SCRIPT_NAME"}.isdisjoint(name for name, _ in params)
    assert ("HTTP_X_EMPTY", "") in params
    assert [value for name, value in params if name == "HTTP_X_THING"] == ["1", "2"]
    assert [value for name, value in params if name == "HTTP_COOKIE"] == ["a=1", "b=2"]
    for name, value in (
        ("QUERY_STRING", ""),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", "/echo/params"),
        ("SERVER_NAME", "x"),
        ("HTTP_X_THING", "1, 2"),
        ("HTTP_COOKIE", "a=1; b=2"),
        ("HTTP_X_EMPTY", ""),
        ("HTTP_AUTHORIZATION", "Basic abc"),
    ):
        assert f'"{name}": "{value}"' in answer


# STDERR, and bodies.


@pytest.mark.parametrize("worker", WORKERS)
def test_no_moment_of_wsgi_errors_ends_haproxy(processes: ProcessGroup, worker: str) -> None:
    """HAProxy 2.6.12 may crash at any STDERR record: it gets none. Later versions log it."""
    behind = Behind(processes, "--worker", worker, "--threads", "8")
    moments = ("1", "2", "3", "4", "1234")
    answers = ((0, 0), (1, 100), (3, 20000))

    def ask(case: tuple[str, int, tuple[int, int], str]) -> bool:
        when, errors, (pieces, size), method = case
        path = f"/mutter?when={when}&errors={errors}&pieces={pieces}&size={size}"
        answer = request(behind.port, path, method=method)
        length = 0 if method == "HEAD" else pieces * size
        return (answer.status, len(answer.body)) == (200, length)

    cases = list(product(moments, (10, 20000), answers, ("GET", "HEAD"))) * 2
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, cases))
    assert not any(line.ended for line in behind.tap.lines)
    stderr = [
        record for line in behind.tap.lines for record in line.answers() if record.kind == STDERR
    ]
    if behind.haproxy.version < DIES_OF_STDERR_BEFORE:
        assert not stderr
    else:
        assert b"eeee" in b"".join(record.content for record in stderr)
        wait_until(lambda: "eeee" in behind.haproxy.error_log(), "STDERR in HAProxy's log")
    assert "eeee" in behind.haproxy.server_log()
    behind.close()


@pytest.mark.parametrize("worker", WORKERS)
def test_bodies_that_come_at_the_same_time(processes: ProcessGroup, worker: str) -> None:
    with closing(Behind(processes, "--worker", worker, "--threads", "8")) as behind:
        bodies = [bytes([number]) * 100_000 for number in range(24)]
        right = [f"100000 {hashlib.sha256(body).hexdigest()}\n" for body in bodies]

        def send(prefix: str) -> list[str]:
            with ThreadPoolExecutor(8) as pool:
                path = f"{prefix}/upload"
                asked = [
                    pool.submit(request, behind.port, path, method="POST", body=body)
                    for body in bodies
                ]
            return [future.result().text for future in asked]

        assert send(ALONE) == right
        before = len(behind.tap.lines)
        # On a busy machine, the clients may send one after the other.
        for rounds in range(1, 11):
            # HAProxy 2.6 answers some with a 500 of its own; those that reach the server are whole.
            ours = [
                pair for pair in zip(send(SHARED), right, strict=True) if "<h1>500" not in pair[0]
            ]
            assert len(ours) > 12
            assert all(answer == expected for answer, expected in ours)
            (line,) = behind.tap.lines[before:]
            order = [record.id for record in line.requests() if record.kind == STDIN]
            if sum(before != after for before, after in pairwise(order)) > rounds * len(bodies):
                break
        else:
            pytest.fail("no body came between the pieces of another one")


# Clients that leave, and clients that are slow.


def test_a_client_that_leaves_a_shared_connection(behind: Behind, tmp_path: Path) -> None:
    """Nobody tells the server, until the connection is idle but for what it still sends."""
    path = f"/drip?report={tmp_path}/report"
    with Gate(tmp_path) as gate, ThreadPoolExecutor(1) as pool:
        neighbour = pool.submit(request, behind.port, gate.url)
        gate.wait_for_app()
        with connect(behind.port) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert sock.recv(65536)
        wait_until(lambda: f"GET {path} " in behind.haproxy.error_log(), "HAProxy to notice")
        line, id = behind.line(path)
        assert behind.line(gate.url)[0] is line
        before = len(sent_for(line, id))
        wait_until(lambda: len(sent_for(line, id)) > before + 20, "the app to go on")
        assert ABORT_REQUEST not in line.kinds(id)
        assert not (tmp_path / "report").exists()
        # The neighbours do not notice.
        assert request(behind.port, "/echo").status == 200
        gate.open()
        assert neighbour.result().text == "before\nafter\n"
    wait_until((tmp_path / "report").exists, "the end of the app")
    assert line.ended
    assert ABORT_REQUEST not in line.kinds(id)


def test_a_client_that_leaves_a_connection_of_its_own(behind: Behind, tmp_path: Path) -> None:
    """The connection ends with it, whatever its neighbours do."""
    path = f"{ALONE}/drip?report={tmp_path}/report"
    with Gate(tmp_path) as gate, ThreadPoolExecutor(1) as pool:
        neighbour = pool.submit(request, behind.port, ALONE + gate.url)
        gate.wait_for_app()
        with connect(behind.port) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert sock.recv(65536)
        wait_until((tmp_path / "report").exists, "the end of the app")
        assert behind.line(path)[0].ended
        gate.open()
        assert neighbour.result().text == "before\nafter\n"


def test_a_client_that_leaves_in_an_upload(behind: Behind, tmp_path: Path) -> None:
    """Then it says so: with ABORT_REQUEST, and the neighbours live on."""
    with Gate(tmp_path) as gate, ThreadPoolExecutor(1) as pool:
        neighbour = pool.submit(request, behind.port, gate.url)
        gate.wait_for_app()
        with connect(behind.port) as sock:
            head = "POST /upload/half HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
            sock.sendall(head.encode() + bytes(100_000))
            line, id = behind.line("/upload/half")
            wait_until(lambda: STDIN in line.kinds(id), "a part of the body")
        wait_until(lambda: sent_for(line, id, END_REQUEST), "the end of the request")
        assert line.kinds(id)[-1] == ABORT_REQUEST
        assert behind.line(gate.url)[0] is line
        gate.open()
        assert neighbour.result().text == "before\nafter\n"
    assert not line.ended


def test_a_client_that_does_not_read(behind: Behind) -> None:
    """It delays only the requests that share its connection."""
    with connect(behind.port) as slow:
        slow.sendall(b"GET /stream?pieces=900 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.recv(1)
        line, _ = behind.line("/stream?pieces=900")
        seen = [0]

        def stuck() -> bool:
            seen.append(len(line.answered))
            return len(seen) > 40 and len(set(seen[-40:])) == 1

        wait_until(stuck, "the connection to stand still")
        with connect(behind.port) as neighbour:
            neighbour.sendall(b"GET /echo/neighbour HTTP/1.1\r\nHost: x\r\n\r\n")
            assert behind.line("/echo/neighbour")[0] is line
            assert request(behind.port, f"{ALONE}/echo").status == 200
            neighbour.settimeout(0.1)
            with pytest.raises(TimeoutError):
                neighbour.recv(1)
            slow.close()
            neighbour.settimeout(20)
            assert neighbour.recv(100).startswith(b"HTTP/1.1 200 OK")
