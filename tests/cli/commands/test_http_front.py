"""Test ``--http`` and ``vsgi-fcgi gateway``: HTTP, then FastCGI, then an app."""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from threading import Thread

import pytest
from support.http import Client, connect, receive, request
from support.processes import Process, ProcessGroup, free_port, wait_until

pytestmark = pytest.mark.process

TESTS = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "vsgi_fcgi")
APP = "apps.behind_http:app"
MIB = 1 << 20


@dataclass
class Site:
    """A port on which HTTP is spoken, and who does it."""

    port: int
    front: Process
    folder: Path

    def get(self, path: str, **headers: str) -> dict[str, str]:
        found: dict[str, str] = request(self.port, path, headers=headers).json()
        return found


def start(group: ProcessGroup, *arguments: str, name: str) -> Process:
    """Start a command of the package in the folder of the tests' apps."""
    return group.start([*COMMAND, *arguments], name=name, cwd=TESTS)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def embedded(group: ProcessGroup, *options: str, worker: str = "thread") -> Site:
    """``vsgi-fcgi APP --http``."""
    port = free_port()
    words = ("--http", f"127.0.0.1:{port}", "--worker", worker, *options)
    front = start(group, APP, *words, name="http")
    front.wait_for_log("serving HTTP on")
    return Site(port, front, group.folder)


def gateway(group: ProcessGroup, *options: str, upstream: str = "app.sock") -> Site:
    """``vsgi-fcgi gateway``."""
    port = free_port()
    path = group.folder / upstream
    words = ("--http", f"127.0.0.1:{port}", "--upstream", f"unix:{path}", *options)
    front = start(group, "gateway", *words, name="gateway")
    front.wait_for_log("listening on")
    return Site(port, front, group.folder)


def behind(group: ProcessGroup, *options: str, name: str = "app") -> Process:
    """An application server for `gateway`."""
    path = group.folder / f"{name}.sock"
    server = start(group, APP, "--bind", f"unix:{path}", "--threads", "40", *options, name=name)
    wait_until(lambda: listens(path), "the socket")
    return server


