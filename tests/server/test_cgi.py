"""Test plain CGI in a process: one request in the environment, stdin and stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.processes import free_port, unmeasured

from vsgi_fcgi.server.cgi import without_query

pytestmark = pytest.mark.process

APP = """
import json, os, sys, time
print("printed while loading")

def app(environ, start_response):
    what = environ["PATH_INFO"]
    if what == "/endless":
        start_response("200 OK", [])
        return iter(lambda: b"x" * 65536, None)
    if what == "/102":
        start_response("102 Processing", [])
        return []
    if what == "/midway":
        return midway(start_response)
    if what == "/gone":
        request = environ["vsgi_fcgi.request"]
        with request.on_disconnect(sys.exit):
            while not request.client_disconnected():
                time.sleep(0.01)
        print("noticed", file=environ["wsgi.errors"])
        start_response("200 OK", [])
        return []
    seen = {
        "body": environ["wsgi.input"].read().decode(),
        "more": environ["wsgi.input"].read(1).decode(),
        "proxy": [environ.get("HTTP_PROXY"), os.environ.get("HTTP_PROXY")],
        "modules": sorted({"gevent", "werkzeug", "wsgiref.handlers"} & set(sys.modules)),
        "stdin": sys.stdin.read() if what == "/stdin" else "",
        "called": environ["vsgi_fcgi.main_context"].call(max, 1, 2),
        "gone": environ["vsgi_fcgi.request"].client_disconnected(),
        "terminated": environ["wsgi.input_terminated"],
        "path": [environ["SCRIPT_NAME"], what],
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]

def midway(start_response):
    start_response("200 OK", [])
    yield b"half"
    raise RuntimeError("the other half is lost")
