"""Test each route of the demonstration inside the validator of PEP 3333."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import threading
from collections.abc import Iterable
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from typing import Any
from wsgiref.util import setup_testing_defaults

import gevent
import pytest
from support.fcgi.peer import Client
from support.server import WORKERS, running
from support.sinks import FakeSink, run_validated

import vsgi_fcgi
from vsgi_fcgi.demo import ROUTES, app
from vsgi_fcgi.demo.page import MAX_CHARACTERS
from vsgi_fcgi.demo.trials import MAX_SECONDS, PIECE_BYTES, DemonstrationError
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

HOSTILE = '<script>alert("1")</script>\'&amp;'


def ask(method: str, path: str, body: bytes = b"", **params: Any) -> FakeSink:
    path, _, query = path.partition("?")
    params |= {"PATH_INFO": path, "QUERY_STRING": query}
    return run_validated(app, method, body, **params)


def get(path: str, **params: Any) -> FakeSink:
    return ask("GET", path, **params)


def ask_elsewhere(**environ: Any) -> list[bytes]:
    """What the app returns to another server."""
    setup_testing_defaults(environ)
    return list(app(environ, lambda *_: lambda _: None))


def listed(text: str) -> dict[str, str]:
    """What the page says of each key of the environ."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td></tr>', text)
    return {unescape(name): unescape(re.sub("<[^>]*>", "", value)) for name, value in rows}


