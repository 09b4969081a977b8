"""Test ``wsgi.errors`` and broken responses, in the web server and in the log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.build import replaces_functions
from support.fcgi import records
from support.fcgi.peer import whole_request
from support.memory import no_memory
from support.server import WORKERS, logged, respond, running, wait_in_app, wait_until

from vsgi_fcgi.exceptions import ResponseError
from vsgi_fcgi.protocol import BROKEN_ANSWER
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

ERR, OUT, END = "err", "out", "end"


def writes_of(sock_sends: list[bytes]) -> list[list[str]]:
    """For each write, the records with content in it, in order."""
    writes = []
    for data in sock_sends:
        kinds, at = [], 0
        while at < len(data):
            kind, length = data[at + 1], int.from_bytes(data[at + 4 : at + 6], "big")
            if length:
                kinds.append({6: OUT, 7: ERR, 3: END}[kind])
            at += 8 + length + data[at + 6]
        writes.append(kinds)
    return writes


class Spy:
    """A socket that notes each write, made of the server's own end of a connection."""

    def __init__(self, sock: object) -> None:
        self._sock = sock
        self.sends: list[bytes] = []
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def send(self, data: bytes, *flags: int) -> int:
        return self._note(bytes(data), "send", data, *flags)

    def sendmsg(self, buffers: list[bytes], *options: object) -> int:
        return self._note(b"".join(buffers), "sendmsg", buffers, *options)

    def _note(self, data: bytes, name: str, *arguments: object) -> int:
        self.threads.add(threading.get_native_id())
        sent: int = getattr(self._sock, name)(*arguments)
        self.sends.append(data[:sent])
        return sent


def writer_app(body: bytes, text: str, *, pieces: int = 1) -> Callable[..., Iterable[bytes]]:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"].write(text)
        if pieces == 1:
            return respond(start_response, body)
        return respond(start_response, iter([body] * pieces))

    return app


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(
    ("size", "text", "pieces"),
    [
        (100, "one line\n", 1),
        (100, "one line\n", 3),
        (0, "no body at all\n", 1),
        (100, "no end of the line", 3),
        (9000, "a large answer\n", 1),
        (100, "a long report\n" * 4000, 1),
        (40_000, "a long report\n" * 4000, 2),
        (300_000, "a larger answer\n", 1),
        (300_000, "many pieces\n", 4),
    ],
)
def test_stderr_goes_ahead_of_the_answer(size: int, text: str, pieces: int, worker: str) -> None:
    """Whatever the sizes: nginx searches it for the text of its fastcgi_catch_stderr."""
    with running(writer_app(b"x" * size, text, pieces=pieces), worker=worker) as server:
        client = server.connect()
        client.ask(1)
        answer = client.answer(1)
        assert answer.order == [ERR, OUT]
        assert answer.stderr.decode() == text
        assert answer.body == b"x" * size * pieces


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(("size", "pieces"), [(100, 1), (100, 3), (9000, 1), (40_000, 5)])
def test_stderr_goes_in_a_write_with_what_comes_next(size: int, pieces: int, worker: str) -> None:
    """Some releases of HAProxy crash when a STDERR record ends a read."""
    with running(writer_app(b"x" * size, "text\n", pieces=pieces), worker=worker) as server:
        client = server.connect()
        connection = server.connection()
        spy = Spy(connection.sock)
        server.in_context(lambda: setattr(connection, "sock", spy))
        client.get()
        wait_until(lambda: any(END in write for write in writes_of(spy.sends)))
        for write in writes_of(spy.sends):
            assert ERR not in write or write[-1] != ERR
        assert len(spy.threads) == 1


def test_a_streaming_answer_has_stderr_at_its_beginning_and_at_its_end() -> None:
    seen = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, body(environ))

    def body(environ: Environ) -> Iterator[bytes]:
        environ["wsgi.errors"].write("early\n")
        yield b"first"
        environ["wsgi.errors"].write("middle\n")
        wait_in_app(environ, seen)
        environ["wsgi.errors"].write("late\n")
        yield b"second"

    with logged() as log, running(app) as server:
        client = server.connect()
        client.ask(1)
        client.collect_until(lambda: 1 in client.answers and b"first" in client.answers[1].stdout)
        assert client.answers[1].order == [ERR, OUT]
        assert client.answers[1].stderr == b"early\n"
        log.wait_for("middle")  # the log has it at once
        seen.set()
        answer = client.answer(1)
        assert answer.order == [ERR, OUT, ERR]
        assert answer.stderr == b"early\nmiddle\nlate\n"


