"""Test the limits of one request, params and body, and the answers at the limits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.build import replaces_functions
from support.fcgi import records
from support.fcgi.peer import request_params
from support.memory import no_memory
from support.server import (
    WORKERS,
    Running,
    echo,
    exchange_of,
    hello,
    logged,
    respond,
    running,
    wait_until,
)

from vsgi_fcgi.protocol import Request
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

KIB = 1024


class Recorder:
    """An app that notes what it was called with, and answers with the body's checksum."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.paths.append(environ["PATH_INFO"])
        digest = hashlib.sha256()
        size = 0
        while piece := environ["wsgi.input"].read(50_000):
            digest.update(piece)
            size += len(piece)
        text = f"{size} {environ.get('CONTENT_LENGTH')} {digest.hexdigest()}"
        return respond(start_response, text.encode())


def pieces_of(request: Request) -> list[Buffer]:
    body = exchange_of(request).body
    assert body is not None
    # In how many pieces a body is held shows in memory only.
    return body._pieces


def assert_lives_on(server: Running) -> None:
    assert server.connect().get("/next").body == b"/next"


# Params.


def test_params_up_to_the_limit_pass_and_one_byte_more_is_431() -> None:
    fixed = len(records.pairs(request_params("/x", more={"HTTP_LONG": "y" * 200})))
    limit = 2048
    with running(hello, max_params_bytes=limit) as server:
        client = server.connect()
        for extra, status in ((0, 200), (1, 431)):
            value = "y" * (200 + limit - fixed + extra)
            client.ask(1, "/x", more={"HTTP_LONG": value})
            assert client.answer(1).status == status
        # The connection goes on, as it would for the neighbours.
        assert client.get("/after").body == b"/after"


def test_too_many_params_are_431() -> None:
    fixed = len(request_params())
    with running(hello, max_params_count=fixed + 20) as server:
        client = server.connect()
        for count, status in ((20, 200), (21, 431)):
            client.ask(1, more={f"HTTP_{n}": "" for n in range(count)})
            assert client.answer(1).status == status


def test_a_long_params_stream_is_answered_before_its_end() -> None:
    with running(hello, max_params_bytes=1024) as server:
        client = server.connect()
        client.send(records.begin(1) + records.params(1, b"x" * 5000, end=False))
        assert client.answer(1).status == 431


def test_a_length_past_the_end_of_the_params_is_400() -> None:
    with running(hello) as server:
        client = server.connect()
        client.send(records.begin(1) + records.params(1, b"\x7f\x7fname") + records.stdin(1))
        assert client.answer(1).status == 400


@pytest.mark.parametrize(
    "more",
    [
        {"REQUEST_METHOD": ""},
        {"CONTENT_LENGTH": "-2"},
        {"CONTENT_LENGTH": "1e3"},
        {"CONTENT_LENGTH": "\u00b2"},
        {"CONTENT_LENGTH": "9" * 5000},
    ],
)
def test_params_that_make_no_request_are_400_and_reach_no_app(more: dict[str, str]) -> None:
    app = Recorder()
    with running(app) as server:
        client = server.connect()
        client.ask(1, "/bad", more=more)
        assert client.answer(1).status == 400
        client.get("/good")
    assert app.paths == ["/good"]


# Bodies.


def test_a_body_too_large_by_its_content_length_is_413_before_it_comes() -> None:
    app = Recorder()
    with running(app, max_body_bytes=1000) as server:
        client = server.connect()
        client.start(1, length=1001)
        assert client.answer(1).status == 413
        client.get("/exact", b"x" * 1000)
    assert app.paths == ["/exact"]


def test_a_body_without_content_length_is_413_when_it_grows_too_large() -> None:
    app = Recorder()
    with running(app, max_body_bytes=1000) as server:
        client = server.connect()
        client.start(1, "/grows")
        client.stdin(1, b"x" * 1000, end=False)
        client.stdin(1, b"x", end=False)
        assert client.answer(1).status == 413
        client.start(2, "/exact")
        client.stdin(2, b"x" * 1000)
        assert client.answer(2).body.startswith(b"1000 1000 ")
    assert app.paths == ["/exact"]


