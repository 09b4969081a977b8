"""Test the report as a page, as text and as JSON: complete, escaped, and without secrets."""

from __future__ import annotations

import json
import logging
from html.parser import HTMLParser
from typing import Any

import pytest
from support.wire import HAPROXY, LIGHTTPD, NGINX, environ_of

from vsgi_fcgi.doctor import Doctor

SECRETS = {
    "HTTP_AUTHORIZATION": "Basic c2VjcmV0",
    "HTTP_COOKIE": "session=c2VjcmV0",
    "HTTP_PROXY_AUTHORIZATION": "c2VjcmV0 more",
    "HTTP_X_API_KEY": "c2VjcmV0",
    "DB_PASSWORD": "c2VjcmV0",
    "PGPASS": "c2VjcmV0",
    "AWS_ACCESS_KEY": "c2VjcmV0",
    "HTTP_APIKEY": "c2VjcmV0",
    "HTTP_X_AUTH": "c2VjcmV0 ",
    "HTTP_X_JWT_ASSERTION": "c2VjcmV0",
    "DATABASE_URL": "postgres://user:c2VjcmV0@localhost/db",
    "QUERY_STRING": "x=1&access_token=c2VjcmV0",
    "HTTP_REFERER": "http://localhost/login?next=%2Freset%3Ftoken%3Dc2VjcmV0",
    "HTTP_AUTH": "c2VjcmV0",
    "HTTP_X_ORIGINAL_URL": "/a?%74oken=a;c2VjcmV0&code=b c2VjcmV0&q=shown",
    "HTTP_X_URL": "/a?q=1;b=2;sig=c2VjcmV0",
}
URI = "/a/b?x=1&access_token=c2VjcmV0"


def ask(params: dict[str, str], accept: str = "", **more: Any) -> tuple[str, dict[str, str], str]:
    """The status, the headers and the body of the doctor's answer."""
    found: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], *rest: object) -> Any:
        found.update(status=status, headers=dict(headers))

    environ = environ_of({**params, "HTTP_ACCEPT": accept}, **more)
    body = b"".join(Doctor(more.get("mount"))(environ, start_response))
    return found["status"], found["headers"], body.decode()


