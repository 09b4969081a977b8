"""Test the lines of the access log, which clients cannot forge."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import pytest
from support.lines import LogFile
from support.server import WORKERS, Running, running

from vsgi_fcgi import Server
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.log.access_format import AccessCode, parse_format
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

PARAMS = {
    "REMOTE_ADDR": "192.0.2.7",
    "REMOTE_PORT": "4711",
    "HTTP_REFERER": "http://example.org/start",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64)",
    "HTTP_X_FORWARDED_FOR": "203.0.113.9, 10.0.0.1",
    "CONTENT_TYPE": "text/plain",
}

COMBINED = re.compile(
    r'(?P<host>\S+) (?P<ident>\S+) (?P<user>\S+) \[(?P<time>[^]]+)\] "(?P<request>(?:[^"\\]|\\.)*)"'
    r' (?P<status>\d{3}|-) (?P<bytes>\d+|-) "(?P<referer>(?:[^"\\]|\\.)*)"'
    r' "(?P<agent>(?:[^"\\]|\\.)*)"'
)
"""As the programs that evaluate such logs read it."""


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    body = {"/empty": b""}.get(environ["PATH_INFO"], b"1,234 bytes".ljust(1234))
    # An app may do with its environ what it likes.
    environ.clear()
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))]
    headers += [("Set-Cookie", "a=1"), ("X-Said", 'a "word" \\ \xe9'), ("Set-Cookie", "b=2")]
    start_response("404 Not Found", headers)
    return [body]


def logged(
    tmp_path: Path,
    format: str,
    path: str = "/some/page?a=1&b=2",
    body: bytes | None = None,
    *,
    method: str = "",
    params: Mapping[str, str] = PARAMS,
    worker: str = "thread",
) -> str:
    """The line of one request."""
    log = LogFile(tmp_path / "access.log")
    settings = {"access_log": str(log.path), "access_log_format": format}
    with running(app, worker=worker, **settings) as server:
        ask(server, path, body, method=method, params=params)
    return log.only()


def ask(
    server: Running, path: str, body: bytes | None, *, method: str, params: Mapping[str, str]
) -> None:
    client = server.connect()
    client.ask(7, path, body, method=method, more=params)
    assert client.answer(7).status == 404


@pytest.mark.parametrize("worker", WORKERS)
def test_combined_is_apaches(tmp_path: Path, worker: str) -> None:
    before = int(time.time())
    found = COMBINED.fullmatch(logged(tmp_path, "combined", worker=worker))
    assert found is not None
    moment = datetime.strptime(found["time"], "%d/%b/%Y:%H:%M:%S %z").timestamp()
    assert before <= moment <= time.time()
    assert found.groupdict() | {"time": ""} == {
        "host": "192.0.2.7",
        "ident": "-",
        "user": "-",
        "time": "",
        "request": "GET /some/page?a=1&b=2 HTTP/1.1",
        "status": "404",
        "bytes": "1234",
        "referer": "http://example.org/start",
        "agent": "Mozilla/5.0 (X11; Linux x86_64)",
    }


def test_common_is_combined_without_the_last_two(tmp_path: Path) -> None:
    line = logged(tmp_path, "common")
    assert re.fullmatch(r'192\.0\.2\.7 - - \[.*\] "GET /some/\S+ HTTP/1\.1" 404 1234', line)


def test_json_is_one_object_with_everything(tmp_path: Path) -> None:
    said = json.loads(logged(tmp_path, "json", body=b"x" * 10, method="PUT"))
    assert datetime.fromisoformat(said.pop("time")).timestamp() == pytest.approx(time.time(), abs=9)
    duration, queue, run = (said.pop(f"{name}_us") for name in ("duration", "queue", "run"))
    assert 0 <= queue <= duration
    assert 0 < run <= duration
    assert said.pop("connection").startswith("connection 1 on fcgi+unix://")
    assert said.pop("sent") > 1234
    assert said == {
        "remote_addr": "192.0.2.7",
        "user": "",
        "method": "PUT",
        "uri": "/some/page?a=1&b=2",
        "protocol": "HTTP/1.1",
        "status": 404,
        "bytes": 1234,
        "referer": "http://example.org/start",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
        "received": 10,
        "end": "complete",
        "id": 7,
        "neighbours": 0,
    }


@pytest.mark.parametrize(
    ("format", "line"),
    [
        ("%(h)s|%(l)s|%(u)s", "192.0.2.7|-|-"),
        ("%(m)s|%(U)s|%(q)s|%(H)s", "GET|/some/page|a=1&b=2|HTTP/1.1"),
        ("%(r)s", "GET /some/page?a=1&b=2 HTTP/1.1"),
        ("%(uri)s", "/some/page?a=1&b=2"),
        ("%(s)s|%(B)s|%(b)s", "404|1234|1234"),
        ("%(f)s|%(a)s", "http://example.org/start|Mozilla/5.0 (X11; Linux x86_64)"),
        pytest.param("%(p)s|%(pid)s", f"<{os.getpid()}>|{os.getpid()}", id="pid"),
        ("%(T)s", "0"),
        ("%({X-Forwarded-For}i)s|%({referer}i)s", "203.0.113.9, 10.0.0.1|http://example.org/start"),
        ("%({Content-Type}i)s|%({Accept}i)s", "text/plain|-"),
        ("%({content-TYPE}o)s|%({X-No}o)s", "text/html; charset=utf-8|-"),
        ("%({Set-Cookie}o)s", "a=1, b=2"),
        ("%({REMOTE_PORT}e)s|%({PATH_INFO}e)s|%({NO}e)s", "4711|/some/page|-"),
        ("%({a'\"\\b}e)s%({'}e)s|%({\"}i)s get('X') now moment", "--|- get('X') now moment"),
        ("%(id)s|%(neighbours)s|%(received)s|%(end)s", "7|0|0|complete"),
        ("%(s)5s|%(m)-5s|%(a).7s|%(m)s|%(s)d", "  404|GET  |Mozilla|GET|404"),
        ("100%% {%(s)s} \t'\"\\ é {}", "100% {404} \t'\"\\ é {}"),
        ("%(s)s\n", "404"),
    ],
)
def test_atoms(tmp_path: Path, format: str, line: str) -> None:
    assert logged(tmp_path, format) == line


def test_durations_are_of_one_size(tmp_path: Path) -> None:
    line = logged(tmp_path, "%(M)s %(D)s %(L)s")
    milliseconds, microseconds, seconds = map(float, line.split())
    assert milliseconds == microseconds // 1000
    assert re.search(r" \d+\.\d{6}$", line)
    assert seconds == pytest.approx(microseconds / 1e6, abs=2e-6)


def test_seconds_go_by(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "access.log")
    with running(app, access_log=str(log.path), access_log_format="%(time)s") as server:
        client = server.connect()
        first = int(time.time())
        after = 0
        while after < 10:
            client.get()
            after += int(time.time()) > first
    moments = [datetime.fromisoformat(line).timestamp() for line in log.lines()]
    assert moments == sorted(moments)
    assert int(moments[0]) <= int(moments[-1]) - 1


def test_no_field_is_ever_empty(tmp_path: Path) -> None:
    """nginx sends empty params for what it does not have, and columns must not shift."""
    empty = dict.fromkeys(["REMOTE_USER", "HTTP_REFERER", "HTTP_USER_AGENT"], "")
    format = "%(h)s %(u)s %(b)s %(f)s %(a)s"
    assert logged(tmp_path, format, "/empty", params=empty) == "- - - - -"
    os.remove(tmp_path / "access.log")
    assert logged(tmp_path, "%(B)s %(q)s.", "/empty") == "0 ."


def test_head_has_no_bytes(tmp_path: Path) -> None:
    assert logged(tmp_path, "%(m)s %(s)s %(b)s %(B)s", method="HEAD") == "HEAD 404 - 0"


def test_a_web_server_that_sends_no_request_uri(tmp_path: Path) -> None:
    params = {"REQUEST_URI": "", "SCRIPT_NAME": "/app", "PATH_INFO": "/page", "QUERY_STRING": "a=1"}
    line = logged(tmp_path, "%(r)s|%(U)s|%(uri)s", params=params)
    assert line == "GET /app/page?a=1 HTTP/1.1|/app/page|/app/page?a=1"


@pytest.mark.parametrize(
    ("sent", "text", "as_json"),
    [
        ('" 200 1 "-" "x"', r"\" 200 1 \"-\" \"x\"", '" 200 1 "-" "x"'),
        ("a\n192.0.2.1 - - x", r"a\n192.0.2.1 - - x", "a\n192.0.2.1 - - x"),
        ("a\r\x00\x1b[2J\x7f", r"a\r\x00\x1b[2J\x7f", "a\r\x00\x1b[2J\x7f"),
        ("C:\\n", r"C:\\n", "C:\\n"),
        ("\t\v\b\f", r"\t\v\b\x0c", "\t\v\b\f"),
        ("\xc3\xa9 \xe2\x80\xa8", r"\xc3\xa9 \xe2\x80\xa8", "é \u2028"),
        ("\x85\xff", r"\x85\xff", r"\x85\xff"),
    ],
)
def test_what_a_client_sends_forges_no_line(
    tmp_path: Path, sent: str, text: str, as_json: str
) -> None:
    params = {"HTTP_USER_AGENT": sent, "REMOTE_ADDR": "192.0.2.7"}
    line = logged(tmp_path, "combined", params=params)
    assert line.isprintable()
    found = COMBINED.fullmatch(line)
    assert found is not None
    assert found["agent"] == text
    assert (found["host"], found["status"]) == ("192.0.2.7", "404")
    os.remove(tmp_path / "access.log")
    line = logged(tmp_path, "json", params=params)
    assert line.isprintable()
    assert json.loads(line)["user_agent"] == as_json


@pytest.mark.parametrize("name", ["REQUEST_URI", "REQUEST_METHOD", "REMOTE_USER", "HTTP_REFERER"])
def test_nor_in_any_other_field(tmp_path: Path, name: str) -> None:
    line = logged(tmp_path, "combined", params={name: 'a"\n\\'})
    assert r"a\"\n\\" in line


def test_nor_does_an_app_by_its_headers(tmp_path: Path) -> None:
    assert logged(tmp_path, '"%({X-Said}o)s"') == r'"a \"word\" \\ \xe9"'


def test_a_format_that_begins_like_json_is_json(tmp_path: Path) -> None:
    format = '{"agent": "%(a)s", "said": "%({x-said}o)s", "none": "%(u)s", "run": %(run)s}'
    said = json.loads(logged(tmp_path, format, params={"HTTP_USER_AGENT": 'a"b'}))
    assert said.pop("run") >= 0
    # Bytes of a header that are no UTF-8 are shown as what they are.
    assert said == {"agent": 'a"b', "said": 'a "word" \\ \\xe9', "none": ""}


def test_texts_are_cut_if_a_line_would_be_very_long(tmp_path: Path) -> None:
    params = {"HTTP_USER_AGENT": "x" * 60_000, "HTTP_REFERER": "y" * 3000}
    found = COMBINED.fullmatch(logged(tmp_path, "combined", params=params))
    assert found is not None
    assert found["agent"] == "x" * 4096 + "..."
    assert found["referer"] == "y" * 3000


def test_an_upload_began_when_it_was_announced(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "access.log")
    format = "%(time)s %(D)s %(queue)s"
    with running(app, access_log=str(log.path), access_log_format=format) as server:
        client = server.connect()
        client.start(1, length=2)
        client.stdin(1, b"x", end=False)
        # This answer shows that the server has read the announcement before it.
        client.get(id=2)
        announced = time.time()
        start = time.monotonic()
        # As good as a sleep: other requests are answered meanwhile.
        while time.monotonic() - start < 0.2:
            client.get(id=2)
        client.stdin(1, b"x")
        client.answer(1)
    line = log.lines()[-1]
    moment, duration, queue = line.split()
    assert datetime.fromisoformat(moment).timestamp() < announced + 0.1
    assert int(duration) >= 200_000
    # The wait for the worker begins after the upload, and ends before the response.
    assert int(queue) <= int(duration) - 200_000


@pytest.mark.parametrize(
    ("format", "why"),
    [
        ("combind", "must be combined, common, json or contain a value; did you mean combined?"),
        ("", "or contain a value"),
        ("%(hh)s", r"contains %\(hh\)s, which is unknown; did you mean h?"),
        ("%(conection)s", "did you mean connection?"),
        ("%h %l %u", r"contains %h, which is Apache's syntax; write %\(h\)s"),
        ("%>s", r"contains %>s, which is Apache's syntax; write %\(s\)s"),
        ("%{Referer}i", r"write %\(\{Referer\}i\)s"),
        ("%({Referer}x)s", "for a request header"),
        ("%({}i)s", "for a request header"),
        ("%(s)s 100%", "a % must begin a value"),
        ("%(h)f", "a % must begin a value"),
        ("%(h)1000s", "a % must begin a value"),
        ("%(h).10000s", "a % must begin a value"),
        ("%(h", "a % must begin a value"),
        ("%(h)s\n%(s)s", "line break"),
    ],
)
def test_a_format_that_cannot_be_used_is_refused_at_once(format: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"^access_log_format .*{why}"):
        Server(app, access_log_format=format)


def test_generated_source_of_combined() -> None:
    """The stored copy shows reviewers what a change of the generator does to the code.

    If the change is intended, write the new source to ``access_combined.txt``.
    """
    golden = Path(__file__).with_name("access_combined.txt").read_text(encoding="utf-8")
    assert AccessCode(parse_format("combined")).source() == golden