class Links(HTMLParser):
    """Gathers where a page leads and what it loads, and insists that its tags are balanced."""

    VOID = ("meta", "link", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            # The policy that comes with the page forbids both.
            assert name not in ("style", "onclick", "onload", "onsubmit"), tag
            if name in ("href", "src", "action"):
                self.links.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# The page.


def test_it_says_what_it_is_served_by() -> None:
    sink = get("/", SERVER_SOFTWARE="lighttpd/1.4", GATEWAY_INTERFACE="CGI/1.1", REQUEST_ID="r-7")
    text = sink.body.decode()
    assert sink.status == "200 OK"
    assert sink.headers["Content-Type"] == "text/html; charset=utf-8"
    assert int(sink.headers["Content-Length"]) == len(sink.body)
    assert sink.headers["Cache-Control"] == "no-store"
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert facts["Python"].endswith(platform.python_version())
    assert facts["gevent"] == gevent.__version__
    assert facts["Gateway interface"] == "CGI/1.1"
    assert facts["Request id"] == "r-7"
    assert facts["Process"] == str(os.getpid())
    assert "<b>lighttpd/1.4</b>" in text
    assert f"vsgi_fcgi {vsgi_fcgi.__version__} <" in text
    assert "not for production" in text


@pytest.mark.parametrize(
    ("worker", "said"), [("thread", "native threads"), ("main", "one request")]
)
def test_it_says_who_runs_it(worker: str, said: str) -> None:
    with running(app, worker=worker) as server:
        text = server.connect().get().body.decode()
    assert said in text
    assert f"<b>vsgi_fcgi {vsgi_fcgi.__version__}</b>" in text
    assert "came through FastCGI." in text
    assert text.count("one request at a time: other requests wait") == (
        2 if worker == "main" else 0
    )


def test_another_server_is_not_taken_for_this_one() -> None:
    text = b"".join(ask_elsewhere()).decode()
    assert "another WSGI server" in text
    assert "FastCGI" not in text


def test_it_lists_the_environ_in_groups() -> None:
    text = get("/", HTTP_HOST="example", X_OWN="mine", HTTP_ACCEPT="*/*").body.decode()
    groups = dict(re.findall(r"<summary><h3>([^<]*)</h3>.*?<tbody>(.*?)</tbody>", text, re.DOTALL))
    names = {title: list(listed(rows)) for title, rows in groups.items()}
    assert list(names) == ["Request", "HTTP headers", "Web server", "WSGI"]
    assert names["HTTP headers"] == ["HTTP_ACCEPT", "HTTP_HOST"]
    assert {"REQUEST_METHOD", "PATH_INFO", "REQUEST_URI"} <= set(names["Request"])
    assert {"SERVER_NAME", "X_OWN"} <= set(names["Web server"])
    assert {"wsgi.multithread", "wsgi.input"} <= set(names["WSGI"])
    assert all(group == sorted(group) for group in names.values())
    values = listed(text)
    assert values["X_OWN"] == "mine"
    assert values["wsgi.version"] == "(1, 0)"
    assert values["QUERY_STRING"] == "empty"
    assert not re.search("0x[0-9a-f]{6}", text), "it tells where something is in memory"


def test_values_are_shown_and_never_obeyed() -> None:
    values = {
        "HTTP_X_HOSTILE": HOSTILE,
        f"HTTP_{HOSTILE.upper()}": "by name",
        "SERVER_SOFTWARE": HOSTILE,
        "SERVER_PROTOCOL": HOSTILE,
        "REQUEST_ID": HOSTILE,
        "HTTP_X_LATIN": "\xe9\xff",
        "HTTP_X_CONTROL": "a\x00b\x1b[1m\n\x9f",
        "HTTP_X_LONE": "\ud800",
        "HTTP_X_LONG": "<" * (MAX_CHARACTERS + 1),
    }
    text = get("/", **values).body.decode()
    assert Links(text).tags.count("script") == 1
    shown = listed(text)
    assert shown["HTTP_X_HOSTILE"] == HOSTILE
    assert shown[f"HTTP_{HOSTILE.upper()}"] == "by name"
    assert shown["HTTP_X_LATIN"] == "\xe9\xff"
    assert shown["HTTP_X_CONTROL"] == r"a\x00b\x1b[1m\n\x9f"
    assert shown["HTTP_X_LONE"] == r"\ud800"
    assert shown["HTTP_X_LONG"] == "<" * MAX_CHARACTERS + " 1001 characters in total"


@pytest.mark.parametrize(
    "name",
    [
        *("HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "REDIRECT_HTTP_AUTHORIZATION"),
        *("HTTP_COOKIE", "HTTP_X_CSRF_TOKEN", "HTTP_X_API_KEY", "DB_PASSWORD"),
    ],
)
def test_secrets_are_hidden(name: str) -> None:
    text = get("/", **{name: "session=hunter2"}).body.decode()
    assert listed(text)[name] == "hidden, 15 characters"
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("mount", "root"),
    [
        ("", ""),
        ("/app", "/app"),
        ("//evil.example", "/evil.example"),
        ("/a b\xc3\xa9\"'<", "/a%20b%C3%A9%22%27%3C"),
    ],
)
def test_its_links_lead_to_where_it_is_mounted(mount: str, root: str) -> None:
    # Without a slash behind the mount point, as a web server may have it.
    for path in ("/", "") if mount else ("/",):
        links = Links(get(path, SCRIPT_NAME=mount).body.decode()).links - {"#try"}
        inside = {link.removeprefix(root).partition("?")[0] for link in links}
        assert {link for link in links if not link.startswith(f"{root}/")} == set()
        # A server that does not hold requests gets no form for /talk.
        assert inside == set(ROUTES) - {"/", "/talk"}
    assert f"{root}/" in Links(get("/none", SCRIPT_NAME=mount).body.decode()).links


# Files.


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/demo.css", "text/css; charset=utf-8"),
        ("/demo.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
def test_files_are_kept_as_long_as_they_are_the_same(path: str, content_type: str) -> None:
    sink = get(path)
    assert sink.headers["Content-Type"] == content_type
    assert sink.headers["Cache-Control"] == "no-cache"
    assert b"http://" not in sink.body.replace(b"http://www.w3.org/2000/svg", b"")
    (link,) = (link for link in Links(get("/").body.decode()).links if link.startswith(path))
    linked = get(link)
    assert linked.body == sink.body
    assert linked.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert get(f"{path}?v=old").headers["Cache-Control"] == "no-cache"
    for known in (sink.headers["ETag"], f'"other", W/{sink.headers["ETag"]}'):
        again = get(path, HTTP_IF_NONE_MATCH=known)
        assert (again.status, again.body) == ("304 NOT MODIFIED", b"")
        assert again.headers["ETag"] == sink.headers["ETag"]
    assert get(path, HTTP_IF_NONE_MATCH='"other"').status == "200 OK"


# Methods and paths.


@pytest.mark.parametrize("path", [*sorted({*ROUTES} - {"/error"}), "/none", "/slow?seconds=x"])
def test_every_answer_has_the_headers_that_keep_it_harmless(path: str) -> None:
    method = "POST" if path == "/upload" else "GET"
    if "?" not in path:
        path += "?seconds=0&ticks=1"
    headers = ask(method, path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/demo.css", "/demo.js", "/icon.svg", "/none"])
def test_head_is_get_without_the_body(path: str) -> None:
    expected = get(path)
    sink = ask("HEAD", path)
    assert (sink.status, sink.body) == (expected.status, b"")
    if path == "/":  # lists its own method
        assert set(sink.headers) == set(expected.headers)
    else:
        for headers in (sink.headers, expected.headers):
            headers.pop("Date", "")  # a second may have passed
        assert sink.headers == expected.headers
    # It does not leave it to the server to drop the body.
    assert ask_elsewhere(REQUEST_METHOD="HEAD", PATH_INFO=path) == []


@pytest.mark.parametrize("path", ["/slow", "/events"])
def test_head_waits_for_nothing(path: str) -> None:
    """Nothing is left to be made that could wait."""
    assert ask_elsewhere(REQUEST_METHOD="HEAD", PATH_INFO=path) == []
    sink = ask("HEAD", path)
    assert (sink.status, sink.body, sink.reports) == ("200 OK", b"", [])


@pytest.mark.parametrize("path", ["/none", "/demo", "/upload/", "//", "/page.html", "/../demo.css"])
def test_what_is_not_there(path: str) -> None:
    for method in ("GET", "POST"):
        sink = ask(method, path)
        assert sink.status == "404 Not Found"
        Links(sink.body.decode())


@pytest.mark.parametrize("path", sorted(set(ROUTES) - {"/talk"}))
def test_methods_that_a_path_does_not_know(path: str) -> None:
    wrong, allowed = ("GET", "POST") if path == "/upload" else ("POST", "GET, HEAD")
    for method in (wrong, "DELETE", "OPTIONS"):
        sink = ask(method, path)
        assert sink.status == "405 Method Not Allowed"
        assert sink.headers["Allow"] == allowed
        assert allowed in sink.body.decode()


# What one can try.


def test_an_upload() -> None:
    body = bytes(range(256)) * 1000
    found = json.loads(ask("POST", "/upload", body).body)
    assert 0 <= found.pop("seconds") < 60
    assert found == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    empty = json.loads(ask("POST", "/upload").body)
    assert (empty["bytes"], empty["sha256"]) == (0, hashlib.sha256().hexdigest())


class Pieces(BytesIO):
    """Notes how much is read at once."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size > 0, "it reads all at once"
        self.most = max(self.most, size)
        return super().read(size)


@pytest.mark.parametrize("terminated", [True, False])
def test_an_upload_is_read_in_pieces_and_to_its_end(terminated: bool) -> None:
    """A server may not end the stream where the body ends."""
    body = bytes(3 * PIECE_BYTES + 7)
    stream = Pieces(body if terminated else body + b"the next request")
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": "/upload"}
    environ["wsgi.input"] = stream
    if terminated:
        environ["wsgi.input_terminated"] = True
    found = json.loads(b"".join(ask_elsewhere(CONTENT_LENGTH=str(len(body)), **environ)))
    assert found["bytes"] == len(body)
    assert stream.most <= PIECE_BYTES


@pytest.mark.parametrize("path", ["/slow?seconds=", "/events?ticks="])
@pytest.mark.parametrize("value", ["-1", "61", "nan", "inf", "three", "%3Cscript%3E", "0x1"])
def test_numbers_that_are_none(path: str, value: str) -> None:
    sink = get(path + value)
    assert sink.status == "400 Bad Request"
    assert sink.headers["Content-Type"].startswith("text/plain")
    assert "must be a number from" in sink.body.decode()


@pytest.mark.parametrize("worker", WORKERS)
def test_a_slow_answer(worker: str) -> None:
    with running(app, worker=worker) as server:
        answer = server.connect().get("/slow?seconds=0.05")
        assert 0.05 <= json.loads(answer.body)["seconds"] < 20
        assert json.loads(server.connect().get("/slow?seconds=0").body)["seconds"] < 20


@pytest.mark.parametrize("worker", WORKERS)
def test_who_leaves_keeps_no_worker(worker: str) -> None:
    begun = threading.Event()

    def noted(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        iterable = app(environ, start_response)
        begun.set()
        return iterable

    with running(noted, worker=worker, threads=1) as server:
        client = server.connect()
        client.ask(1, f"/slow?seconds={MAX_SECONDS}")
        assert begun.wait(20)
        client.abort(1)
        # Well before the 30 seconds: `answer` waits for 20.
        assert client.get("/demo.css", id=2).status == 200


def first_tick(client: Client, path: str) -> None:
    client.ask(1, path)
    client.collect_until(lambda: 1 in client.answers and b"id: 1\n" in client.answers[1].stdout)


@pytest.mark.parametrize("worker", WORKERS)
def test_the_server_goes_on_while_the_app_waits(worker: str) -> None:
    """In the main context too, where a plain sleep would stop all connections."""
    with running(app, worker=worker, threads=1, max_body_bytes=10) as server:
        client = server.connect()
        first_tick(client, "/events?ticks=4")
        other = server.connect()
        other.start(1, "/upload", length=11, method="POST")
        assert other.answer(1).status == 413
        assert not client.answers[1].ended
        client.abort(1)
        client.answer(1)


def names_and_ids(body: bytes) -> list[tuple[str, str]]:
    """The events of a stream, each as its name and its id."""
    events = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        json.loads(fields["data"])
        events.append((fields["event"], fields.get("id", "")))
    return events


def test_a_stream_of_events() -> None:
    sink = get("/events?ticks=1")
    assert sink.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert sink.headers["Cache-Control"] == "no-cache"
    assert sink.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in sink.headers
    assert names_and_ids(sink.body) == [("tick", "1"), ("end", "")]


def test_a_stream_goes_on_where_its_connection_broke() -> None:
    sink = get("/events?ticks=60", HTTP_LAST_EVENT_ID="59")
    assert names_and_ids(sink.body) == [("tick", "60"), ("end", "")]
    # A browser that comes back after the last one stops asking.
    for seen in ("60", "61", "999999999"):
        sink = get("/events?ticks=60", HTTP_LAST_EVENT_ID=seen)
        assert (sink.status, sink.body) == ("204 No Content", b"")
    for seen in ("", "x", "-1", "\xb2", "9" * 5000):
        assert get("/events?ticks=1", HTTP_LAST_EVENT_ID=seen).status == "200 OK"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_error_is_the_apps_own(method: str) -> None:
    sink = ask(method, "/error")
    assert isinstance(sink.error, DemonstrationError)
    assert sink.status.startswith("500 ")
    assert b"DemonstrationError" not in sink.body


def test_the_validator_is_in_the_way() -> None:
    """The tests above can fail."""

    def wrong(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"no type"]

    with pytest.raises(AssertionError):
        run_validated(wrong)


def test_without_held_requests_there_is_nothing_to_talk_with() -> None:
    assert 'id="talk"' not in get("/").body.decode()
    sink = get("/talk")
    assert sink.status == "404 Not Found"
    assert b"--push" in sink.body
