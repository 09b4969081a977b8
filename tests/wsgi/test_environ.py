"""Test the way from params to an environ, sentence by sentence of the specifications."""

from __future__ import annotations

import os
from io import BytesIO
from typing import Any
from wsgiref.validate import validator

import pytest
from support.sinks import PARAMS, FakeSink, run, run_validated

from vsgi_fcgi.front_ends.base import parse_software
from vsgi_fcgi.wsgi.environ import (
    ErrorStream,
    base_environ,
    content_length,
    make_environ,
    request_line,
)

MINIMAL = {"REQUEST_METHOD": "GET"}


def make(
    params: dict[str, str], *repeated: tuple[str, str], body: bytes = b"", **base: Any
) -> dict[str, Any]:
    stream = BytesIO(body) if body else None
    shared = base_environ(multithread=False, **base)
    return make_environ(params.copy(), repeated, shared, stream, len(body), ErrorStream(FakeSink()))


def test_params_are_the_environ() -> None:
    environ = make({**PARAMS, "REMOTE_USER": "j\xc3\xb6", "X": ""})
    assert environ["REMOTE_USER"] == "j\xc3\xb6"
    assert environ["X"] == ""
    assert {name: environ[name] for name in PARAMS} == PARAMS
    assert type(environ) is dict


def test_the_keys_of_the_server() -> None:
    environ = make(MINIMAL)
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.run_once"] is False
    assert environ["wsgi.input_terminated"] is True
    assert environ["wsgi.url_scheme"] == "http"
    assert callable(environ["wsgi.file_wrapper"])


@pytest.mark.parametrize("multithread", [False, True])
@pytest.mark.parametrize("multiprocess", [False, True])
def test_what_may_run_beside_the_app(multithread: bool, multiprocess: bool) -> None:
    base = base_environ(multithread=multithread, multiprocess=multiprocess)
    assert base["wsgi.multithread"] is multithread
    assert base["wsgi.multiprocess"] is multiprocess


def test_params_never_override_the_keys_of_the_server() -> None:
    context = object()
    forged = {
        name: "forged"
        for name in [*make(MINIMAL, vsgi_fcgi__main_context=context), "wsgi.input", "wsgi.errors"]
        if "." in name
    }
    expected = make(MINIMAL, body=b"x", vsgi_fcgi__main_context=context)
    environ = make(
        {**MINIMAL, **forged}, *forged.items(), body=b"x", vsgi_fcgi__main_context=context
    )
    assert environ["vsgi_fcgi.main_context"] is context
    for name in forged:
        assert type(environ[name]) is type(expected[name]), name
        assert environ[name] != "forged"


def test_requests_share_nothing() -> None:
    base = base_environ(multithread=False)
    errors = ErrorStream(FakeSink())
    first = make_environ(dict(MINIMAL), (), base, None, 0, errors)
    second = make_environ(dict(MINIMAL), (), base, None, 0, errors)
    first["wsgi.run_once"] = first["added"] = "changed"
    assert second["wsgi.run_once"] is base["wsgi.run_once"] is False
    assert "added" not in second
    assert first["wsgi.input"] is not second["wsgi.input"]


def test_the_environment_of_the_process_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSGI_FCGI_SECRET", "s")
    assert not set(make(MINIMAL)) & set(os.environ)


def test_what_a_front_end_left_out_is_there() -> None:
    """HAProxy leaves empty params out, lighttpd a blank PATH_INFO."""
    environ = make(MINIMAL)
    assert environ["QUERY_STRING"] == ""
    assert environ["SCRIPT_NAME"] == ""
    assert environ["PATH_INFO"] == ""
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert environ["SERVER_NAME"] == "localhost"
    assert environ["SERVER_PORT"] == "80"
    assert make({**MINIMAL, "HTTPS": "on", "SERVER_PORT": ""})["SERVER_PORT"] == "443"


def test_what_a_front_end_sent_is_kept() -> None:
    sent = {
        **MINIMAL,
        "QUERY_STRING": "a=%20",
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/a\xc3\xa4",
        "SERVER_PROTOCOL": "HTTP/2.0",
        "SERVER_NAME": "example",
        "SERVER_PORT": "8080",
    }
    environ = make(sent)
    assert {name: environ[name] for name in sent} == sent


# The body and its length.


@pytest.mark.parametrize("params", [{}, {"CONTENT_LENGTH": ""}])
def test_an_empty_content_length_is_none(params: dict[str, str]) -> None:
    assert "CONTENT_LENGTH" not in make({**MINIMAL, **params})


@pytest.mark.parametrize("params", [{}, {"CONTENT_LENGTH": ""}])
def test_a_body_without_a_content_length_gets_one(params: dict[str, str]) -> None:
    """A chunked upload: the body ends where STDIN ends."""
    environ = make({**MINIMAL, **params}, body=b"12345")
    assert environ["CONTENT_LENGTH"] == "5"
    assert environ["wsgi.input"].read() == b"12345"