def test_a_body_that_ends_early_is_400_and_reaches_no_app() -> None:
    app = Recorder()
    with running(app) as server:
        client = server.connect()
        client.start(1, length=10)
        client.stdin(1, b"x" * 9)
        assert client.answer(1).status == 400
    assert app.paths == []


@pytest.mark.parametrize("software", ["nginx/1.22.1", "Caddy/v2.6.2", ""])
def test_a_body_that_is_announced_and_never_sent_is_empty(software: str) -> None:
    """nginx does this for auth_request and mirror, Caddy for forward_auth."""
    seen: list[tuple[object, bytes, str]] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        seen.append((environ.get("CONTENT_LENGTH"), body, environ["CONTENT_TYPE"]))
        return respond(start_response, b"here")

    more = {"SERVER_SOFTWARE": software, "CONTENT_LENGTH": "5", "CONTENT_TYPE": "a/b"}
    with logged() as messages, running(app) as server:
        client = server.connect()
        for id in (1, 2):
            params = request_params("/auth", method="POST", more=more)
            client.send(records.request(id, params, b""))
            assert client.answer(id).body == b"here"
        # The message about another web server comes after the one about this one.
        more["SERVER_SOFTWARE"] = "another/1"
        client.send(records.request(3, request_params("/other", more=more), b""))
        assert client.answer(3).body == b"here"
        messages.wait_for("GET /other: CONTENT_LENGTH is 5, and no body was sent")
    assert seen == [(None, b"", "a/b")] * 3
    text = "POST /auth: CONTENT_LENGTH is 5, and no body was sent"
    assert sum(text in line for line in messages.lines) == 1


