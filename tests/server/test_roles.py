"""Test authorizers and filters (sections 6.3 and 6.4), and several roles in one server."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import gevent
import pytest
from support.asking import asking, uri_of
from support.fcgi import records
from support.fcgi.peer import Answer, Client, request_params
from support.fcgi.records import AUTHORIZER, FILTER, RESPONDER, UNKNOWN_ROLE
from support.server import (
    WORKERS,
    Running,
    hello,
    logged,
    respond,
    run_script,
    running,
    wait_in_app,
    wait_until,
)

from vsgi_fcgi import Server
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

MIB = 1024 * 1024


class Recorder:
    """An app that keeps its environs, with what it has read."""

    def __init__(self) -> None:
        self.seen: list[Environ] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.seen.append(environ | {"body": environ["wsgi.input"].read()})
        return respond(start_response, b"let through")

    def take(self) -> Environ:
        """What the only request since the last time was."""
        (environ,) = self.seen
        self.seen.clear()
        return environ


def digests(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A filter that tells what it has read, in the order that section 6.4 wants."""
    lines = []
    for stream in (environ["wsgi.input"], environ["vsgi_fcgi.data"]):
        digest, size = hashlib.sha256(), 0
        while piece := stream.read(50_000):
            digest.update(piece)
            size += len(piece)
        lines.append(f"{size} {digest.hexdigest()}")
    lines.append(f"{environ['FCGI_DATA_LENGTH']} {environ.get('FCGI_DATA_LAST_MOD')}")
    return respond(start_response, "\n".join(lines).encode())


def digest(data: bytes) -> str:
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


def authorize(client: Client, id: int = 1, *, end_stdin: bool = False, **more: str) -> Answer:
    values = request_params("/some/path", more=more)
    del values["SCRIPT_NAME"], values["PATH_INFO"]
    sent = records.begin(id, AUTHORIZER) + records.params(id, values)
    client.send(sent + (records.stdin(id) if end_stdin else b""))
    return client.answer(id)


def whole_filter(
    id: int, data: bytes, body: bytes = b"", more: Mapping[str, str] | None = None
) -> bytes:
    """Return a complete request for a filter; without ``more``, it has the usual params."""
    if more is None:
        more = {"FCGI_DATA_LENGTH": str(len(data)), "FCGI_DATA_LAST_MOD": "1700000000"}
    values = request_params("/x", length=len(body), method="POST", more=more)
    streams = records.params(id, values) + records.stdin(id, body) + records.data(id, data)
    return records.begin(id, FILTER) + streams


def run_filter(server: Running, *args: Any, **more: Any) -> Answer:
    client = server.connect()
    client.send(whole_filter(1, *args, **more))
    answer = client.answer(1)
    # The connection goes on, whatever became of that one.
    client.send(whole_filter(2, b"next"))
    assert client.answer(2).body.splitlines()[1] == digest(b"next").encode()
    return answer


# Which roles.


@pytest.mark.parametrize("worker", WORKERS)
def test_each_role_has_its_app_and_its_name(worker: str) -> None:
    def says(text: str) -> Callable[[Environ, StartResponse], Iterable[bytes]]:
        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            data = environ["vsgi_fcgi.data"].read() if text == "filter" else b""
            role = environ["FCGI_ROLE"]
            return respond(start_response, f"{text} {role} {data.decode()}".encode())

        return app

    apps: dict[str, Any] = {"authorizer": says("authorizer"), "filter": says("filter")}
    with running(says("app"), **apps, worker=worker) as server:
        client = server.connect()
        # What a param says does not count.
        forged = {"FCGI_ROLE": "FILTER", "vsgi_fcgi.data": "forged"}
        client.ask(1, more=forged)
        assert client.answer(1).body == b"app RESPONDER "
        assert authorize(client, FCGI_ROLE="RESPONDER").body == b"authorizer AUTHORIZER "
        client.send(whole_filter(3, b"a file", more={"FCGI_ROLE": "x", "vsgi_fcgi.data": "x"}))
        assert client.answer(3).body == b"filter FILTER a file"


def test_the_role_of_a_server_of_one_app() -> None:
    app = Recorder()
    with running(app) as server:
        server.connect().ask(1, more={"FCGI_ROLE": "FILTER"})
        wait_until(lambda: app.seen)
    assert app.take()["FCGI_ROLE"] == "RESPONDER"