@pytest.fixture(scope="module", params=["embedded-thread", "embedded-main", "gateway"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The same object in its dresses."""
    with ProcessGroup(tmp_path_factory.mktemp("http")) as group:
        kind, _, worker = request.param.partition("-")
        if kind == "gateway":
            behind(group)
            yield gateway(group)
        else:
            yield embedded(group, "--threads", "40", worker=worker)


@pytest.fixture(scope="module")
def app_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of an application server that no test stops."""
    with ProcessGroup(tmp_path_factory.mktemp("behind")) as group:
        behind(group)
        yield str(group.folder / "app.sock")


# What the app gets


def test_the_request_reaches_the_app_as_cgi_has_it(site: Site) -> None:
    seen = site.get("/a%20b%2Fc//d;e?x=1&y=%20", **{"X-One": "1", "Accept": "text/plain"})
    assert seen["PATH_INFO"] == "/a b/c//d;e"
    assert seen["SCRIPT_NAME"] == ""
    assert seen["QUERY_STRING"] == "x=1&y=%20"
    assert seen["REQUEST_URI"] == "/a%20b%2Fc//d;e?x=1&y=%20"
    assert seen["SERVER_PORT"] == str(site.port)
    assert seen["REMOTE_ADDR"] == "127.0.0.1"
    assert seen["HTTP_X_ONE"] == "1"
    assert seen["wsgi.url_scheme"] == "http"
    assert seen["SERVER_SOFTWARE"].startswith("vsgi_fcgi/")


def test_headers_of_the_connection_and_the_proxy_header_stay_out(site: Site) -> None:
    headers = {"Proxy": "evil", "Connection": "close, X-Secret", "X-Secret": "1", "TE": "gzip"}
    seen = site.get("/", **headers)
    kept = {name for name in seen if name.startswith("HTTP_")}
    assert not kept & {"HTTP_PROXY", "HTTP_CONNECTION", "HTTP_X_SECRET", "HTTP_TE"}
    assert "HTTP_HOST" in kept


@pytest.mark.parametrize("chunked", [False, True])
def test_uploads_arrive_whole(site: Site, chunked: bool) -> None:
    data = bytes(range(256)) * (5 * MIB // 256)
    body = (data[at : at + 99999] for at in range(0, len(data), 99999)) if chunked else data
    seen = request(site.port, "/upload", method="PUT", body=body).json()
    assert seen["size"] == len(data)
    assert seen["digest"] == hashlib.sha256(data).hexdigest()


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(site: Site) -> None:
    before = len(site.front.log())
    with connect(site.port) as sock:
        sock.sendall(b"POST /left HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc")
        sock.shutdown(socket.SHUT_WR)
        assert b" 400 " in next(receive(sock))
    assert site.get("/")["REQUEST_METHOD"] == "GET"
    assert "Traceback" not in site.front.log()[before:]


# Requests that are not HTTP/1.1

NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def statuses(port: int, data: bytes) -> list[int]:
    """The statuses of all answers on a connection, until the server closes it."""
    with connect(port) as sock:
        sock.sendall(data)
        return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d+)", b"".join(receive(sock)))]


@pytest.mark.parametrize(
    ("expected", "sent"),
    [
        ([501], POST + b"Transfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        ([400], POST + b"Content-Length: 3\r\nContent-Length: 40\r\n\r\nabc"),
        ([400], POST + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n"),
        ([400], POST + CHUNKED + b"\r\n\r\nabc\r\n0\r\n\r\n"),
        ([400], POST + CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n"),
        ([400], POST + b"Content-Length : 3\r\n\r\nabc"),
        ([400], POST + b"X-A: 1\rX-B: 2\r\n\r\n"),
        ([400], POST + b"X-A: 1\n\n"),
        ([400], POST + b"X-A: 1\r\n 2\r\n\r\n"),
        ([400], b"GET / HTTP/1.1\r\n\r\n"),
        ([400], b"\x16\x03\x01"),
        ([414], b"GET /" + b"x" * 9000),
        ([431], POST + b"X-A: " + b"x" * 70000),
        ([505], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ([200, 200], POST + b"Content-Length:  3 \r\n\r\nabc"),
        ([200, 200], POST + CHUNKED + b"\r\n3;x\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"),
        ([200, 200], POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
        ([200, 200], b"\r\nOPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
)
def test_what_is_ambiguous_is_refused_and_ends_the_connection(
    site: Site, expected: list[int], sent: bytes
) -> None:
    assert statuses(site.port, sent + NEXT) == expected


def test_the_log_has_a_limited_number_of_lines_about_refusals(site: Site) -> None:
    for _ in range(100):
        assert statuses(site.port, b"GET\r\n") == [400]
    log = site.front.wait_for_log("HTTP request rejected (400)")
    assert log.count("The request line is invalid.") < 90


def test_requests_in_one_packet_are_answered_in_turn(site: Site) -> None:
    sent = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: x\r\n%s\r\n3\r\nabc\r\n0\r\n\r\n" % (number, CHUNKED)
        for number in range(20)
    )
    with connect(site.port) as sock:
        sock.sendall(sent + NEXT)
        paths = re.findall(rb'"PATH_INFO": "/(\w+)"', b"".join(receive(sock)))
    assert paths == [*(b"%d" % number for number in range(20)), b"next"]


def test_a_client_that_expects_100_gets_it_before_it_sends_the_body(site: Site) -> None:
    with connect(site.port) as sock:
        sock.sendall(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc" + NEXT)
        assert b"".join(receive(sock)).count(b"HTTP/1.1 200 ") == 2


def test_clients_of_http_1_0(site: Site) -> None:
    with connect(site.port) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        first = sock.recv(65536)
        assert b"\r\nConnection: keep-alive\r\n" in first
        assert b"\r\nContent-Length: " in first
        sock.sendall(b"GET /large HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head, _, body = b"".join(receive(sock)).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"\r\nConnection: close" in head
    assert len(body) == 320 * 65536


# What the client gets


def test_status_and_headers(site: Site) -> None:
    answer = request(site.port, "/headers")
    assert (answer.status, answer.body) == (418, b"short and stout")
    assert answer.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert "Keep-Alive" not in answer.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/204", 204), ("/205", 205), ("/304", 304)),
        *(("/204-length", 204), ("/205-length", 205), ("/304-length", 304)),
    ],
)
def test_answers_without_a_body(site: Site, path: str, status: int) -> None:
    with Client(site.port) as client:
        answer = client.request("GET", path)
        assert (answer.status, answer.body, answer.headers["ETag"]) == (status, b"", '"x"')
        assert client.request("GET", "/").status == 200


def test_an_interim_status_is_an_error(site: Site) -> None:
    with Client(site.port) as client:
        assert client.request("GET", "/102").status == 500
        assert client.request("GET", "/").status == 200


def test_head_has_the_length_and_no_body(site: Site) -> None:
    with Client(site.port) as client:
        answer = client.request("HEAD", "/")
        assert answer.body == b""
        assert int(answer.headers["Content-Length"]) > 100
        assert client.request("GET", "/").status == 200


def test_downloads_arrive_whole(site: Site) -> None:
    whole = b"".join(bytes((number % 251,)) * 65536 for number in range(320))
    assert request(site.port, "/large").body == whole


@pytest.mark.parametrize("path", ["/broken", "/broken-length"])
def test_a_broken_answer_is_seen_as_broken(site: Site, path: str) -> None:
    with pytest.raises(IncompleteRead) as caught:
        request(site.port, path)
    assert caught.value.partial == b"x" * 50


@pytest.mark.parametrize("path", ["/broken", "/broken-length"])
def test_a_broken_answer_costs_no_neighbour(site: Site, path: str) -> None:
    """Neither one that is half sent nor those that are not read yet are lost."""
    accepted = request(site.port, "/stats").json()["accepted"]

    def alternate(number: int) -> None:
        with Client(site.port) as kept:
            for turn in range(20):
                body = bytes(1000 * turn)
                assert kept.request("POST", f"/{number}", body).json()["size"] == len(body)
                with pytest.raises(IncompleteRead):
                    request(site.port, path)

    with connect(site.port) as waiting, ThreadPoolExecutor(6) as pool:
        waiting.sendall(POST + b"Content-Length: 6\r\nConnection: close\r\n\r\nwai")
        list(pool.map(alternate, range(6)))
        waiting.sendall(b"ted")
        assert b'"size": 6' in b"".join(receive(waiting))
    # All of it came over the connections that there were.
    assert request(site.port, "/stats").json()["accepted"] == accepted


def test_a_broken_answer_between_requests_in_one_packet(site: Site) -> None:
    """Earlier requests are answered, and no response follows the broken one."""
    sent = [b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"one", b"broken", b"two")]
    with connect(site.port) as sock:
        sock.sendall(b"".join(sent))
        received = b""
        with contextlib.suppress(ConnectionResetError):
            for data in receive(sock):
                received += data
    assert received.count(b"HTTP/1.1 200 ") == 2
    assert b'"PATH_INFO": "/one"' in received
    assert received.endswith(b"\r\n" + b"x" * 50 + b"\r\n")


def test_a_broken_answer_that_ends_with_its_connection_is_a_reset(site: Site) -> None:
    with connect(site.port) as sock:
        sock.sendall(b"GET /broken HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            list(receive(sock))


@pytest.mark.parametrize("path", ["/wait", "/silent"])
def test_a_client_that_leaves_while_the_app_is_silent_is_noticed(
    site: Site, path: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with connect(site.port) as sock:
        sock.sendall(f"GET {path}?{go} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        if path == "/silent":
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        wait_until((tmp_path / "go.there").exists, "the app to wait")
    # The app waits still: nothing but the end of the connection can have ended the request.
    site.front.wait_for_log(f'"GET {path}?{go}'[:200])
    go.touch()
    if path == "/silent":
        wait_until((tmp_path / "go.left").exists, "the app's notice")


def test_a_stream_comes_as_it_is_made(site: Site, tmp_path: Path) -> None:
    connection = HTTPConnection("127.0.0.1", site.port, timeout=20)
    connection.request("GET", f"/stream?{tmp_path / 'go'}")
    response = connection.getresponse()
    assert response.read1() == b"data: first\n\n"
    (tmp_path / "go").touch()
    assert response.read() == b"data: second\n\n"
    connection.close()


def test_what_the_app_writes_to_wsgi_errors_is_logged_once_by_each(site: Site) -> None:
    assert request(site.port, "/complain").body == b"ok"
    log = site.front.wait_for_log("this app complains")
    assert log.count("this app complains") == 1


# Many at once


def waiting_requests(site: Site, folder: Path, count: int) -> tuple[list[Thread], list[bytes]]:
    """Requests whose app waits until the file ``go`` is there."""
    got: list[bytes] = []

    def ask(number: int) -> None:
        got.append(request(site.port, f"/wait?{folder / 'go'}").body)

    threads = [Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    wait_until((folder / "go.there").exists, "the first request")
    return threads, got


def test_requests_run_side_by_side_over_one_connection(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        behind(group, "--access-log", str(tmp_path / "log"), "--access-log-format", "%(id)s")
        site = gateway(group)
        threads, got = waiting_requests(site, tmp_path, 30)
        # It is served while thirty others wait for it.
        assert site.get("/")["PATH_INFO"] == "/"
        (tmp_path / "go").touch()
        for thread in threads:
            thread.join(20)
        assert got == [b"done"] * 30
        ids = tmp_path / "log"
        wait_until(lambda: len(ids.read_text().split()) >= 31, "31 lines")
        # Ids tell requests of one connection apart: so many can only be of the same one.
        assert len(set(ids.read_text().split())) > 20


# When the application server fails


@pytest.mark.parametrize("worker", ["thread", "greenlet"])
def test_a_request_that_is_cut_off_lets_its_app_clean_up(worker: str, tmp_path: Path) -> None:
    """As without ``--http``: 1.5 seconds before the end, and then the process exits."""
    port, report = free_port(), tmp_path / "report"
    words = ("--http", f"127.0.0.1:{port}", "--worker", worker, "--graceful-timeout", "3.5")
    with ProcessGroup(tmp_path) as group:
        server = start(group, "apps.routes:app", *words, name="http")
        server.wait_for_log("serving HTTP on")
        with connect(port) as sock:
            sock.sendall(b"GET /drip?report=%s HTTP/1.1\r\nHost: x\r\n\r\n" % bytes(report))
            assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
            assert server.stop() == 1
        assert report.exists()
        assert "HTTP requests that still ran are cut off: 1" in server.log()
        assert "the graceful timeout" not in server.log()


def test_unreachable_is_502_and_it_recovers(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        site = gateway(group)
        answer = request(site.port, "/")
        assert answer.status == 502
        assert b"Bad Gateway" in answer.body
        site.front.wait_for_log("cannot be connected to: No such file or directory")
        assert request(site.port, "/", method="HEAD").body == b""
        behind(group)
        assert request(site.port, "/").status == 200


def test_an_application_server_that_was_killed_and_started_again(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        server = behind(group)
        site = gateway(group)
        assert request(site.port, "/").status == 200
        server.stop(signal.SIGKILL)
        assert request(site.port, "/").status == 502
        behind(group)
        assert request(site.port, "/", method="POST", body=b"x").status == 200


def test_no_answer_in_time_is_504_and_the_others_go_on(tmp_path: Path, app_socket: str) -> None:
    with ProcessGroup(tmp_path) as group:
        site = gateway(group, "--response-timeout", "0.3", upstream=app_socket)
        answer = request(site.port, f"/wait?{tmp_path / 'go'}")
        assert answer.status == 504
        assert request(site.port, "/").status == 200
        (tmp_path / "go").touch()


def test_no_room_is_503_with_a_time_to_come_again(tmp_path: Path, app_socket: str) -> None:
    with ProcessGroup(tmp_path) as group:
        few = ("--requests-per-connection", "1", "--max-queued", "0")
        site = gateway(group, *few, upstream=app_socket)
        threads, got = waiting_requests(site, tmp_path, 1)
        answer = request(site.port, "/")
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        (tmp_path / "go").touch()
        threads[0].join(20)
        assert got == [b"done"]


def test_one_of_two_application_servers_is_gone(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        first = behind(group)
        behind(group, name="other")
        site = gateway(group, "--upstream", f"unix:{tmp_path / 'other.sock'}")
        assert request(site.port, "/").status == 200
        first.stop(signal.SIGKILL)
        with Client(site.port) as client:
            assert [client.request("GET", "/").status for _ in range(10)] == [200] * 10


def test_a_client_that_stands_still_is_hung_up_on(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        site = embedded(group, "--http-timeout", "0.2")
        for sent in (b"", b"GET / HT", POST + b"Content-Length: 9\r\n\r\nabc"):
            with connect(site.port) as sock:
                sock.sendall(sent)
                # To its end: it would be a timeout of the test's own, else.
                answer = b"".join(receive(sock))
                assert answer.startswith(b"HTTP/1.1 408 ") if sent else not answer, sent
            assert request(site.port, "/").status == 200


def test_a_head_that_comes_bit_by_bit_has_a_limit_in_all(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        site = embedded(group, "--http-head-timeout", "0.3")
        got = b""
        with connect(site.port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n")
            sock.settimeout(0.02)
            while not got:
                sock.sendall(b"X-A: 1\r\n")
                with contextlib.suppress(TimeoutError):
                    got = sock.recv(65536)
        assert got.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_comes_bit_by_bit_has_a_limit_in_all(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        site = embedded(group, "--http-timeout", "1", "--min-http-body-rate", "1000")
        got, sent = b"", 0
        with connect(site.port) as sock:
            sock.sendall(POST + b"Content-Length: 100000\r\n\r\n")
            sock.settimeout(0.02)
            while not got:
                sock.sendall(b"a")
                sent += 1
                with contextlib.suppress(TimeoutError):
                    got = sock.recv(65536)
        assert got.startswith(b"HTTP/1.1 408 ")
        # Not one of the waits was as long as the timeout.
        assert sent > 5


@pytest.mark.parametrize("options", [(), ("--min-http-body-rate", "0")])
def test_a_body_that_comes_slowly_is_read_to_its_end(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    piece = b"a" * (1 if options else 500)
    with ProcessGroup(tmp_path) as group:
        site = embedded(group, "--http-timeout", "1", *options)
        with connect(site.port) as sock:
            sock.sendall(
                POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (25 * len(piece))
            )
            # In all, the pauses take longer than the timeout.
            sock.settimeout(0.05)
            for _ in range(24):
                sock.sendall(piece)
                with pytest.raises(TimeoutError):
                    sock.recv(1)
            sock.sendall(piece)
            sock.settimeout(10)
            assert b"".join(receive(sock)).startswith(b"HTTP/1.1 200 ")


@pytest.fixture(scope="module", params=["embedded", "gateway"])
def small(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site whose application server answers 413 once it has read 100000 bytes of a body."""
    options = ("--max-body-bytes", "100000")
    with ProcessGroup(tmp_path_factory.mktemp("small")) as group:
        if request.param == "embedded":
            yield embedded(group, *options)
        else:
            behind(group, *options)
            yield gateway(group)


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
def test_an_answer_reaches_a_client_that_still_uploads(small: Site, framing: bytes) -> None:
    with connect(small.port) as sock:
        body = bytes(150_000)
        if b"chunked" in framing:
            body = b"%x\r\n" % 1_000_000 + body
        sock.sendall(POST + framing + b"\r\n\r\n" + body)
        # The rest of the body does not come before the answer.
        answer = b"".join(receive(sock))
        head, _, page = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close" in head
        assert page
    assert request(small.port, "/").status == 200


def test_who_uploads_for_ever_after_an_answer_is_disconnected(small: Site) -> None:
    with connect(small.port) as sock:
        sock.sendall(POST + b"Content-Length: 1000000000\r\n\r\n" + bytes(150_000))
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                sock.sendall(b"a")
                time.sleep(0.01)  # as a slow uploader; without it, this costs seconds of CPU


@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
def test_curl_stops_uploading_when_it_is_answered(small: Site, expect: str) -> None:
    upload = small.folder / "upload"
    upload.write_bytes(bytes(10 * MIB))
    # At this rate, the whole upload would take two minutes.
    command = ["curl", "-sS", "--max-time", "20", "--limit-rate", "90k", "-H", expect]
    command += ["-o", "/dev/null", "-w", "%{http_code} %{size_upload}"]
    command += ["-T", str(upload), f"http://127.0.0.1:{small.port}/"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    status, size = map(int, ended.stdout.split())
    assert status == 413
    assert size < 2 * MIB


def test_endless_heads_hold_little_memory(tmp_path: Path) -> None:
    fields = b"".join(b"X-%02d: " % number + b"a" * 600 + b"\r\n" for number in range(97))
    with ProcessGroup(tmp_path) as group, contextlib.ExitStack() as stack:
        group.measured = False
        site = embedded(group)
        assert request(site.port, "/").status == 200
        before = peak_memory(site.front)
        socks = [stack.enter_context(connect(site.port)) for _ in range(200)]
        for sock in socks:
            sock.sendall(POST + fields)
        # All of that was read: the server answers who is too long, however many there are.
        assert statuses(site.port, POST + b"X-A: " + b"x" * 70000) == [431]
        assert request(site.port, "/").status == 200
        for sock in socks:
            sock.sendall(fields)
            assert b"".join(receive(sock)).startswith(b"HTTP/1.1 431 ")
        # 200 connections may hold 64 KiB each, in buffers that grow. It was 84 KiB each with
        # Python 3.13 of Debian 13, and 130 when refused clients kept theirs.
        assert peak_memory(site.front) - before < 2 * 200 * 64 * 1024


def test_who_was_refused_holds_no_memory(tmp_path: Path) -> None:
    head = POST + b"X-A: " + b"x" * 70000
    with ProcessGroup(tmp_path) as group, contextlib.ExitStack() as stack:
        group.measured = False
        site = embedded(group)
        assert request(site.port, "/").status == 200
        before = peak_memory(site.front)
        # They stay open, and the server waits for them to read its answer.
        for _ in range(400):
            sock = stack.enter_context(connect(site.port))
            sock.sendall(head)
            assert b"".join(receive(sock)).startswith(b"HTTP/1.1 431 ")
        assert peak_memory(site.front) - before < 400 * 64 * 1024 / 4


def test_unfinished_bodies_in_tiny_chunks_hold_little_memory(tmp_path: Path) -> None:
    chunks = b"2\r\nab\r\n" * 30000
    with ProcessGroup(tmp_path) as group, contextlib.ExitStack() as stack:
        group.measured = False
        site = embedded(group)
        assert request(site.port, "/").status == 200
        before = peak_memory(site.front)
        socks = [stack.enter_context(connect(site.port)) for _ in range(10)]
        for sock in socks:
            sock.sendall(POST + CHUNKED + b"\r\n" + chunks)
        for sock in socks:
            # Only now the body is invalid; all before it was read.
            sock.sendall(b"x\r\n")
            assert b"".join(receive(sock)).startswith(b"HTTP/1.1 400 ")
        # Each may hold data that was read ahead, in a growing buffer.
        assert peak_memory(site.front) - before < 2 * 10 * 2 * 64 * 1024


def peak_memory(process: Process) -> int:
    """The most memory that a process had so far, in bytes."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def test_requests_are_in_the_log(site: Site) -> None:
    request(site.port, "/headers?logged")
    log = site.front.wait_for_log('127.0.0.1 "GET /headers?logged HTTP/1.1" 418, 15 bytes, ')
    with connect(site.port) as sock:
        sock.sendall(b"GET /\xc2\x9b2J HTTP/1.0\r\n\r\n")
        list(receive(sock))
    log = site.front.wait_for_log(r'"GET /\xc2\x9b2J HTTP/1.0" 200')
    assert "\x9b" not in log


def test_requests_are_not_in_the_log_if_nobody_wants_that(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        site = embedded(group, "--no-http-log")
        request(site.port, "/headers")
        assert site.front.stop() == 0
        assert "/headers" not in site.front.log()


# Its own life


@pytest.mark.parametrize("kind", ["embedded", "gateway"])
def test_a_stop_lets_requests_end(kind: str, tmp_path: Path, app_socket: str) -> None:
    with ProcessGroup(tmp_path) as group:
        site = gateway(group, upstream=app_socket) if kind == "gateway" else embedded(group)
        threads, got = waiting_requests(site, tmp_path, 1)
        with connect(site.port) as idle:
            site.front.send_signal(signal.SIGTERM)
            # A client that asks nothing is not waited for.
            assert list(receive(idle)) == []
        wait_until(lambda: not answers(site.port), "the port to close")
        (tmp_path / "go").touch()
        threads[0].join(20)
        assert got == [b"done"]
        assert site.front.wait() == 0


@pytest.mark.parametrize("kind", ["embedded", "gateway"])
def test_who_has_asked_before_a_stop_is_answered(
    kind: str, tmp_path: Path, app_socket: str
) -> None:
    """Also if the connection was not accepted by then."""
    with ProcessGroup(tmp_path) as group:
        site = gateway(group, upstream=app_socket) if kind == "gateway" else embedded(group)
        site.front.send_signal(signal.SIGSTOP)
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(site.port)) for _ in range(20)]
            for sock in socks:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            site.front.send_signal(signal.SIGTERM)
            site.front.send_signal(signal.SIGCONT)
            for sock in socks:
                answer = b"".join(receive(sock))
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert b"\r\nConnection: close\r\n" in answer
        assert site.front.wait() == 0


@pytest.mark.parametrize("kind", ["embedded", "gateway"])
def test_a_kept_connection_is_told_before_it_is_closed(
    kind: str, tmp_path: Path, app_socket: str
) -> None:
    """A client that goes on asking loses no request: its last answer says that it is the last."""
    with ProcessGroup(tmp_path) as group:
        site = gateway(group, upstream=app_socket) if kind == "gateway" else embedded(group)
        with connect(site.port) as sock:
            answers, answer = 0, b""
            while b"\r\nConnection: close\r\n" not in answer:
                sock.sendall(b"GET /headers HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = b""
                while not answer.endswith(b"short and stout\r\n0\r\n\r\n"):
                    piece = sock.recv(65536)
                    assert piece, "the connection was closed without an answer"
                    answer += piece
                answers += 1
                if answers == 20:
                    site.front.send_signal(signal.SIGTERM)
            assert answers >= 20
            assert list(receive(sock)) == []
        assert site.front.wait() == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_the_private_socket_is_gone_at_the_end(
    signals: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with ProcessGroup(tmp_path) as group:
        site = embedded(group)
        (folder,) = (tmp_path / "tmp").iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        if signals == 2:
            with connect(site.port) as sock:
                path = f"/wait?{tmp_path / 'go'}"
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                wait_until((tmp_path / "go.there").exists, "the request")
                wait_until(lambda: _interrupted(site.front), "the end")
        else:
            assert site.front.stop() == 0
        assert list((tmp_path / "tmp").iterdir()) == []


def _interrupted(front: Process) -> bool:
    """Press Ctrl-C, again and again: one that comes soon after the first is the same stop."""
    if front.running:
        front.send_signal(signal.SIGINT)
    return not front.running


def test_without_an_app_it_shows_the_demonstration(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        port = free_port()
        start(group, "--http", f"127.0.0.1:{port}", name="demo")
        wait_until(lambda: answers(port), "the port")
        answer = request(port)
        assert answer.status == 200
        assert b"vsgi_fcgi" in answer.body


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that serves the folder ``files`` without the app."""
    with ProcessGroup(tmp_path_factory.mktemp("static")) as group:
        (group.folder / "files").mkdir()
        yield embedded(group, "--static", f"/files={group.folder / 'files'}")


def test_static_files_do_not_reach_the_app(static: Site) -> None:
    (static.folder / "files" / "a.txt").write_text("a file")
    (static.folder / "secret").write_text("a secret")
    answer = request(static.port, "/files/a.txt")
    assert (answer.body, answer.headers.get_content_type()) == (b"a file", "text/plain")
    assert request(static.port, "/files/none").json()["PATH_INFO"] == "/files/none"
    for path in ("/files/../secret", "/files/%2e%2e/secret", "/files//../secret"):
        assert b"a secret" not in request(static.port, path).body


def test_a_browser_sees_a_changed_static_file_at_once(static: Site) -> None:
    """It asks each time, and gets an unchanged file only once."""
    file = static.folder / "files" / "site.css"
    file.write_text("old")
    first = request(static.port, "/files/site.css")
    assert "max-age=0" in first.headers["Cache-Control"]
    known = {"If-None-Match": first.headers["ETag"]}
    assert request(static.port, "/files/site.css", headers=known).status == 304
    file.write_text("changed")
    again = request(static.port, "/files/site.css", headers=known)
    assert (again.status, again.body) == (200, b"changed")


def test_fastcgi_and_http_at_once(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        direct = embedded(group, "--bind", f"unix:{tmp_path / 'app.sock'}")
        wait_until(lambda: listens(tmp_path / "app.sock"), "the socket")
        through = gateway(group)
        assert request(direct.port, "/a").json()["PATH_INFO"] == "/a"
        assert request(through.port, "/b").json()["PATH_INFO"] == "/b"


def test_the_port_stays_open_over_a_reload(tmp_path: Path) -> None:
    source = (
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [{}]\n"
    )
    file = tmp_path / "reloaded.py"
    file.write_text(source.format("b'one'"))
    with ProcessGroup(tmp_path) as group:
        port = free_port()
        words = ["reloaded:app", "--reload", "--http", f"127.0.0.1:{port}"]
        group.start([*COMMAND, *words], name="http", cwd=tmp_path)
        wait_until(lambda: answers(port), "the port")
        assert request(port).body == b"one"
        file.write_text(source.format("b'another'"))
        # No request fails meanwhile: `request` would raise.
        wait_until(lambda: request(port).body == b"another", "the new app")