@pytest.mark.parametrize("keep_conn", [False, True])
def test_a_request_with_upgrade_need_not_end_an_empty_body(keep_conn: bool) -> None:
    """lighttpd does not end it where ``"upgrade" => "enable"`` is configured."""
    app = Recorder()
    more = {"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "upgrade", "CONTENT_LENGTH": "0"}
    params = records.pairs(request_params("/socket", more=more))
    with running(app) as server:
        client = server.connect()
        client.send(records.begin(1, keep_conn=keep_conn) + records.params(1, params))
        answer = client.answer(1)
        assert (answer.status, answer.body[:2]) == (200, b"0 ")
        # Nothing of it gets into the next request of the connection.
        if keep_conn:
            client.send(records.stdin(1, b"late"))
            client.ask(1, "/next")
            assert client.answer(1).status == 200
    assert app.paths == ["/socket", "/next"][: 1 + keep_conn]


def test_a_client_that_leaves_before_its_body_reaches_no_app() -> None:
    """STDIN has not ended."""
    app = Recorder()
    with running(app) as server:
        client = server.connect()
        client.start(1, "/left", length=10)
        client.close()
        other = server.connect()
        other.start(1, "/aborted", length=10)
        other.send(records.abort(1))
        other.ask(2, "/next")
        assert other.answer(2).status == 200
        server.leave()
    assert app.paths == ["/next"]


@pytest.mark.parametrize(
    ("software", "length", "waits"),
    [
        ("HAProxy 2.6.12-1+deb12u4", "0", False),
        ("HAProxy 2.6.12-1+deb12u4", "1", True),
        ("HAProxy 2.6.12-1+deb12u4", "", True),
        ("nginx/1.22.1", "0", True),
    ],
)
def test_haproxy_need_not_end_an_empty_body(software: str, length: str, waits: bool) -> None:
    """It forgets to, for an empty body in chunks (its issue 2499)."""
    app = Recorder()
    more = {"SERVER_SOFTWARE": software, "CONTENT_LENGTH": length}
    with running(app) as server:
        client = server.connect()
        for id, path in ((1, "/first"), (3, "/second")):
            params = records.pairs(request_params(path, more=more))
            client.send(records.begin(id) + records.params(id, params))
            # Whatever comes before it, the next request of the connection is answered.
            client.ask(id + 10, "/other")
            first = client.answer(id + 10 if waits else id)
            assert (first.status, first.body[:2]) == (200, b"0 ")
            if waits:
                assert path not in app.paths
                client.send(records.stdin(id, b"x" if length == "1" else b""))
                client.answer(id)
            else:
                client.answer(id + 10)
                # A later end is as good as none.
                client.send(records.stdin(id))
            assert path in app.paths
        # Here the end, or a body that is too long, comes in one piece with the params.
        for body in (b"", b"x"):
            client.send(records.request(5, request_params("/whole", more=more), body))
            answer = client.answer(5)
            size = len(body) if length != "0" else 0
            assert answer.body.startswith(f"{size} ".encode())


@pytest.mark.parametrize("length", [0, 7])
def test_a_body_longer_than_content_length_is_cut(length: int) -> None:
    with running(echo) as server:
        client = server.connect()
        client.start(1, length=length)
        client.stdin(1, b"0123456789" * 10)
        assert client.answer(1).body == b"0123456"[:length]


def test_what_exceeds_content_length_is_not_kept() -> None:
    """However much comes, in however many records, before STDIN ends."""
    with running(echo) as server:
        client = server.connect()
        client.start(1, length=1)
        client.stdin(1, b"x", end=False)
        surplus = b"".join(records.stdin(1, b"y" * 30_000, end=False) for _ in range(50))
        for _ in range(10):
            client.send(surplus)
        client.ask(2)  # answered when all before it was received
        client.answer(2)
        bodies: list[int] = []

        def look() -> None:
            connection = server.connection()
            (request,) = connection.protocol.requests.values()
            pieces = pieces_of(request)
            bodies.append(sum(map(len, pieces)))
            bodies.append(len(pieces))

        server.in_context(look)
        assert bodies == [1, 1]
        client.stdin(1)
        assert client.answer(1).body == b"x"


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_small_records_take_about_as_much_memory_as_they_count(piece: int) -> None:
    with running(echo) as server:
        client = server.connect()
        client.start(1)
        sent = bytes(range(256)) * 8
        client.send(records.stdin(1, sent, size=piece, end=False))
        client.get(id=2)
        counts: list[int] = []

        def look() -> None:
            connection = server.connection()
            (request,) = connection.protocol.requests.values()
            counts.append(len(pieces_of(request)))

        server.in_context(look)
        assert counts[0] <= 4
        client.stdin(1)
        assert client.answer(1).body == sent


# Bodies of an announced length.


def test_an_announced_length_reserves_memory_once_a_quarter_has_come() -> None:
    size = 1024 * KIB
    body = hashlib.shake_128(b"announced").digest(size)
    with running(Recorder()) as server:
        memory = server.context.services.memory
        client = server.connect()
        client.start(1, length=size, method="POST")
        client.stdin(1, body[:100_000], end=False)
        wait_until(lambda: memory.used >= 100_000)
        assert memory.used == 100_000
        client.stdin(1, body[100_000:300_000], end=False)
        wait_until(lambda: memory.used > 300_000)
        assert memory.used == size
        client.stdin(1, body[300_000:])
        expected = f"{size} {size} {hashlib.sha256(body).hexdigest()}"
        assert client.answer(1).body.decode() == expected
        wait_until(lambda: memory.used == 0)


@pytest.mark.parametrize("sent", [10_000, 100_000, 400_000])
def test_an_aborted_body_returns_its_memory(sent: int) -> None:
    with running(hello) as server:
        memory = server.context.services.memory
        client = server.connect()
        client.start(1, length=500_000, method="POST")
        client.send(records.stdin(1, bytes(sent), size=20_000, end=False))
        wait_until(lambda: memory.used >= sent)
        client.send(records.abort(1))
        wait_until(lambda: memory.used == 0)
        assert_lives_on(server)


def test_what_exceeds_an_announced_length_is_dropped() -> None:
    body = hashlib.shake_128(b"excess").digest(300_000)
    with running(Recorder()) as server:
        client = server.connect()
        client.start(1, length=200_000, method="POST")
        client.stdin(1, body)
        expected = f"200000 200000 {hashlib.sha256(body[:200_000]).hexdigest()}"
        assert client.answer(1).body.decode() == expected


@pytest.mark.parametrize("size", [100, 3000, 65535])
def test_an_announced_body_arrives_byte_for_byte_in_records_of_any_size(size: int) -> None:
    body = hashlib.shake_128(b"records").digest(700_001)
    with running(Recorder()) as server:
        for id in (1, 2):
            client = server.connect()
            client.start(id, length=len(body), method="POST")
            client.send(records.stdin(id, body, size=size))
            expected = f"{len(body)} {len(body)} {hashlib.sha256(body).hexdigest()}"
            assert client.answer(id).body.decode() == expected


def test_a_body_leaves_its_buffer_for_a_file_when_memory_is_used_up() -> None:
    body = hashlib.shake_128(b"leaves").digest(300_000)
    with running(Recorder(), total_memory_bytes=350_000) as server:
        services = server.context.services
        first, second = server.connect(), server.connect()
        first.start(1, length=len(body), method="POST")
        first.stdin(1, body[:200_000], end=False)
        wait_until(lambda: services.memory.used == len(body))
        second.start(1, length=len(body), method="POST")
        second.stdin(1, body[:60_000], end=False)
        wait_until(lambda: services.spool.used == 60_000)
        # The quota has room for the first body, but not for a further byte of another one.
        services.memory.charge(60_000)
        first.stdin(1, body[200_000:], end=False)
        wait_until(lambda: services.spool.used >= 300_000)
        for client, sent in ((first, 300_000), (second, 60_000)):
            client.stdin(1, body[sent:])
            expected = f"300000 300000 {hashlib.sha256(body).hexdigest()}"
            assert client.answer(1).body.decode() == expected
        wait_until(lambda: services.memory.used == 60_000)
        services.memory.release(60_000)


# Temporary files.


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [64 * KIB, 64 * KIB + 1, 3_000_001])
def test_bodies_past_the_threshold_arrive_byte_for_byte(
    size: int, chunked: bool, worker: str
) -> None:
    body = hashlib.shake_128(b"body").digest(size)
    with running(Recorder(), worker=worker, body_memory_bytes=64 * KIB) as server:
        client = server.connect()
        client.start(1, length=None if chunked else size, method="POST")
        client.stdin(1, body)
        expected = f"{size} {size} {hashlib.sha256(body).hexdigest()}"
        assert client.answer(1).body.decode() == expected