@pytest.mark.parametrize(
    ("apps", "served"),
    [
        ({"app": hello}, RESPONDER),
        ({"app": None, "authorizer": hello}, AUTHORIZER),
        ({"app": None, "filter": hello}, FILTER),
    ],
    ids=["responder", "authorizer", "filter"],
)
def test_roles_without_an_app_are_unknown(apps: dict[str, Any], served: int) -> None:
    with running(**apps) as server:
        client = server.connect()
        for role in (RESPONDER, AUTHORIZER, FILTER, 4):
            values = request_params("/path", more={"FCGI_DATA_LENGTH": "1"})
            streams = records.params(role, values)
            streams += b"" if role == AUTHORIZER else records.stdin(role)
            streams += records.data(role, b"x") if role == FILTER else b""
            client.send(records.begin(role, role) + streams)
            answer = client.answer(role)
            if role == served:
                assert (answer.protocol_status, answer.body) == (0, b"/path")
            else:
                assert answer.protocol_status == UNKNOWN_ROLE
                # An authorizer without a status lets everybody through.
                denied = b"Status: 500 Internal Server Error\r\n\r\n"
                assert answer.stdout == (denied if role == AUTHORIZER else b"")


def test_a_role_without_an_app_is_logged_once() -> None:
    with logged() as messages, running(hello) as server:
        for _ in range(2):
            for role in (AUTHORIZER, FILTER, 4, 5):
                client = server.connect()
                client.send(records.begin(1, role) + records.params(1))
                assert client.answer(1).protocol_status == UNKNOWN_ROLE
    lines = [line for line in messages.lines if "UNKNOWN_ROLE" in line]
    for name, line in zip(("AUTHORIZER", "FILTER", "unknown"), lines, strict=True):
        assert (
            f"a request for the role {name} was answered with UNKNOWN_ROLE, because no app" in line
        )


def test_a_server_without_any_app() -> None:
    with pytest.raises(UsageError, match="there is no app to serve"):
        Server(None)


# Authorizers.


@pytest.mark.parametrize("end_stdin", [False, True])
def test_the_environ_of_an_authorizer(end_stdin: bool) -> None:
    """It has no body, whatever the request says that it asks about (lighttpd ends STDIN, too)."""
    app = Recorder()
    with running(None, authorizer=app, max_body_bytes=10) as server:
        client = server.connect()
        answer = authorize(
            client,
            end_stdin=end_stdin,
            CONTENT_LENGTH="1000000",
            CONTENT_TYPE="text/plain",
            HTTP_COOKIE="a=b",
        )
        assert (answer.status, answer.body, answer.app_status) == (200, b"let through", 0)
        environ = app.take()
        assert environ["body"] == b""
        assert "CONTENT_LENGTH" not in environ
        assert environ["REQUEST_METHOD"] == "GET"
        assert environ["REQUEST_URI"] == "/some/path"
        assert environ["SCRIPT_NAME"] == environ["PATH_INFO"] == ""
        assert environ["HTTP_COOKIE"] == "a=b"
        assert "vsgi_fcgi.data" not in environ
        # A length that comes twice, or is none, changes nothing.
        values = [*request_params().items(), ("CONTENT_LENGTH", "5"), ("CONTENT_LENGTH", "x")]
        client.send(records.begin(2, AUTHORIZER) + records.params(2, values))
        assert client.answer(2).status == 200
        assert "CONTENT_LENGTH" not in app.take()


def test_a_denial_is_the_answer_with_its_body() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, b"not you", "403 Forbidden")

    with running(None, authorizer=app) as server:
        answer = authorize(server.connect())
        assert (answer.status, answer.body) == (403, b"not you")


def test_an_authorizer_that_fails_lets_nobody_through() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        raise RuntimeError("a secret")

    with logged() as messages, running(None, authorizer=app) as server:
        answer = authorize(server.connect())
        assert answer.status == 500
        messages.wait_for("RuntimeError: a secret")


