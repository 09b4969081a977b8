"""``--http`` and ``vsgi-fcgi gateway``: HTTP, FastCGI behind it, an app behind that."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from threading import Thread

import pytest
from support.http import Client, connect, receive, request
from support.processes import Process, ProcessGroup, free_port, wait_until

TESTS = Path(__file__).parent
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
    with connect(site.port) as sock:
        sock.sendall(b"POST /left HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc")
        sock.shutdown(socket.SHUT_WR)
        assert b" 400 " in next(receive(sock))
    assert site.get("/")["REQUEST_METHOD"] == "GET"
    assert "Traceback" not in site.front.log()


# What the client gets


def test_status_and_headers(site: Site) -> None:
    answer = request(site.port, "/headers")
    assert (answer.status, answer.body) == (418, b"short and stout")
    assert answer.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert "Keep-Alive" not in answer.headers


@pytest.mark.parametrize(("path", "status"), [("/204", 204), ("/304", 304)])
def test_answers_without_a_body(site: Site, path: str, status: int) -> None:
    with Client(site.port) as client:
        answer = client.request("GET", path)
        assert (answer.status, answer.body, answer.headers["ETag"]) == (status, b"", '"x"')
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


def test_no_answer_in_time_is_504_and_the_others_go_on(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        behind(group)
        site = gateway(group, "--response-timeout", "0.3")
        answer = request(site.port, f"/wait?{tmp_path / 'go'}")
        assert answer.status == 504
        assert request(site.port, "/").status == 200
        (tmp_path / "go").touch()


def test_no_room_is_503_with_a_time_to_come_again(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        behind(group)
        site = gateway(group, "--requests-per-connection", "1", "--max-waiting", "0")
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


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"]
)
def test_a_client_that_stands_still_is_hung_up_on(tmp_path: Path, sent: bytes) -> None:
    with ProcessGroup(tmp_path) as group:
        site = embedded(group, "--http-timeout", "0.2")
        with connect(site.port) as sock:
            sock.sendall(sent)
            # To its end: it would be a timeout of the test's own, else.
            assert b" 200 " not in b"".join(receive(sock))
        assert request(site.port, "/").status == 200


# Its own life


@pytest.mark.parametrize("kind", ["embedded", "gateway"])
def test_a_stop_lets_requests_end(kind: str, tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        if kind == "gateway":
            behind(group)
        site = gateway(group) if kind == "gateway" else embedded(group)
        threads, got = waiting_requests(site, tmp_path, 1)
        with connect(site.port) as idle:
            site.front.send_signal(signal.SIGTERM)
            # Who has asked nothing is hung up on at once.
            assert list(receive(idle)) == []
        wait_until(lambda: not answers(site.port), "the port to close")
        (tmp_path / "go").touch()
        threads[0].join(20)
        assert got == [b"done"]
        assert site.front.wait() == 0


@pytest.mark.parametrize("kind", ["embedded", "gateway"])
def test_who_has_asked_before_a_stop_is_answered(kind: str, tmp_path: Path) -> None:
    """Also if the connection was not accepted by then."""
    with ProcessGroup(tmp_path) as group:
        if kind == "gateway":
            behind(group)
        site = gateway(group) if kind == "gateway" else embedded(group)
        site.front.send_signal(signal.SIGSTOP)
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(site.port)) for _ in range(20)]
            for sock in socks:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            site.front.send_signal(signal.SIGTERM)
            site.front.send_signal(signal.SIGCONT)
            for sock in socks:
                assert b"".join(receive(sock)).startswith(b"HTTP/1.1 200 ")
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


def test_static_files_do_not_reach_the_app(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a file")
    (tmp_path / "secret").write_text("a secret")
    with ProcessGroup(tmp_path) as group:
        site = embedded(group, "--static", f"/files={tmp_path / 'files'}")
        answer = request(site.port, "/files/a.txt")
        assert (answer.body, answer.headers.get_content_type()) == (b"a file", "text/plain")
        assert request(site.port, "/files/none").json()["PATH_INFO"] == "/files/none"
        for path in ("/files/../secret", "/files/%2e%2e/secret", "/files//../secret"):
            assert b"a secret" not in request(site.port, path).body


def test_fastcgi_and_http_at_once(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        direct = embedded(group, "--bind", f"unix:{tmp_path / 'app.sock'}")
        wait_until((tmp_path / "app.sock").exists, "the socket")
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