def test_a_large_body_leaves_memory_for_a_file() -> None:
    with running(echo, body_memory_bytes=64 * KIB) as server:
        client = server.connect()
        client.start(1, length=1_000_000)
        client.stdin(1, b"x" * 999_999, end=False)
        wait_until(lambda: server.context.services.spool.used > 600_000)
        assert server.context.services.memory.used < 400_000
        client.stdin(1, b"y")
        assert client.answer(1).body == b"x" * 999_999 + b"y"


def test_several_bodies_on_one_connection_are_spooled_at_the_same_time() -> None:
    bodies = {id: hashlib.shake_128(bytes([id])).digest(300_000) for id in range(1, 9)}
    with running(echo, body_memory_bytes=10_000) as server:
        client = server.connect()
        for id in bodies:
            client.start(id, length=300_000)
        for at in range(0, 300_000, 30_000):
            for id, body in bodies.items():
                client.stdin(id, body[at : at + 30_000], end=False)
        for id in bodies:
            client.stdin(id)
        for id, body in bodies.items():
            assert client.answer(id).body == body


def test_memory_for_all_bodies_is_bounded_the_rest_goes_to_files() -> None:
    limit = 128 * KIB
    with running(echo, total_memory_bytes=limit, body_memory_bytes=100 * KIB) as server:
        clients = [server.connect() for _ in range(10)]
        bodies = [bytes([n]) * 60_000 for n in range(10)]
        for client, body in zip(clients, bodies, strict=True):
            client.start(1, length=len(body))
            client.stdin(1, body, end=False)
        wait_until(
            lambda: (
                server.context.services.spool.used + server.context.services.memory.used >= 600_000
            )
        )
        wait_until(lambda: server.context.services.memory.used <= limit + 65536)
        for client, body in zip(clients, bodies, strict=True):
            client.stdin(1)
            assert client.answer(1).body == body


