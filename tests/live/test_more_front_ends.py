"""Test web servers in front of a server that is already running: files of ``examples/``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from socket import SHUT_WR
from threading import Thread

import pytest
from support.front_ends.more_servers import H2O, ApacheProxy, Behind, Caddy, LighttpdExternal
from support.front_ends.servers import ROOT, AppServer
from support.http import Client, connect, receive, request
from support.processes import ProcessGroup, wait_until

APP = "apps.behind_http:app"
MIB = 1 << 20

KINDS: dict[str, type[Behind]] = {
    "apache": ApacheProxy,
    "caddy": Caddy,
    "h2o": H2O,
    "lighttpd": LighttpdExternal,
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=list(KINDS))
def web(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Behind]:
    with ProcessGroup(tmp_path_factory.mktemp("more")) as group:
        server = AppServer(group, APP, "--threads", "40", folder=ROOT / "tests")
        yield request.param(group, server)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/a/b?c=d", "/a/b"),
        ("/a%20b/%C3%A9", "/a b/\xc3\xa9"),
        ("/folder/", "/folder/"),
        ("/a;b/c:d@e", "/a;b/c:d@e"),
    ],
)
def test_paths(web: Behind, target: str, path: str) -> None:
    seen = request(web.port, target, headers={"Authorization": "Basic YTpi"}).json()
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("", path)
    assert seen["REQUEST_URI"] == target
    assert seen["QUERY_STRING"] == target.partition("?")[2]
    assert seen["HTTP_AUTHORIZATION"] == "Basic YTpi"


@pytest.mark.parametrize("chunked", [False, True])
def test_uploads_arrive_whole(web: Behind, chunked: bool) -> None:
    data = bytes(range(256)) * (5 * MIB // 256)
    body = (data[at : at + 99999] for at in range(0, len(data), 99999)) if chunked else data
    seen = request(web.port, "/upload", method="PUT", body=body).json()
    assert seen["size"] == len(data)
    assert seen["digest"] == hashlib.sha256(data).hexdigest()


def test_a_client_that_leaves_before_its_body_reaches_no_app(web: Behind) -> None:
    """No web server ends STDIN then, which would make an empty body of it."""
    with connect(web.port) as sock:
        sock.sendall(b"POST /left HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        sock.shutdown(SHUT_WR)
        assert not b"".join(receive(sock)).startswith(b"HTTP/1.1 200")
    assert request(web.port, "/").status == 200
    assert "no body was sent" not in web.server_log()


def test_answers(web: Behind) -> None:
    whole = b"".join(bytes((number % 251,)) * 65536 for number in range(320))
    with Client(web.port) as client:
        assert client.request("GET", "/large").body == whole
        answer = client.request("GET", "/headers")
        assert (answer.status, answer.body) == (418, b"short and stout")
        assert answer.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
        for status in (204, 304):
            answer = client.request("GET", f"/{status}")
            assert (answer.status, answer.body, answer.headers["ETag"]) == (status, b"", '"x"')
        assert client.request("HEAD", "/").body == b""


def test_a_stream_comes_as_it_is_made(web: Behind, tmp_path: Path) -> None:
    connection = HTTPConnection("127.0.0.1", web.port, timeout=20)
    connection.request("GET", f"/stream?{tmp_path / 'go'}")
    response = connection.getresponse()
    assert response.read1() == b"data: first\n\n"
    (tmp_path / "go").touch()
    assert response.read() == b"data: second\n\n"
    connection.close()


def test_requests_run_side_by_side(web: Behind, tmp_path: Path) -> None:
    got: list[bytes] = []

    def ask() -> None:
        got.append(request(web.port, f"/wait?{tmp_path / 'go'}").body)

    threads = [Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until((tmp_path / "go.there").exists, "the first request")
    assert request(web.port, "/").status == 200
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join(20)
    assert got == [b"done"] * 20