"""

SCRIPT = "import sys\nfrom {module} import app\nfrom vsgi_fcgi import Server\n"
SCRIPT += "sys.exit(Server(app, {settings}).run())\n"


class Program:
    """A CGI program: the app above, by the command or by a script.

    Args:
        folder: where its files are made.
        by: ``command`` or ``script``.
        settings: settings by the names of their fields.
        patched: the app monkey-patches everything.
    """

    def __init__(self, folder: Path, by: str, patched: bool = False, **settings: float) -> None:
        patch = "from gevent import monkey; monkey.patch_all()\n" if patched else ""
        (folder / "its_app.py").write_text(patch + APP)
        self.argv = [sys.executable, "-W", "error"]
        if by == "command":
            self.argv += ["-m", "vsgi_fcgi", "--chdir", str(folder), "its_app"]
            for name, value in settings.items():
                self.argv += [f"--{name.replace('_', '-')}", str(value)]
        else:
            given = ", ".join(f"{name}={value}" for name, value in settings.items())
            (folder / "app.fcgi").write_text(SCRIPT.format(module="its_app", settings=given))
            self.argv.append(str(folder / "app.fcgi"))

    def environ(self, **variables: str) -> dict[str, str]:
        given = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REQUEST_URI": "/"}
        process = {**os.environ, "PYTHONUNBUFFERED": ""}
        return {**process, **given, **variables}

    def run(
        self, body: bytes = b"", argv: Sequence[str] = (), **variables: str
    ) -> tuple[str, str, str, int]:
        """Run it; returns the headers and the body of its answer, its stderr, its exit status."""
        done = subprocess.run(
            [*self.argv, *argv],
            input=body,
            env=self.environ(**variables),
            capture_output=True,
            timeout=30,
            check=False,
        )
        head, _, answer = done.stdout.decode().partition("\r\n\r\n")
        return head, answer, done.stderr.decode(), done.returncode

    def start(self, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=self.environ()
        )


BOTH = pytest.mark.parametrize("by", ["command", "script"])


@BOTH
def test_a_request(tmp_path: Path, by: str) -> None:
    variables = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "4", "HTTP_PROXY": "http://evil/"}
    head, answer, errors, status = Program(tmp_path, by).run(
        b"body and what is no part of it", **variables
    )
    assert head == "Status: 200 OK\r\nContent-Type: application/json"
    seen = json.loads(answer)
    assert (seen["body"], seen["more"]) == ("body", "")
    assert seen["proxy"] == [None, None]
    assert seen["called"] == 2
    assert seen["gone"] is False
    assert seen["terminated"]
    assert errors == "printed while loading\n"
    assert status == 0


def test_the_command_loads_only_what_cgi_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ.keys() - unmeasured().keys():
        monkeypatch.delenv(name)
    assert json.loads(Program(tmp_path, "command").run()[1])["modules"] == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, ["/app.fcgi", "/x"]), ({"VSGI_FCGI_SCRIPT_NAME": "/"}, ["", "/x"])],
)
def test_a_script_that_a_rewrite_has_put_before_the_path(
    tmp_path: Path, variables: dict[str, str], expected: list[str]
) -> None:
    """As ``.htaccess`` does; one at the root is named by a slash, as empty variables are absent."""
    asked = {"SCRIPT_NAME": "/app.fcgi", "PATH_INFO": "/x", "REQUEST_URI": "/x?y", **variables}
    answer = Program(tmp_path, "command").run(b"", (), **asked)[1]
    assert json.loads(answer)["path"] == expected


def test_the_standard_input_is_empty_to_the_app(tmp_path: Path) -> None:
    """Bytes after the body must not be read."""
    answer = Program(tmp_path, "command").run(b"more", PATH_INFO="/stdin")[1]
    assert json.loads(answer)["stdin"] == ""


@BOTH
def test_a_body_in_a_temporary_file(tmp_path: Path, by: str) -> None:
    program = Program(tmp_path, by, body_memory_bytes=0)
    length = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "100000"}
    assert json.loads(program.run(b"x" * 100000, **length)[1])["body"] == "x" * 100000


@pytest.mark.parametrize(
    ("length", "status", "why"),
    [
        ("11", 413, "its body is larger than 10 bytes"),
        ("10", 400, "4 bytes of a body of 10 came"),
        ("four", 400, "CONTENT_LENGTH is 'four', not a number of bytes"),
    ],
)
def test_a_body_that_is_not_for_the_app(tmp_path: Path, length: str, status: int, why: str) -> None:
    program = Program(tmp_path, "command", max_body_bytes=10)
    head, answer, errors, exit_status = program.run(b"body", CONTENT_LENGTH=length)
    assert head.startswith(f"Status: {status} ")
    assert "<h1>" in answer
    assert f"GET / was answered {status}: {why}\n" in errors
    # It is an answer.
    assert exit_status == 0


def test_a_head_request_that_is_not_for_the_app_has_no_body(tmp_path: Path) -> None:
    program = Program(tmp_path, "command", max_body_bytes=10)
    head, answer, _, _ = program.run(b"body", CONTENT_LENGTH="11", REQUEST_METHOD="HEAD")
    assert head.startswith("Status: 413 ")
    assert answer == ""


@pytest.mark.parametrize("patched", [False, True])
def test_a_body_that_stops_coming(tmp_path: Path, patched: bool) -> None:
    program = Program(tmp_path, "command", receive_timeout=0.2, patched=patched)
    reading, writing = os.pipe()
    try:
        os.write(writing, b"half")
        done = subprocess.run(
            program.argv,
            stdin=reading,
            env=program.environ(CONTENT_LENGTH="8"),
            capture_output=True,
            timeout=30,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.stdout.startswith(b"Status: 408 ")


@pytest.mark.parametrize("patched", [False, True])
def test_an_answer_that_nobody_reads(tmp_path: Path, patched: bool) -> None:
    program = Program(tmp_path, "command", send_timeout=0.2, patched=patched)
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            program.argv,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            env=program.environ(PATH_INFO="/endless"),
            timeout=30,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert b"nothing could be sent for 0.2 seconds" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.returncode == 1


@BOTH
def test_a_web_server_that_leaves(tmp_path: Path, by: str) -> None:
    program = Program(tmp_path, by)
    popen = subprocess.Popen(
        program.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=program.environ(PATH_INFO="/endless"),
    )
    assert popen.stdout is not None
    assert popen.stderr is not None
    assert popen.stdout.read(100).startswith(b"Status: 200 OK\r\n")
    popen.stdout.close()
    with popen.stderr:
        assert b"Traceback" not in popen.stderr.read()
    assert popen.wait(30) == 1


@BOTH
def test_an_app_that_asks_learns_that_the_web_server_has_left(tmp_path: Path, by: str) -> None:
    program = Program(tmp_path, by)
    with subprocess.Popen(
        program.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=program.environ(PATH_INFO="/gone"),
    ) as popen:
        assert popen.stdout is not None
        assert popen.stderr is not None
        popen.stdout.close()
        errors = popen.stderr.read()
        assert b"noticed" in errors
        assert b"Traceback" not in errors
        assert popen.wait(30) == 1


@BOTH
def test_an_interim_status_is_an_error(tmp_path: Path, by: str) -> None:
    head, _, errors, status = Program(tmp_path, by).run(PATH_INFO="/102")
    assert head.startswith("Status: 500 ")
    assert "'102 Processing'" in errors
    assert status == 0


@BOTH
def test_an_app_that_fails_in_the_middle(tmp_path: Path, by: str) -> None:
    _, answer, errors, status = Program(tmp_path, by).run(PATH_INFO="/midway")
    assert answer == "half"
    assert "RuntimeError: the other half is lost" in errors
    assert status == 1


@BOTH
def test_closed_standard_streams(tmp_path: Path, by: str) -> None:
    program = Program(tmp_path, by)
    shell = ["sh", "-c", 'exec "$@" 0<&- 2>&-', "sh", *program.argv]
    done = subprocess.run(
        shell, env=program.environ(), capture_output=True, timeout=30, check=False
    )
    assert done.stdout.startswith(b"Status: 200 OK\r\n")
    shell = ["sh", "-c", 'exec "$@" 1>&-', "sh", *program.argv]
    done = subprocess.run(
        shell, env=program.environ(), capture_output=True, timeout=30, check=False
    )
    assert b"stdout is closed" in done.stderr
    assert done.returncode == (2 if by == "command" else 1)


def test_an_address_that_is_named_is_served(tmp_path: Path) -> None:
    """Whatever the environment says."""
    program = Program(tmp_path, "command")
    program.argv += ["--bind", f"127.0.0.1:{free_port()}"]
    popen = program.start(subprocess.DEVNULL, subprocess.PIPE)
    assert popen.stderr is not None
    assert popen.stdout is not None
    with popen.stdout, popen.stderr:
        lines = iter(popen.stderr.readline, b"")
        assert any(b"listening on fcgi://127.0.0.1:" in line for line in lines)
        popen.terminate()
        assert popen.wait(30) == 0


@BOTH
def test_without_a_request_it_says_what_is_missing(tmp_path: Path, by: str) -> None:
    _, _, errors, status = Program(tmp_path, by).run(REQUEST_METHOD="")
    assert "fd 0 is not a listening socket" in errors
    assert status == (2 if by == "command" else 1)


def test_an_app_that_cannot_be_loaded(tmp_path: Path) -> None:
    """The web server says 500, as there is no answer; its log has the reason."""
    program = Program(tmp_path, "command")
    (tmp_path / "its_app.py").write_text("1 / 0")
    head, _, errors, status = program.run()
    assert head == ""
    assert "ZeroDivisionError" in errors
    assert status == 2


@pytest.mark.parametrize(
    ("query", "argv", "own"),
    [
        ("", ["shop"], ["shop"]),
        ("a=--help", ["shop", "--help"], ["shop", "--help"]),
        ("--help", ["shop", "--help"], ["shop"]),
        ("--help", ["shop"], ["shop"]),
        ("a+b", ["shop", "a", "b"], ["shop"]),
        ("a+b+c", ["shop", "a", "b"], ["shop"]),
        ("%2D-help", ["--help"], []),
        ("a%00b", ["shop", "a"], ["shop"]),
        ("a%3Bb", ["shop", "a\\;b"], ["shop"]),
        ("a%5Cb", ["shop", "a\\\\b"], ["shop"]),
        ("%FF", ["shop", "\udcff"], ["shop"]),
    ],
)
def test_the_words_of_a_query_are_no_arguments(query: str, argv: list[str], own: list[str]) -> None:
    assert without_query(argv, {"QUERY_STRING": query}) == own