@pytest.mark.parametrize("length", ["0", "5", "005"])
def test_a_content_length_is_kept(length: str) -> None:
    environ = make({**MINIMAL, "CONTENT_LENGTH": length}, body=b"x" * int(length))
    assert environ["CONTENT_LENGTH"] == length


@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("1", 1), ("007", 7), ("9" * 19, int("9" * 19)), ("", None)],
)
def test_content_length_is_a_number(text: str, length: int | None) -> None:
    assert content_length({"CONTENT_LENGTH": text}) == length


def test_no_content_length_is_none() -> None:
    assert content_length({}) is None


@pytest.mark.parametrize("text", [" 5", "5 ", "\t5 ", "005"])
def test_content_length_is_written_as_plain_digits(text: str) -> None:
    params = {"CONTENT_LENGTH": text}
    assert content_length(params) == 5
    assert params == {"CONTENT_LENGTH": "5"}


def test_a_blank_content_length_is_an_empty_one() -> None:
    params = {"CONTENT_LENGTH": "  "}
    assert content_length(params) is None
    assert params == {"CONTENT_LENGTH": ""}


@pytest.mark.parametrize(
    "text",
    ["-1", "+1", "1.0", "0x1", "1_000", "1 1", "1, 1", "\xa01", "\xb2", "\u0661", "x", "9" * 20],
)
def test_content_length_that_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="not a number of bytes"):
        content_length({"CONTENT_LENGTH": text})


# Headers.


def test_a_proxy_header_never_reaches_the_app() -> None:
    assert "HTTP_PROXY" not in make({**MINIMAL, "HTTP_PROXY": "a"}, ("HTTP_PROXY", "b"))


def test_content_headers_come_under_their_cgi_names_alone() -> None:
    doubles = {"HTTP_CONTENT_LENGTH": "9", "HTTP_CONTENT_TYPE": "text/evil"}
    own = {"CONTENT_LENGTH": "4", "CONTENT_TYPE": "text/plain"}
    environ = make({**MINIMAL, **doubles, **own}, *doubles.items(), body=b"four")
    assert not doubles.keys() & environ.keys()
    assert {name: environ[name] for name in own} == own


def test_a_body_is_not_said_to_be_in_chunks() -> None:
    """nginx and Apache have taken them apart, and say it all the same."""
    environ = make({**MINIMAL, "HTTP_TRANSFER_ENCODING": "chunked"}, body=b"four")
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert environ["CONTENT_LENGTH"] == "4"


def test_a_content_type_is_not_invented() -> None:
    assert "CONTENT_TYPE" not in make(MINIMAL, body=b"x")


@pytest.mark.parametrize(
    ("name", "joined"),
    [
        ("HTTP_COOKIE", "a=1; b=2; c=3"),
        ("HTTP_ACCEPT", "a=1, b=2, c=3"),
        ("HTTP_COOKIES", "a=1, b=2, c=3"),
        ("REMOTE_ADDR", "c=3"),
        ("HTTP_HOST", "c=3"),
    ],
)
def test_repeated_params_are_joined_by_the_rules_of_their_header(name: str, joined: str) -> None:
    repeated = [(name, "b=2"), ("HTTP_OTHER", "y"), (name, "c=3")]
    software = {"SERVER_SOFTWARE": "nginx/1.22.1"}
    environ = make({**MINIMAL, **software, name: "a=1", "HTTP_OTHER": "x"}, *repeated)
    assert environ[name] == joined
    assert environ["HTTP_OTHER"] == "x, y"


@pytest.mark.parametrize(
    ("software", "value"),
    [
        ("nginx/1.22.1", "a, b"),
        ("nginx/1.9.15", "a, b"),
        ("nginx/1.23.0", "b"),
        ("nginx/1.26.3", "b"),
        ("nginx", "b"),
        ("HAProxy 2.6.12-1+deb12u4", "a, b"),
        ("HAProxy 3.0.11-1+deb13u1", "a, b"),
        ("h2o/2.2.5", "a, b"),
        ("lighttpd/1.4.69", "b"),
        ("Apache/2.4.62 (Debian)", "b"),
        ("Caddy/v2.6.2", "b"),
        ("not nginx/1.22.1", "b"),
        ("", "b"),
        (None, "b"),
    ],
)
def test_only_web_servers_that_send_repeated_headers_have_them_joined(
    software: str | None, value: str
) -> None:
    """Elsewhere a second param is one that the configuration sets."""
    given = {} if software is None else {"SERVER_SOFTWARE": software}
    environ = make({**MINIMAL, **given, "HTTP_X": "a"}, ("HTTP_X", "b"))
    assert environ["HTTP_X"] == value