def test_a_body_that_no_temporary_file_may_take_is_503() -> None:
    app = Recorder()
    with running(app, body_memory_bytes=1000, total_spool_bytes=100_000) as server:
        held, refused = server.connect(), server.connect()
        held.start(1, "/held", length=90_001)
        held.stdin(1, b"x" * 90_000, end=False)
        wait_until(lambda: server.context.services.spool.used >= 1000)
        refused.start(1, "/refused", length=90_000)
        refused.stdin(1, b"y" * 90_000, end=False)
        answer = refused.answer(1)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        held.stdin(1, b"x")
        assert held.answer(1).status == 200
    assert app.paths == ["/held"]


def test_a_folder_that_takes_no_files_is_503_for_large_bodies_alone(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with running(echo, body_memory_bytes=1000, spool_dir=str(folder)) as server:
        folder.rmdir()
        client = server.connect()
        for _ in range(2):
            client.start(1, length=100_000)
            client.stdin(1, b"x" * 50_000, end=False)
            assert client.answer(1).status == 503
            client.stdin(1, b"x" * 50_000)  # ignored: the request has ended
            assert client.get("/", b"small").body == b"small"


def test_an_unexpected_failure_of_the_disk_is_503_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only OSError: the disk's thread must survive whatever a task raises."""

    with running(echo, body_memory_bytes=1000) as server:
        client = server.connect()
        with monkeypatch.context() as patch:
            patch.setattr("vsgi_fcgi.server.body.tempfile.TemporaryFile", no_memory)
            client.start(1, length=100_000)
            client.stdin(1, b"x" * 50_000, end=False)
            assert client.answer(1).status == 503
        assert client.get("/", b"z" * 100_000, id=2).body == b"z" * 100_000


@replaces_functions
def test_a_body_for_which_there_is_no_memory_is_503_and_costs_no_other_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(echo) as server:
        client = server.connect()
        client.start(2, length=3)
        with monkeypatch.context() as patch:
            patch.setattr("vsgi_fcgi.server.body.BytesIO", no_memory)
            client.start(1, length=100_000)
            client.stdin(1, b"x" * 30_000, end=False)
            client.stdin(1, b"x" * 30_000, end=False)
            assert client.answer(1).status == 503
        client.stdin(1, b"x" * 40_000)  # ignored: the request has ended
        client.stdin(2, b"abc")
        assert client.answer(2).body == b"abc"


# Early answers.


def test_after_an_early_answer_the_rest_is_discarded_before_the_connection_closes() -> None:
    with running(hello, max_body_bytes=1000) as server:
        client = server.connect()
        client.start(1, length=3_000_000, keep_conn=False)
        assert client.answer(1).status == 413
        # Were the connection closed by now, this would fail, or lose the answer to a reset.
        client.stdin(1, b"x" * 3_000_000)
        client.read_to_end(seconds=3)


def test_the_wait_for_the_rest_is_bounded() -> None:
    with running(hello, max_body_bytes=1000, linger_timeout=0.1) as server:
        client = server.connect()
        client.start(1, length=3_000_000, keep_conn=False)
        assert client.answer(1).status == 413
        client.read_to_end()


def test_the_wait_for_the_rest_is_bounded_even_if_it_keeps_coming() -> None:
    with running(hello, max_body_bytes=1000, linger_timeout=0.1) as server:
        client = server.connect()
        client.start(1, length=3_000_000, keep_conn=False)
        with pytest.raises(ConnectionError):
            client.flood(records.stdin(1, b"x" * 10_000, end=False))


def test_neighbours_of_an_early_answer_live_on() -> None:
    with running(echo, max_body_bytes=1000, linger_timeout=0.1) as server:
        client = server.connect()
        client.start(1, length=10, keep_conn=False)
        client.stdin(1, b"01234", end=False)
        client.start(2, length=3_000_000, keep_conn=False)
        assert client.answer(2).status == 413
        client.stdin(2, b"x" * 200_000, end=False)
        client.stdin(1, b"56789")
        assert client.answer(1).body == b"0123456789"
        client.read_to_end()