@pytest.mark.parametrize("early", [0, 5, 50, 100])
def test_the_web_server_gets_a_bounded_part_and_the_log_all(early: int) -> None:
    line = "\u20ac" * 30 + "\n"

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        environ["wsgi.errors"].writelines([line] * early)
        write(b"fi")
        environ["wsgi.errors"].writelines([line] * (100 - early))
        return [b"ne"]

    with logged() as log, running(app, max_stderr_bytes=1000) as server:
        answer = server.connect().get()
        assert answer.body == b"fine"
        assert 990 <= len(answer.stderr) <= 1000
        assert (line * 100).startswith(answer.stderr.decode())  # and no character is split
        wait_until(lambda: log.lines.count(line.strip()) == 100)


def test_no_bytes_for_the_web_server_if_so_configured() -> None:
    with logged() as log, running(writer_app(b"fine", "text\n"), max_stderr_bytes=0) as server:
        answer = server.connect().get()
        assert (answer.body, answer.order) == (b"fine", [OUT])
        log.wait_for("text")


def test_no_text_raises() -> None:
    texts = ["", "\0", "\ud800 alone", "\U0001f40d", "no end", "%s %d\n", "x" * 100_000, "\r\n\n"]

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        errors = environ["wsgi.errors"]
        for text in texts:
            assert errors.write(text) == len(text)
        errors.writelines(texts)
        errors.flush()
        return respond(start_response, b"fine")

    with running(app) as server:
        answer = server.connect().get()
        assert answer.body == b"fine"
        answer.stderr.decode()


@pytest.mark.parametrize("worker", WORKERS)
def test_a_broken_answer_closes_a_connection_of_its_own_without_an_end(worker: str) -> None:
    with logged() as log, running(failing_app(), worker=worker) as server:
        client = server.connect()
        client.ask(1, "/fail")
        client.read_to_end()
        assert not client.answers[1].ended
        assert client.answers[1].body == b"half of"
        log.wait_for("failed in the middle of its response to GET /fail")
        log.wait_for("ZeroDivisionError")
        assert server.connect().get("/fine").body == b"fine"


@pytest.mark.parametrize("worker", WORKERS)
def test_a_broken_answer_beside_others_ends_with_a_status_and_harms_nobody(worker: str) -> None:
    with running(failing_app(), worker=worker) as server:
        client = server.connect()
        client.start(3, "/fine", length=4)  # its body is still to come: it is a neighbour
        client.ask(1, "/fail")
        answer = client.answer(1)
        assert (answer.body, answer.app_status, answer.protocol_status) == (
            b"half of",
            BROKEN_ANSWER,
            0,
        )
        client.stdin(3, b"body")
        assert client.answer(3).body == b"fine"
        assert client.get("/fine", id=1).body == b"fine"


def test_a_broken_answer_to_who_asked_for_values_keeps_the_connection() -> None:
    """The next request may be in the socket already; read or not, it is answered."""
    with running(failing_app()) as server:
        client = server.connect()
        client.send(records.get_values("FCGI_MPXS_CONNS"))
        for _ in range(20):
            client.send(whole_request(1, "/fail"))
            client.send(whole_request(2, "/fine"))
            assert client.answer(1).app_status == BROKEN_ANSWER
            assert client.answer(2).body == b"fine"


@pytest.mark.parametrize(
    ("software", "end"),
    [
        ("nginx/1.22.1", bytes(8)),
        ("Caddy/v2.6.2", bytes(8)),
        ("lighttpd/1.4.69", b""),
        ("Apache/2.4.66", b""),
    ],
)
def test_a_broken_answer_ends_as_its_web_server_notices(software: str, end: bytes) -> None:
    with running(failing_app()) as server:
        client = server.connect()
        client.send(whole_request(1, "/fail", more={"SERVER_SOFTWARE": software}))
        client.sock.settimeout(10)
        received = b"".join(iter(lambda: client.sock.recv(65536), b""))
        assert received.partition(b"half of")[2] == end


def test_a_broken_answer_behind_mod_fcgid_costs_no_process(tmp_path: Path) -> None:
    """It is known by the name of its socket, and terminates a process that just closes."""
    with running(failing_app(), bind=f"unix:{tmp_path}/4711.0") as server:
        client = server.connect()
        client.send(whole_request(1, "/fail", more={"SERVER_SOFTWARE": "Apache/2.4.66"}))
        assert client.answer(1).app_status == BROKEN_ANSWER