def test_what_h2o_sets_wins_over_the_client() -> None:
    params = {"HTTP_X": "set", "HTTP_HOST": "set", "SERVER_SOFTWARE": "h2o/2.2.5", "HTTP_Y": "a"}
    repeated = [("HTTP_X", "b"), ("HTTP_Y", "b"), ("HTTP_X", "c"), ("HTTP_HOST", "b")]
    environ = make({**MINIMAL, **params}, *repeated)
    assert [environ[name] for name in ("HTTP_X", "HTTP_Y", "HTTP_HOST")] == ["set", "a, b", "set"]


@pytest.mark.parametrize(
    ("software", "parsed"),
    [
        ("nginx/1.22.1", ("nginx", (1, 22, 1))),
        ("HAProxy 2.6.12-1+deb12u4", ("haproxy", (2, 6, 12))),
        ("HAProxy 3.1-dev3", ("haproxy", (3, 1))),
        ("h2o/2.2.5", ("h2o", (2, 2, 5))),
        ("lighttpd/1.4.79", ("lighttpd", (1, 4, 79))),
        ("Apache/2.4.62 (Debian) mod_fcgid/2.3.9", ("apache", (2, 4, 62))),
        ("Caddy/v2.6.2", ("caddy", (2, 6, 2))),
        ("nginx", ("", ())),
        ("/1.2", ("", ())),
        ("", ("", ())),
        (None, ("", ())),
    ],
)
def test_names_and_versions_of_web_servers(
    software: str | None, parsed: tuple[str, tuple[int, ...]]
) -> None:
    assert parse_software(software) == parsed


# The scheme.


@pytest.mark.parametrize(
    ("params", "scheme"),
    [
        ({}, "http"),
        ({"HTTPS": "on"}, "https"),
        ({"HTTPS": "ON"}, "https"),
        ({"HTTPS": "1"}, "https"),
        ({"HTTPS": "off"}, "http"),
        ({"HTTPS": "0"}, "http"),
        ({"HTTPS": ""}, "http"),
        ({"REQUEST_SCHEME": "https"}, "https"),
        ({"REQUEST_SCHEME": "http"}, "http"),
        ({"HTTPS": "", "REQUEST_SCHEME": "https"}, "https"),
        ({"HTTP_X_FORWARDED_PROTO": "https"}, "http"),
        ({"SERVER_PORT": "443"}, "http"),
    ],
)
def test_the_scheme_is_the_web_servers_word(params: dict[str, str], scheme: str) -> None:
    assert make({**MINIMAL, **params})["wsgi.url_scheme"] == scheme


# wsgi.input.


@pytest.mark.parametrize("body", [b"", b"one\ntwo\nlast"])
def test_wsgi_input_has_every_method_of_the_pep(body: bytes) -> None:
    def fresh() -> Any:
        return make(MINIMAL, body=body)["wsgi.input"]

    lines = body.splitlines(keepends=True)
    assert fresh().read() == body
    assert fresh().read(-1) == body
    assert fresh().read(5) == body[:5]
    assert fresh().readline() == b"".join(lines[:1])
    assert fresh().readline(2) == body[:2]
    assert fresh().readlines() == lines
    assert fresh().readlines(4) == lines[:1]
    assert list(fresh()) == lines


def test_wsgi_input_ends() -> None:
    stream = make({**MINIMAL, "CONTENT_LENGTH": "3"}, body=b"abc")["wsgi.input"]
    assert stream.read(10) == b"abc"
    assert stream.read(10) == stream.read() == stream.readline() == b""
    assert list(stream) == []


def test_the_validator_accepts_the_environ() -> None:
    seen = {}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen["body"] = environ["wsgi.input"].read(5)
        environ["wsgi.errors"].write("said\n")
        environ["wsgi.errors"].flush()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    sink = run_validated(app, "POST", b"hello", CONTENT_TYPE="text/plain")
    assert (sink.status, sink.body, sink.errors) == ("200 OK", b"ok", ["said\n"])
    assert seen == {"body": b"hello"}
    minimal = FakeSink()
    run(validator(app), sink=minimal, SERVER_NAME="", SERVER_PORT="", PATH_INFO="", HTTPS="on")
    assert not minimal.reports


def test_a_request_is_named_in_the_log_without_anything_unprintable() -> None:
    assert request_line({"REQUEST_METHOD": "GET", "REQUEST_URI": "/a?b=c"}) == "GET /a?b=c"
    forged = {"REQUEST_METHOD": "GET", "REQUEST_URI": "/\n2026 ERROR all is lost\x1b[2J"}
    assert request_line(forged) == r"GET /\n2026 ERROR all is lost\x1b[2J"
    assert request_line({}) == "no method no URI"
