"""Test what docs/topics/security.md says. `CLAIMS` names the tests of each statement.

Here are those that concern several modules.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from http.client import HTTPConnection
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.http import connect, receive
from support.pages import DOCS
from support.processes import Process, ProcessGroup, free_port
from support.server import respond, running

from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

TESTS = Path(__file__).parent

CLAIMS = {
    "Params stay params": (
        "test_security.py::test_params_stay_params",
        "wsgi/test_environ.py::test_params_never_override_the_keys_of_the_server",
    ),
    "The limits hold for web servers, too": (
        "protocol/test_limits.py",
        "server/test_overload.py",
        "server/test_memory.py",
    ),
    "Set a proxy": (
        "wsgi/test_environ.py::test_a_proxy_header_never_reaches_the_app",
        "server/test_cgi.py::test_a_request",
        "cli/commands/test_http_front.py"
        "::test_headers_of_the_connection_and_the_proxy_header_stay_out",
    ),
    "Smuggle a request": (
        "http_server/test_head.py::test_refused",
        "http_server/test_body.py::test_invalid_chunks",
        "cli/commands/test_http_front.py::test_what_is_ambiguous_is_refused_and_ends_the_connection",
    ),
    "Imitate a header of a proxy by an underscore": (
        "http_server/test_head.py::test_the_environ",
        "live/test_configured_headers.py::test_the_configuration_wins",
    ),
    "Pass options to a CGI program": (
        "server/test_cgi.py::test_the_words_of_a_query_are_no_arguments",
    ),
    "Forge a line of a log": (
        "log/test_access_format.py::test_what_a_client_sends_forges_no_line",
        "log/test_access_format.py::test_nor_in_any_other_field",
        "log/test_access_format.py::test_nor_does_an_app_by_its_headers",
        "log/test_handlers.py::test_text_holds_no_control_character_and_forges_no_record",
        "log/test_handlers.py::test_json_has_one_line_whatever_the_message",
        "http_server/test_server.py::test_a_target_does_not_end_its_quotes_in_the_log",
        "wsgi/test_environ.py::test_a_request_is_named_in_the_log_without_anything_unprintable",
    ),
    "Control a terminal": (
        "server/test_error_stream.py::test_neither_log_gets_control_characters",
        "log/test_handlers.py::test_text_holds_no_control_character_and_forges_no_record",
        "status/test_status.py::test_the_commands_show_what_runs_in_a_terminal",
        "doctor/test_rendering.py::test_no_terminal_is_told_what_to_do",
    ),
    "Split a response": (
        "wsgi/test_header_block.py::test_cr_lf_and_nul_are_refused",
        "wsgi/test_header_block.py::test_what_is_the_web_servers_business_is_dropped",
        "http_server/test_response.py::test_refused",
        "push/test_items.py::test_errors_in_an_item",
    ),
    "See an error's cause": (
        "test_security.py::test_error_pages_contain_nothing_of_the_request",
        "http_server/test_server.py::test_an_app_that_fails_is_a_500_and_the_connection_goes_on",
        "wsgi/test_failures.py::test_an_error_before_the_response_is_an_error_page",
    ),
    "Insert HTML": (
        "status/test_status.py::test_the_status_is_answered_while_all_threads_are_stuck",
        "doctor/test_rendering.py::test_the_page_is_whole_and_loads_nothing",
        "demo/test_demo.py::test_values_are_shown_and_never_obeyed",
        "demo/test_demo.py::test_every_answer_has_the_headers_that_keep_it_harmless",
        "test_security.py::test_the_status_page_allows_no_script_but_its_own",
    ),
    "Leave the folder of --static": (
        "cli/commands/test_http_front.py::test_static_files_do_not_reach_the_app",
    ),
    "Choose a file of --sendfile": ("wsgi/test_sendfile.py::test_these_are_sent_from_here",),
    "Look like the server to an app that holds requests": (
        "server/test_held_requests.py::test_what_a_client_sends_as_grip_does_not_reach_the_app",
        "push/test_signature.py::test_libraries_accept_it",
    ),
    "Connect to the sockets": (
        "listen/test_ownership.py::test_nobody_connects_before_the_mode_is_set",
        "listen/test_ownership.py::test_others_are_kept_out_unless_it_is_asked_for",
        "cli/commands/test_http_front.py::test_the_private_socket_is_gone_at_the_end",
    ),
    "Have another file changed": (
        "listen/test_ownership.py::test_what_was_put_in_its_place_is_left_alone",
        "listen/test_listeners.py::test_a_live_socket_is_refused_and_left_alone",
        "listen/test_listeners.py::test_what_is_no_socket_is_refused_and_left_alone",
        "cli/test_pid_file.py::test_a_link_is_not_followed",
        "cli/test_pid_file.py::test_a_file_with_a_second_name_is_not_written",
        "cli/test_pid_file.py::test_what_is_no_process_id_is_never_overwritten",
    ),
    "Read bodies": ("test_security.py::test_temporary_files_have_no_name_and_belong_to_the_user",),
    "Read the access log": ("log/test_access_file.py",),
    "Get back root's rights": (
        "cli/test_privileges.py::test_it_becomes_the_user_before_the_app_is_loaded",
        "cli/test_privileges.py::test_a_system_that_gives_root_back",
    ),
    "Inherit the server's descriptors": (
        "test_security.py::test_a_program_that_the_app_starts_inherits_no_descriptor",
    ),
    "Read the status, or publish": (
        "status/test_status.py::test_a_name_that_another_site_made_point_here_gets_nothing",
        "cli/commands/test_push_front.py::test_web_pages_cannot_publish",
    ),
    "Use the debugger": (
        "cli/commands/test_debugger.py::test_a_frame_is_looked_into_with_the_pin_and_not_without",
    ),
    "Use headers that web servers obey": (
        "push/test_items.py::test_a_publisher_cannot_use_headers_that_web_servers_obey",
    ),
}
"""The tests of each statement, by its first words. A file stands for all its tests."""


def test_each_claim_has_a_test() -> None:
    page = (DOCS / "topics" / "security.md").read_text()
    checked = page.partition("\n## What you must do")[0]
    assert re.findall(r"^\* \*\*(.*?)\.\*\*", checked, re.MULTILINE) == list(CLAIMS)
    # Each statement begins with its name.
    assert len(re.findall(r"^\* ", checked, re.MULTILINE)) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_tests_of_a_claim_exist(claim: str) -> None:
    for name in CLAIMS[claim]:
        file, _, function = name.partition("::")
        assert f"def {function or 'test_'}" in (TESTS / file).read_text(), name


# Who can do what


def serve(group: ProcessGroup, path: Path, *options: str, app: str = "apps.inside:app") -> Process:
    words = [sys.executable, "-m", "vsgi_fcgi", app, "--bind", f"unix:{path}", *options]
    process = group.start(words, name="server", cwd=TESTS)
    process.wait_for_log("listening on")
    return process


@pytest.mark.process
def test_params_stay_params(processes: ProcessGroup, tmp_path: Path) -> None:
    """Whoever may connect decides about REMOTE_USER, and about nothing of the process."""
    serve(processes, tmp_path / "a.sock")
    given = {
        "REMOTE_USER": "admin",
        "REMOTE_ADDR": "127.0.0.1",
        "PATH": "/evil",
        "LD_PRELOAD": "/evil.so",
        "PYTHONPATH": "/evil",
        "VSGI_FCGI_DEBUG": "1",
        "wsgi.url_scheme": "evil",
    }
    with Client(str(tmp_path / "a.sock")) as client:
        client.ask(1, more=given)
        found = json.loads(client.answer(1).body)
    assert found["params"].items() >= (given | {"wsgi.url_scheme": "http"}).items()
    assert found["process"]["PATH"] != "/evil"
    assert not {"REMOTE_USER", "LD_PRELOAD", "VSGI_FCGI_DEBUG"} & found["process"].keys()
    assert found["process"].get("PYTHONPATH") != "/evil"


@pytest.mark.process
@pytest.mark.parametrize("processes_option", [(), ("--processes", "2")])
def test_a_program_that_the_app_starts_inherits_no_descriptor(
    processes: ProcessGroup, tmp_path: Path, processes_option: tuple[str, ...]
) -> None:
    options = [
        *("--http", f"127.0.0.1:{free_port()}", "--status-bind", f"127.0.0.1:{free_port()}"),
        *("--push-bind", f"unix:{tmp_path}/push.sock", "--access-log", str(tmp_path / "access")),
        *("--pid-file", str(tmp_path / "a.pid"), *processes_option),
    ]
    serve(processes, tmp_path / "a.sock", *options)
    with Client(str(tmp_path / "a.sock")) as client:
        found = json.loads(client.get("/child").body)
    assert found == ["0", "1", "2"]


# What clients get


@pytest.mark.process
@pytest.mark.parametrize(
    "request_text",
    [
        "GET /<script> HTTP/1.1\r\nHost: <script>\r\n\r\n",
        "GET /<script>\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
        "<script> / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / <script>/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n<script>: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: <script>\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: <script>\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n<script>\r\n",
    ],
)
def test_error_pages_contain_nothing_of_the_request(public_site: int, request_text: str) -> None:
    with connect(public_site) as sock:
        sock.sendall(request_text.encode("latin-1"))
        answer = b"".join(receive(sock))
    assert re.match(rb"HTTP/1.1 (400|501) ", answer), answer
    assert b"script" not in answer


@pytest.fixture(scope="module")
def public_site(tmp_path_factory: pytest.TempPathFactory) -> Iterable[int]:
    """The port of an HTTP server with an app that reads the body."""
    with ProcessGroup(tmp_path_factory.mktemp("site")) as group:
        port = free_port()
        words = [sys.executable, "-m", "vsgi_fcgi", "apps.behind_http:app"]
        process = group.start([*words, "--http", f"127.0.0.1:{port}"], name="http", cwd=TESTS)
        process.wait_for_log("serving HTTP on")
        yield port


@pytest.mark.process
def test_the_status_page_allows_no_script_but_its_own(
    processes: ProcessGroup, tmp_path: Path
) -> None:
    port = free_port()
    serve(processes, tmp_path / "a.sock", "--status-bind", f"127.0.0.1:{port}")
    connection = HTTPConnection("127.0.0.1", port)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        policy = response.getheader("Content-Security-Policy", "")
        page = response.read().decode()
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert scripts
    assert page.count("<script") == len(scripts)
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]


def test_temporary_files_have_no_name_and_belong_to_the_user(tmp_path: Path) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"].read(1)
        names = os.listdir(tmp_path)
        files = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat()
                if str(tmp_path) in os.readlink(entry):
                    files.append((found.st_nlink, oct(found.st_mode & 0o777), found.st_uid))
        return respond(start_response, json.dumps([names, files]).encode())

    with running(app, spool_dir=str(tmp_path), body_memory_bytes=1000) as server:
        names, files = json.loads(server.connect().get("/", bytes(100_000)).body)
    assert names == []
    assert files == [[0, "0o600", os.getuid()]]


def test_error_pages_over_fastcgi_contain_nothing_of_the_request() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        raise ValueError("<script>")

    with running(app) as server:
        client = server.connect()
        client.ask(1, "/<script>", more={"CONTENT_LENGTH": "<script>"})
        client.ask(2, "/<script>")
        for id, status in ((1, 400), (2, 500)):
            answer = client.answer(id)
            assert answer.status == status
            assert b"script" not in answer.body