def test_too_short_an_answer_is_a_broken_one() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        yield b"short"

    with logged() as log, running(app) as server:
        client = server.connect()
        client.ask(1)
        client.read_to_end()
        assert not client.answers[1].ended
        log.wait_for("5 bytes less than its Content-Length of 10")


def test_too_short_an_answer_of_which_nothing_was_sent_is_a_plain_500() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        return [b"short"]

    with logged() as log, running(app) as server:
        client = server.connect()
        answer = client.get("/less")
        assert (answer.status, answer.app_status) == (500, 1)
        log.wait_for("5 bytes less than its Content-Length of 10")
        assert client.get("/again").status == 500  # the connection is kept


@replaces_functions
def test_a_bug_of_the_server_before_the_first_byte_is_a_plain_500(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with logged() as log, running(failing_app()) as server:
        client = server.connect()
        with monkeypatch.context() as patch:
            patch.setattr("vsgi_fcgi.server.workers.base.make_environ", broken)
            assert client.get("/fine").status == 500
        log.wait_for("a bug in the server")
        assert client.get("/fine").body == b"fine"


def test_a_failure_before_the_first_byte_is_a_plain_500() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        raise RuntimeError("secret")

    with logged() as log, running(app) as server:
        client = server.connect()
        answer = client.get("/oops")
        assert (answer.status, answer.app_status) == (500, 1)
        assert b"secret" not in answer.stdout + answer.stderr
        log.wait_for("RuntimeError: secret")
        assert client.get("/again").status == 500  # the connection is kept


def test_a_failure_that_cannot_be_logged_is_a_plain_500() -> None:
    """To format a traceback may take more memory than there is."""

    class NotLogged(Exception):
        @property
        def __cause__(self) -> BaseException | None:  # type: ignore[override]
            raise MemoryError

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fine":
            return respond(start_response, b"fine")
        raise NotLogged

    with running(app) as server:
        client = server.connect()
        assert client.get("/oops").status == 500
        assert client.get("/fine").body == b"fine"


@pytest.mark.parametrize("worker", WORKERS)
def test_what_is_written_after_the_end_is_refused_and_holds_no_memory(worker: str) -> None:
    """An app may keep the callable that start_response has returned."""
    kept: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/late":
            with pytest.raises(ResponseError, match="after the end"):
                kept[0](bytes(1000))
        kept.append(start_response("200 OK", [("Content-Type", "text/plain")]))
        return [b"fine"]

    with running(app, worker=worker) as server:
        client = server.connect()
        assert client.get("/first").body == b"fine"
        assert client.get("/late").body == b"fine"
        wait_until(lambda: not server.context.services.memory.used)


@replaces_functions
def test_an_answer_whose_end_cannot_be_kept_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # Too large for one piece, but small enough to be joined to one.
        start_response("200 OK", [("X-Large", "x" * 9000)])
        return [b"x" * 131_000]

    with logged() as log, running(app) as server:
        with monkeypatch.context() as patch:
            patch.setattr("vsgi_fcgi.server.response_buffer.ResponseBuffer.write", no_memory)
            client = server.connect()
            client.ask(1)
            client.read_to_end()
        log.wait_for("MemoryError")
        assert len(server.connect().get().body) == 131_000


def failing_app() -> Callable[..., Iterable[bytes]]:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fine":
            return respond(start_response, b"fine")
        return respond(start_response, body())

    def body() -> Iterator[bytes]:
        yield b"half of"
        raise ZeroDivisionError

    return app


@pytest.mark.parametrize(
    ("software", "gets"),
    [
        ("HAProxy 2.6.12-1+deb12u4", False),
        ("HAProxy 2.6.13", False),
        ("HAProxy 2.7.10", False),
        ("HAProxy 2.6.14", True),
        ("HAProxy 2.8.0", True),
        ("HAProxy 3.0.11-1", True),
        ("nginx/1.22.1", True),
    ],
)
def test_a_haproxy_that_dies_of_stderr_gets_none(software: str, gets: bool) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"].write("a complaint\n")
        return respond(start_response)

    with running(app) as server:
        client = server.connect()
        client.ask(1, more={"SERVER_SOFTWARE": software})
        assert bytes(client.answer(1).stderr) == (b"a complaint\n" if gets else b"")


def test_neither_log_gets_control_characters() -> None:
    with logged() as log, running(writer_app(b"body", "\x1b[31mred\n\ttwo\x9b\n")) as server:
        answer = server.connect().get("/")
        # nginx writes what it gets to its own log as it is.
        assert bytes(answer.stderr) == b"\\x1b[31mred\n\ttwo\\x9b\n"
        log.wait_for("\\x1b[31mred\n\ttwo\\x9b")
