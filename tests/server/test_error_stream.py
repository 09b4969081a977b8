"""``wsgi.errors`` and broken answers: what the web server and the log get to see of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import pytest
from support.server import WORKERS, logged, respond, running, wait_in_app, wait_until

from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.runner import StartResponse

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

    def send(self, data: bytes) -> int:
        return self._note(bytes(data), "send", data)

    def sendmsg(self, buffers: list[bytes]) -> int:
        return self._note(b"".join(buffers), "sendmsg", buffers)

    def _note(self, data: bytes, name: str, argument: object) -> int:
        self.threads.add(threading.get_native_id())
        sent: int = getattr(self._sock, name)(argument)
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
    ("size", "text", "pieces", "order"),
    [
        (100, "one line\n", 1, [ERR, OUT]),
        (100, "one line\n", 3, [ERR, OUT]),
        (0, "no body at all\n", 1, [ERR, OUT]),
        (9000, "a large answer\n", 1, [OUT, ERR]),
        (100, "a long report\n" * 1000, 1, [OUT, ERR]),
        (300_000, "a larger answer\n", 1, [OUT, ERR]),
        (300_000, "many pieces\n", 4, [OUT, ERR]),
    ],
)
def test_stderr_goes_with_the_end_ahead_of_a_small_answer_else_behind_it(
    size: int, text: str, pieces: int, order: list[str], worker: str
) -> None:
    with running(writer_app(b"x" * size, text, pieces=pieces), worker=worker) as server:
        client = server.connect()
        client.ask(1)
        answer = client.answer(1)
        assert answer.order == order
        assert answer.stderr.decode() == text
        assert answer.body == b"x" * size * pieces


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(("size", "pieces"), [(100, 1), (100, 3), (9000, 1), (40_000, 5)])
def test_stderr_is_always_in_the_write_that_carries_the_end(
    size: int, pieces: int, worker: str
) -> None:
    """A web server in wide use dies of a STDERR record that ends a read."""
    with running(writer_app(b"x" * size, "text\n", pieces=pieces), worker=worker) as server:
        client = server.connect()
        channel = server.channel()
        spy = Spy(channel.sock)
        server.in_context(lambda: setattr(channel, "sock", spy))
        client.get()
        wait_until(lambda: any(END in write for write in writes_of(spy.sends)))
        for write in writes_of(spy.sends):
            assert ERR not in write or write[-1] == END
        assert len(spy.threads) == 1


def test_a_streaming_answer_has_its_stderr_at_the_end() -> None:
    seen = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, body(environ))

    def body(environ: Environ) -> Iterator[bytes]:
        environ["wsgi.errors"].write("early\n")
        yield b"first"
        wait_in_app(environ, seen)
        environ["wsgi.errors"].write("late\n")
        yield b"second"

    with logged() as log, running(app) as server:
        client = server.connect()
        client.ask(1)
        client.collect_until(lambda: 1 in client.answers and b"first" in client.answers[1].stdout)
        assert client.answers[1].order == [OUT]
        log.wait_for("early")  # the log has it at once
        seen.set()
        answer = client.answer(1)
        assert answer.order == [OUT, ERR]
        assert answer.stderr == b"early\nlate\n"


def test_the_web_server_gets_a_bounded_part_and_the_log_all() -> None:
    line = "\u20ac" * 30 + "\n"

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        for _ in range(100):
            environ["wsgi.errors"].write(line)
        return respond(start_response, b"fine")

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
        log.wait_for("failed in the middle of its answer to GET /fail")
        assert log.has("ZeroDivisionError")
        assert server.connect().get("/fine").body == b"fine"


@pytest.mark.parametrize("worker", WORKERS)
def test_a_broken_answer_beside_others_ends_with_a_status_and_harms_nobody(worker: str) -> None:
    with running(failing_app(), worker=worker) as server:
        client = server.connect()
        client.start(3, "/fine", length=4)  # its body is still to come: it is a neighbour
        client.ask(1, "/fail")
        answer = client.answer(1)
        assert (answer.body, answer.app_status, answer.protocol_status) == (b"half of", 1, 0)
        client.stdin(3, b"body")
        assert client.answer(3).body == b"fine"
        assert client.get("/fine", id=1).body == b"fine"


def test_too_short_an_answer_is_a_broken_one() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        return [b"short"]

    with logged() as log, running(app) as server:
        client = server.connect()
        client.ask(1)
        client.read_to_end()
        assert not client.answers[1].ended
        log.wait_for("5 bytes less than its Content-Length of 10")


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


def test_an_answer_whose_end_cannot_be_kept_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # Too large for one piece, but small enough to be joined to one.
        head = len("Status: 200 OK\r\n\r\n")
        start_response("200 OK", [])
        return [b"x" * (65_532 - head)]

    with logged() as log, running(app) as server:
        with monkeypatch.context() as patch:
            patch.setattr("vsgi_fcgi.server.output.Output.write", no_memory)
            client = server.connect()
            client.ask(1)
            client.read_to_end()
        log.wait_for("MemoryError")
        assert len(server.connect().get().body) > 65_000


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