def test_an_authorizer_that_answers_an_interim_status_lets_nobody_through() -> None:
    """lighttpd serves the file if it gets 100."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("100 Continue", [])
        return []

    with logged() as messages, running(None, authorizer=app) as server:
        assert authorize(server.connect()).status == 500
        messages.wait_for("'100 Continue'")


def test_an_authorizer_that_breaks_off_lets_nobody_through() -> None:
    """Among neighbours: the connection goes on, and an empty answer would be taken for a 200."""
    done = threading.Event()

    def slow(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        wait_in_app(environ, done)
        return respond(start_response, b"slow")

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        yield b""

    with running(slow, authorizer=app) as server:
        client = server.connect()
        client.ask(1, "/slow")
        wait_until(lambda: server.context.calls.stats.requests_in_flight)
        answer = authorize(client, 2)
        assert (answer.status, answer.app_status) == (500, 1)
        done.set()
        assert client.answer(1).body == b"slow"


def test_an_authorizer_without_a_method_is_400() -> None:
    with running(None, authorizer=hello) as server:
        client = server.connect()
        client.send(records.begin(1, AUTHORIZER) + records.params(1, {"REQUEST_URI": "/"}))
        assert client.answer(1).status == 400
        assert authorize(client, 2).status == 200


def test_a_body_for_an_authorizer_breaks_the_protocol() -> None:
    with logged() as messages, running(hello, authorizer=hello) as server:
        client = server.connect()
        sent = records.begin(1, AUTHORIZER) + records.params(1, request_params())
        client.send(sent + records.stdin(1, b"body"))
        client.read_to_end()
        messages.wait_for("STDIN")


# Filters.


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("body", [b"", b"body" * 100_000], ids=["no-body", "body"])
@pytest.mark.parametrize("size", [0, 1, 5000, 3_000_001])
def test_a_filter_reads_both(worker: str, size: int, body: bytes) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    with running(None, filter=digests, worker=worker) as server:
        answer = run_filter(server, data, body)
        expected = [digest(body), digest(data), f"{size} 1700000000"]
        assert answer.body.decode().splitlines() == expected
        # Without the params, the received bytes count.
        answer = run_filter(server, data, body, more={})
        assert answer.body.decode().splitlines() == [*expected[:2], f"{size} None"]


def test_a_filter_of_the_client() -> None:
    gevent.sleep(0)  # makes the hub of this thread, which stays
    with running(hello, filter=digests) as server, asking(uri_of(server)) as client:
        for size in (10, 2 * MIB):
            data = b"y" * size
            params = {"FCGI_DATA_LENGTH": str(size), "FCGI_DATA_LAST_MOD": "0"}
            response = client.request(
                "POST", "/x", body=b"body", data=data, params=params, role=Role.FILTER
            )
            lines = response.read().decode().splitlines()
            assert lines == [digest(b"body"), digest(data), f"{size} 0"]


@pytest.mark.parametrize("spooled", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("came", [-1, 1], ids=["fewer", "more"])
def test_a_file_of_another_length_is_refused(came: int, spooled: bool) -> None:
    """The client has no part in it, and the app does not run."""
    app = Recorder()
    memory = 1000 if spooled else MIB
    data = b"x" * 300_000

    def filter(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        app.seen.append(environ)
        return digests(environ, start_response)

    with logged() as messages, running(None, filter=filter, body_memory_bytes=memory) as server:
        client = server.connect()
        more = {"FCGI_DATA_LENGTH": str(len(data) - came)}
        client.send(whole_filter(1, data, b"body", more=more))
        answer = client.answer(1)
        assert (answer.status, answer.app_status) == (500, 0)
        assert not app.seen
        text = {
            -1: "POST /x was answered 500: 300000 bytes of its file of 300001 came",
            1: "POST /x was answered 500: more of its file came than the 299999 bytes of"
            " FCGI_DATA_LENGTH",
        }[came]
        messages.wait_for(text)
        client.send(whole_filter(2, data))
        assert client.answer(2).status == 200


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"FCGI_DATA_LENGTH": "-1"}, "FCGI_DATA_LENGTH is '-1', not a number of bytes"),
        ({"FCGI_DATA_LENGTH": "4x"}, "FCGI_DATA_LENGTH is '4x', not a number of bytes"),
        ({"FCGI_DATA_LAST_MOD": "now"}, "FCGI_DATA_LAST_MOD is 'now', not a number of seconds"),
        ({"FCGI_DATA_LAST_MOD": "-"}, "FCGI_DATA_LAST_MOD is '-', not a number of seconds"),
        ({"CONTENT_LENGTH": "x"}, "CONTENT_LENGTH is 'x', not a number of bytes"),
    ],
    ids=str,
)
def test_params_that_are_no_numbers_are_400(more: dict[str, str], reason: str) -> None:
    with logged() as messages, running(None, filter=digests) as server:
        assert run_filter(server, b"data", more=more).status == 400
        messages.wait_for(reason)


@pytest.mark.parametrize("time", ["0", "-86400", ""])
def test_times_of_files(time: str) -> None:
    with running(None, filter=digests) as server:
        more = {"FCGI_DATA_LENGTH": "", "FCGI_DATA_LAST_MOD": time}
        answer = run_filter(server, b"data", more=more)
        assert answer.body.decode().splitlines()[2] == f"4 {time}"


def test_a_body_of_a_filter_that_is_too_short_is_400() -> None:
    """Before the file has come, of which the rest is discarded."""
    with running(None, filter=digests) as server:
        client = server.connect()
        values = request_params("/x", length=10, method="POST", more={"FCGI_DATA_LENGTH": "4"})
        client.send(records.begin(1, FILTER) + records.params(1, values))
        client.send(records.stdin(1, b"short"))
        assert client.answer(1).status == 400
        client.send(records.data(1, b"data") + whole_filter(2, b"x"))
        assert client.answer(2).status == 200


def test_a_body_of_a_filter_that_is_announced_and_never_sent_is_empty() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        assert "CONTENT_LENGTH" not in environ
        return digests(environ, start_response)

    values = request_params("/x", length=10, method="POST", more={"FCGI_DATA_LENGTH": "4"})
    start = records.begin(1, FILTER) + records.params(1, values)
    with running(None, filter=app) as server:
        client = server.connect()
        client.send(start + records.stdin(1) + records.data(1, b"data"))
        assert client.answer(1).body.decode().splitlines()[:2] == [digest(b""), digest(b"data")]


@pytest.mark.parametrize("told", [True, False])
def test_a_file_over_the_limit(told: bool) -> None:
    with logged() as messages, running(None, filter=digests, max_body_bytes=1000) as server:
        for size, status in ((1000, 200), (1001, 500)):
            more = {"FCGI_DATA_LENGTH": str(size)} if told else {}
            assert run_filter(server, b"x" * size, b"y" * 1000, more=more).status == status
        messages.wait_for("its file is larger than 1000 bytes")
        # The body has a limit of its own.
        client = server.connect()
        client.send(whole_filter(1, b"x", b"y" * 1001))
        assert client.answer(1).status == 413


def test_a_file_that_is_announced_too_large_is_refused_before_it_comes() -> None:
    with running(None, filter=digests, max_body_bytes=1000) as server:
        client = server.connect()
        values = request_params("/x", method="POST", more={"FCGI_DATA_LENGTH": "1001"})
        client.send(records.begin(1, FILTER) + records.params(1, values))
        assert client.answer(1).status == 500


def test_files_beyond_the_temporary_files_are_503() -> None:
    limits: dict[str, Any] = {"body_memory_bytes": 1000, "total_spool_bytes": 500_000}
    with running(None, filter=digests, **limits) as server:
        assert run_filter(server, b"x" * 400_000).status == 200
        assert run_filter(server, b"x" * 600_000).status == 503


def test_what_is_spooled_is_gone_when_a_filter_is_given_up() -> None:
    """`running` looks whether any of it is left."""
    with running(None, filter=digests, body_memory_bytes=1000) as server:
        for closes in (False, True):
            client = server.connect()
            sent = whole_filter(1, b"x" * 600_000, b"y" * 600_000)
            client.send(sent[:-8])  # all but the end of DATA
            wait_until(lambda: server.context.services.spool.used >= 1_000_000)
            client.close() if closes else client.abort(1)
            wait_until(lambda: not server.context.services.spool.used)
            wait_until(lambda: not server.context.services.memory.used)


class SlowDisk:
    """Writes to temporary files only when the test allows it."""

    def __init__(self, server: Running) -> None:
        self._open = threading.Event()
        server.in_context(lambda: server.context.services.file_io.submit(self._open.wait))

    def go_on(self) -> None:
        self._open.set()


@pytest.mark.parametrize("size", [10, 5000], ids=["memory", "file"])
@pytest.mark.parametrize("length", [10, 5000], ids=["memory", "file"])
def test_the_app_waits_for_a_slow_disk(length: int, size: int) -> None:
    app = Recorder()

    def filter(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        app.seen.append(environ)
        return digests(environ, start_response)

    body, data = b"y" * length, b"x" * size
    with running(hello, filter=filter, body_memory_bytes=1000) as server:
        disk, client = SlowDisk(server), server.connect()
        client.send(whole_filter(1, data, body))
        if length == size == 10:
            wait_until(lambda: app.seen)
        else:
            # It has come, as a whole, when others are answered.
            wait_until(lambda: server.context.services.memory.used >= length + size)
            assert server.connect().get("/other").status == 200
            assert not app.seen
        disk.go_on()
        lines = client.answer(1).body.decode().splitlines()
        assert lines[:2] == [digest(body), digest(data)]
        assert len(app.seen) == 1


@pytest.mark.parametrize("size", [10, 5000], ids=["memory", "file"])
@pytest.mark.parametrize("length", [10, 5000], ids=["memory", "file"])
def test_given_up_before_a_slow_disk_has_done(length: int, size: int) -> None:
    """`running` looks whether each byte was given back, and once."""
    with running(hello, filter=digests, body_memory_bytes=1000) as server:
        disk, client = SlowDisk(server), server.connect()
        client.send(whole_filter(1, b"x" * size, b"y" * length)[:-8])
        wait_until(lambda: server.context.services.memory.used >= size + length)
        # Reading is paused until the disk has done, so that an ABORT_REQUEST would wait.
        server.in_context(server.connection().lose)
        disk.go_on()
        assert server.connect().get("/other").status == 200


def test_a_slow_file_is_408() -> None:
    with running(None, filter=digests, receive_timeout=0.05) as server:
        client = server.connect()
        client.send(whole_filter(1, b"x" * 100, b"body")[:-50])
        assert client.answer(1).status == 408


def test_a_full_disk_is_503() -> None:
    with tempfile.TemporaryDirectory() as folder:
        gone = Path(folder, "gone")
        gone.mkdir()
        limits: dict[str, Any] = {"body_memory_bytes": 1000, "spool_dir": str(gone)}
        with logged() as messages, running(None, filter=digests, **limits) as server:
            gone.rmdir()
            assert run_filter(server, b"x" * 2000, b"y" * 2000).status == 503
            messages.wait_for("cannot write a request body to a temporary file")


def test_many_filters_on_one_connection() -> None:
    """Their pieces interleaved, with those of responders and authorizers between them."""
    files = {id: bytes([id]) * (id * 40_000) for id in range(1, 16)}
    requests = {id: whole_filter(id, data, b"body" * 40_000) for id, data in files.items()}
    sent = {id: records.read_records(request) for id, request in requests.items()}
    with running(hello, authorizer=hello, filter=digests, body_memory_bytes=100_000) as server:
        client = server.connect()
        for turn in range(max(map(len, sent.values()))):
            for id, pieces in sent.items():
                if turn < len(pieces):
                    piece = pieces[turn]
                    client.send(records.record(piece.kind, id, piece.content))
            client.ask(turn + 100, f"/{turn}")
            assert client.answer(turn + 100).body == f"/{turn}".encode()
            assert authorize(client, turn + 200).status == 200
        for id, data in files.items():
            lines = client.answer(id).body.decode().splitlines()
            assert lines[:2] == [digest(b"body" * 40_000), digest(data)]


# Plain CGI, and the access log.


@pytest.mark.process
def test_plain_cgi_has_responders_alone() -> None:
    script = (
        "import os, sys\n"
        "from vsgi_fcgi import Server\n"
        "from vsgi_fcgi.exceptions import UsageError\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [environ['FCGI_ROLE'].encode()]\n"
        "try:\n"
        "    {run}\n"
        "except UsageError as error:\n"
        "    print(error)\n"
    )
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "FCGI_ROLE": "FILTER"}
    out = run_script(script.format(run="Server(app, authorizer=app).run()"), **environ)
    assert out.endswith("\n\nRESPONDER")
    out = run_script(script.format(run="Server(None, authorizer=app).run()"), **environ)
    assert "a CGI program needs an app" in out


def test_roles_in_the_access_log(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    format = "%(role)s %(s)s %(received)s %(run)s %(end)s %(time)s"
    settings: dict[str, Any] = {"access_log": str(log), "access_log_format": format}
    with running(hello, authorizer=hello, filter=digests, **settings) as server:
        client = server.connect()
        assert client.get("/x").status == 200
        assert authorize(client).status == 200
        client.send(whole_filter(1, b"data", b"body"))
        assert client.answer(1).status == 200
        client.send(whole_filter(1, b"data", b"body", more={"FCGI_DATA_LENGTH": "1"}))
        assert client.answer(1).status == 500
    words = [line.split() for line in log.read_text().splitlines()]
    assert [(w[0], w[1], w[2], w[4]) for w in words] == [
        ("responder", "200", "0", "complete"),
        ("authorizer", "200", "0", "complete"),
        ("filter", "200", "4", "complete"),
        ("filter", "500", "4", "refused"),
    ]
    assert [w[3].isdigit() for w in words] == [True, True, True, False]
    for moment in (datetime.fromisoformat(w[5]) for w in words):
        assert abs(datetime.now(UTC) - moment) < timedelta(seconds=30)
