"""Test the responses of an app behind every web server, with both kinds of workers."""

from __future__ import annotations

import hashlib
import re
from http.client import IncompleteRead, RemoteDisconnected
from pathlib import Path

import pytest
from support.front_ends.places import Place
from support.front_ends.servers import HAProxy, Lighttpd
from support.http import Client, connect
from support.processes import wait_until

APP = "apps.routes:app"

PIECE = bytes(range(256)) * 256


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Requests.


def test_the_environ_says_what_was_asked_for(place: Place) -> None:
    answer = place.request(
        "/echo/%C3%A9/a%20b?q=%20+1&q", Cookie="a=1; b=2", Proxy="evil", X_Thing="one"
    )
    assert answer.status == 200
    environ = answer.json()["environ"]
    assert environ["SCRIPT_NAME"] == place.prefix
    assert environ["PATH_INFO"] == "/echo/\u00c3\u00a9/a b"
    assert environ["REQUEST_URI"] == f"{place.prefix}/echo/%C3%A9/a%20b?q=%20+1&q"
    assert environ["QUERY_STRING"] == "q=%20+1&q"
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["SERVER_PORT"] == str(place.web.port)
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["HTTP_HOST"] == f"127.0.0.1:{place.web.port}"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_X_THING"] == "one"
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.multithread"] is (place.worker != "main")
    # lighttpd starts the server itself, and may start more of them.
    assert environ["wsgi.multiprocess"] is isinstance(place.web, Lighttpd)
    # nginx sends an empty one, lighttpd a 0.
    assert environ.get("CONTENT_LENGTH", "0") == "0"
    for name in ("HTTP_PROXY", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"):
        assert name not in environ
    # Nothing of the server's own environment.
    assert "PATH" not in environ


def test_the_mount_point_itself(place: Place) -> None:
    environ = place.request("/" if not place.prefix else "").json()["environ"]
    assert environ["SCRIPT_NAME"] == place.prefix
    assert environ["PATH_INFO"] == ("" if place.prefix else "/")


@pytest.mark.parametrize("size", [0, 1, 65536, 3 << 20])
def test_an_upload_arrives_whole(place: Place, size: int) -> None:
    body = (PIECE * 50)[:size]
    answer = place.request("/echo", method="POST", body=body, Content_Type="text/x-thing")
    assert answer.status == 200
    seen = answer.json()
    assert (seen["length"], seen["sha256"]) == (size, digest(body))
    assert seen["environ"]["CONTENT_TYPE"] == "text/x-thing"
    assert seen["environ"]["CONTENT_LENGTH"] == str(size)
    assert "HTTP_CONTENT_TYPE" not in seen["environ"]
    assert place.request("/upload", method="PUT", body=body).text == f"{size} {digest(body)}\n"


@pytest.mark.parametrize("pieces", [1, 30])
def test_an_upload_in_chunks_arrives_whole(place: Place, pieces: int) -> None:
    piece = PIECE[: place.web.MAX_CHUNKED // pieces]
    answer = place.request("/upload", method="POST", body=iter([piece] * pieces))
    assert answer.text == f"{pieces * len(piece)} {digest(piece * pieces)}\n"
    # Apps that know nothing of wsgi.input_terminated find the length.
    environ = place.request("/echo", method="POST", body=iter([b"abc", b"d"])).json()["environ"]
    assert environ["CONTENT_LENGTH"] == "4"


# Answers.


def test_answers_of_many_sizes(place: Place) -> None:
    assert place.request("/file").body == PIECE * 5
    for pieces in (0, 1, 160):
        answer = place.request(f"/stream?pieces={pieces}")
        assert answer.status == 200
        assert answer.body == PIECE * pieces


def test_head_has_the_headers_and_no_body(place: Place) -> None:
    with Client(place.web.port) as client:
        head = client.request("HEAD", f"{place.prefix}/echo")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["Content-Length"]) > 100
        # The connection is in step: nothing of a body stays in it.
        for path in ("/body?code=200+OK", "/stream?pieces=1000000000", "/fail"):
            head = client.request("HEAD", place.prefix + path)
            assert head.status == (500 if path == "/fail" else 200)
            assert head.body == b""
        assert client.request("GET", f"{place.prefix}/echo").json()["length"] == 0


@pytest.mark.parametrize("path", ["status", "body"])
@pytest.mark.parametrize("code", [204, 304])
def test_answers_without_a_body(place: Place, code: int, path: str) -> None:
    with Client(place.web.port) as client:
        answer = client.request("GET", f"{place.prefix}/{path}?code={code}+Nothing")
        assert (answer.status, answer.body) == (code, b"")
        assert client.request("GET", f"{place.prefix}/echo").status == 200


def test_wsgi_errors_are_in_both_logs(place: Place) -> None:
    before = place.web.server_log().count("a complaint: \u00e4 \u2603")
    assert place.request("/errors").text == "complained\n"
    wait_until(
        lambda: place.web.server_log().count("a complaint: \u00e4 \u2603") > before,
        "the complaint in the server's log",
    )
    sign = place.web.STDERR_SIGN
    if sign is not None:
        wait_until(
            lambda: re.search(sign + ".*a complaint", place.web.error_log()),
            "the complaint in the web server's error log",
        )


def test_an_answer_with_much_of_stderr_ahead_of_it(place: Place) -> None:
    answer = place.request("/errors?more=50000")
    assert (answer.status, answer.body) == (200, b"complained\n" + b"o" * 50_000)
    assert place.request("/errors?more=50000").body == answer.body


# Apps that are wrong.


def test_an_app_that_fails_at_once(place: Place) -> None:
    for path in ("/fail", "/fail_midway?pieces=0", "/split_header", "/leave"):
        answer = place.request(path)
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert b"Traceback" not in answer.body
        assert "X-Evil" not in answer.headers
    wait_until(
        lambda: "RuntimeError: a secret of the app" in place.web.server_log(), "the traceback"
    )
    assert place.request("/echo").status == 200


# lighttpd passes on what broke off before it had sent anything of it: see test_lighttpd.py for
# an answer that is shorter.
@pytest.mark.parametrize("path", ["/fail_midway?pieces=30", "/short"])
def test_an_answer_that_breaks_off_is_no_complete_answer(place: Place, path: str) -> None:
    if isinstance(place.web, HAProxy) and not place.prefix:
        pytest.skip("it multiplexes: test_broken_answers.py has what its client sees")
    with pytest.raises((IncompleteRead, RemoteDisconnected, ConnectionResetError)):
        place.request(path)
    assert place.request("/echo").status == 200


def test_what_exceeds_content_length_is_dropped(place: Place) -> None:
    with Client(place.web.port) as client:
        assert client.request("GET", f"{place.prefix}/long").body == b"exact"
        assert client.request("GET", f"{place.prefix}/echo").status == 200


# Clients that leave.


def test_a_client_that_leaves_in_a_download(place: Place, tmp_path: Path) -> None:
    report = tmp_path / "report"
    path = f"{place.prefix}/stream?pieces=1000000&report={report}"
    with connect(place.web.port) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert sock.recv(65536)
    # The app has noticed: its iterable was closed long before the end.
    assert int(wait_until(lambda: report.exists() and report.read_text(), "close()")) < 100000
    assert place.request("/echo").status == 200


def test_a_client_that_leaves_in_an_upload(place: Place) -> None:
    head = f"POST {place.prefix}/upload HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    with connect(place.web.port) as sock:
        sock.sendall(f"{head}Content-Length: 1000000\r\n\r\nhalf of it".encode())
    with connect(place.web.port) as sock:
        sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".encode())
    assert place.request("/upload", method="POST", body=b"x").text == f"1 {digest(b'x')}\n"