class Checker(HTMLParser):
    """Notes the elements of a page, and that each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.all: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.all.append(tag)
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; charset=utf-8"),
        ("*/*", "text/plain; charset=utf-8"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
    ],
)
def test_each_client_gets_what_it_asks_for(accept: str, kind: str) -> None:
    status, headers, text = ask(NGINX, accept)
    assert (status, headers["Content-Type"]) == ("200 OK", kind)
    assert headers["Cache-Control"] == "no-store"
    assert int(headers["Content-Length"]) == len(text.encode())
    assert "This is vsgi-fcgi doctor and not your app." in text
    split = "fastcgi_param PATH_INFO       $uri;"
    for word in ("SCRIPT_NAME was the whole path", split, "nginx/1.22.1"):
        assert word in text
    assert "fastcgi_param SCRIPT_NAME" in text


def test_the_page_is_whole_and_loads_nothing() -> None:
    evil = "<script>alert(1)</script>&\"'"
    params = {**NGINX, "HTTP_X": evil, evil: evil, "HTTP_HOST": evil, "SCRIPT_NAME": f"/{evil}"}
    params |= {"DOCUMENT_URI": f"/{evil}", "REQUEST_METHOD": evil, "SERVER_SOFTWARE": evil}
    hidden = {**LIGHTTPD, "SCRIPT_NAME": f"/{evil}"}
    for shown, role in ((params, 1), (params, 2), (params, 3), (hidden, 1)):
        _, headers, text = ask(shown, "text/html", role=role)
        page = Checker()
        page.feed(text)
        assert page.open == []
        assert not {"script", "img", "link", "iframe", "a", "form"} & set(page.all)
        assert evil in page.text
        assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize("accept", ["", "text/html", "application/json"])
def test_no_secret_is_shown(accept: str) -> None:
    params = {**LIGHTTPD, **SECRETS, "REQUEST_URI": URI}
    text = ask(params, accept, more=[("HTTP_COOKIE", "b=c2VjcmV0")])[2]
    assert "c2VjcmV0" not in text
    assert "q=shown" in text
    assert "access_token=(hidden)" in text
    assert "Basic (hidden, 8 characters)" in text
    assert "(hidden, 16 characters)" in text


def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="vsgi_fcgi.doctor"):
        ask({**NGINX, **SECRETS, "REQUEST_URI": "/a/b\n\x1b[1m"})
        ask({**NGINX, **SECRETS, "REQUEST_URI": URI, "SCRIPT_NAME": "/a/b"})
        ask({**NGINX, "REQUEST_URI": URI + "&doctor=stream", "QUERY_STRING": "doctor=stream"})
        ask({**NGINX, "REQUEST_URI": "/" + "a" * 100_000})
    record, secret, stream, long = caplog.records
    assert "GET /a/b?x=1&access_token=(hidden) from nginx" in secret.getMessage()
    assert "GET /a/b?x=1&access_token=(hidden)&doctor=stream: " in stream.getMessage()
    assert len(long.getMessage()) < 2000
    assert record.getMessage() == (
        "GET /a/b\\n\\x1b[1m from nginx (nginx/1.22.1): SCRIPT_NAME was the whole path, and there"
        " was no PATH_INFO"
    )


def test_what_cannot_be_seen_is_escaped() -> None:
    text = ask({**LIGHTTPD, "HTTP_X": "a\x1b[31m\xc3\xa9\x00", "HTTP_LONG": "x" * 5000})[2]
    assert "\x1b" not in text
    assert "a\\x1b[31m" in text
    assert "5000 characters in total" in text


def test_no_terminal_is_told_what_to_do() -> None:
    path = "/\x1b[31m\x9b\r"
    for params in (
        {**LIGHTTPD, "HTTP_HOST": path},
        {**NGINX, "SERVER_PORT": path},
        {**NGINX, "SCRIPT_NAME": path, "DOCUMENT_URI": f"{path}/a"},
        {**LIGHTTPD, "SCRIPT_NAME": f"{path}/doctor-trial", "PATH_INFO": path},
        {**HAPROXY, "PATH_INFO": path, "SERVER_SOFTWARE": path, "REQUEST_METHOD": path},
    ):
        text = ask(params)[2]
        assert "".join(text.split("\n")).isprintable()


def test_a_report_on_a_long_request_is_short() -> None:
    for name in ("SCRIPT_NAME", "PATH_INFO", "REQUEST_URI", "HTTP_HOST", "SERVER_SOFTWARE"):
        for base in (NGINX, LIGHTTPD, HAPROXY):
            for accept in ("", "text/html"):
                text = ask({**base, name: "/" + "<" * 100_000}, accept)[2]
                assert len(text) < 100_000, (name, base["SERVER_SOFTWARE"])


def test_a_body_is_not_for_an_authorizer() -> None:
    report = json.loads(ask({**LIGHTTPD, "CONTENT_LENGTH": ""}, "application/json", role=2)[2])
    (change,) = [item for item in report["changes"] if item["name"] == "CONTENT_LENGTH"]
    assert change["why"] == "an authorizer gets no body"


def test_an_authorizer_lets_nobody_through() -> None:
    for accept in ("", "text/html", "application/json"):
        status, _, text = ask(LIGHTTPD, accept, role=2)
        assert status == "403 Forbidden"
        assert "denies every request" in " ".join(text.split())
    trial = {**LIGHTTPD, "QUERY_STRING": "doctor=stream"}
    assert ask(trial, role=2)[0] == "403 Forbidden"


def test_what_is_changed_is_told() -> None:
    params = {**HAPROXY, "HTTP_PROXY": "http://x", "CONTENT_LENGTH": "", "HTTP_X": "1"}
    more = [("HTTP_X", "2"), ("SERVER_NAME", "other")]
    report = json.loads(ask(params, "application/json", more=more)[2])
    changes = {item["name"]: item for item in report["changes"]}
    assert changes["HTTP_PROXY"]["became"] == changes["CONTENT_LENGTH"]["became"] == "(absent)"
    assert (changes["HTTP_X"]["came"], changes["HTTP_X"]["became"]) == ("1 | 2", "1, 2")
    assert changes["SERVER_NAME"]["became"] == "other"
    assert changes["SERVER_NAME"]["why"] == "it arrived more than once: the last value is used"
    assert "vsgi_fcgi.wire" not in report["environ"]
    assert set(changes) == {"HTTP_PROXY", "CONTENT_LENGTH", "HTTP_X", "SERVER_NAME", "SCRIPT_NAME"}
    assert report["params"][-2:] == [["HTTP_X", "2"], ["SERVER_NAME", "other"]]


@pytest.mark.parametrize(
    ("params", "became", "why"),
    [
        (HAPROXY, "1, 2", "the values are joined"),
        (LIGHTTPD, "2", "the last value is used"),
        (
            {"SERVER_SOFTWARE": "h2o/2.2.5", "REQUEST_METHOD": "GET"},
            "1",
            "the value from the configuration is used",
        ),
    ],
)
def test_what_becomes_of_a_repeated_header_is_told(
    params: dict[str, str], became: str, why: str
) -> None:
    text = ask({"HTTP_X": "1", **params}, "application/json", more=[("HTTP_X", "2")])[2]
    (change,) = [item for item in json.loads(text)["changes"] if item["name"] == "HTTP_X"]
    assert change["became"] == became
    assert change["why"] == f"it arrived more than once: {why}"


def test_the_worst_comes_first() -> None:
    params = {**NGINX, "HTTP_CONTENT_TYPE": "a/b"}
    report = json.loads(ask(params, "application/json")[2])
    assert [item["code"] for item in report["findings"]] == ["type-missing", "path-whole"]
    assert report["verdict"] == "2 problems found."


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"SCRIPT_NAME": "", "PATH_INFO": "/a/b"}, "No problem found in this request."),
        ({}, "1 problem found."),
        (
            {"SCRIPT_NAME": "", "PATH_INFO": "/a/b", "SERVER_PORT": "8080"},
            "No problem found, 1 possible problem to check.",
        ),
        (
            {"PATH_INFO": "", "SERVER_PORT": "8080", "HTTP_CONTENT_TYPE": "a/b"},
            "1 problem found, 2 possible problems to check.",
        ),
    ],
)
def test_the_headline_counts_what_is_certain_and_what_is_not(
    change: dict[str, str], verdict: str
) -> None:
    report = json.loads(ask({**NGINX, **change}, "application/json")[2])
    assert report["verdict"] == verdict
