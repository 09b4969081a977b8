"""Test the limits on requests of a connection and on requests that wait for a worker."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest
from support.fcgi import records
from support.fcgi.peer import whole_request
from support.server import WORKERS, respond, running, wait_in_app, wait_until

from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


class Holder:
    """Holds every request until the test releases it, and records which ones it ran."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.paths: list[str] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.paths.append(environ["PATH_INFO"])
        wait_in_app(environ, self.free)
        return respond(start_response, environ["PATH_INFO"].encode())


@pytest.mark.parametrize("worker", WORKERS)
def test_past_the_requests_of_a_connection_a_further_one_is_503(worker: str) -> None:
    app = Holder()
    with running(app, worker=worker, max_requests_per_connection=3) as server:
        client = server.connect()
        for id in (1, 2, 3, 4):
            client.ask(id, f"/{id}", b"body")
        refused = client.answer(4)
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert (refused.app_status, refused.protocol_status) == (0, 0)
        assert set(client.answers) <= {1, 2, 3}
        # Another connection has its own count.
        other = server.connect()
        other.ask(1, "/other")
        app.free.set()
        for id in (1, 2, 3):
            assert client.answer(id).body == b"/%d" % id
        assert other.answer(1).body == b"/other"
        assert client.get("/again", id=4).body == b"/again"
    assert "/4" not in app.paths


@pytest.mark.parametrize("worker", WORKERS)
def test_past_the_queue_a_further_request_is_503(worker: str) -> None:
    app = Holder()
    with running(app, worker=worker, threads=1, max_queued=2) as server:
        client = server.connect()
        client.ask(1, "/1")
        wait_until(lambda: app.paths)
        for id in (2, 3, 4, 5):
            client.ask(id, f"/{id}", b"with a body")
        for id in (4, 5):
            refused = client.answer(id)
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.protocol_status == records.REQUEST_COMPLETE
        app.free.set()
        for id in (1, 2, 3):
            assert client.answer(id).body == b"/%d" % id
        assert client.get("/again", id=4).body == b"/again"
    assert app.paths == ["/1", "/2", "/3", "/again"]


@pytest.mark.parametrize("together", [True, False])
def test_requests_for_which_there_are_idle_threads_do_not_count_as_queued(together: bool) -> None:
    """16 threads and a queue of 8 take 24 requests, however they come."""
    app = Holder()
    with running(app, threads=16, max_queued=8) as server:
        client = server.connect()
        requests = [whole_request(id, f"/{id}") for id in range(1, 26)]
        for part in [b"".join(requests)] if together else requests:
            client.send(part)
        # One is too many; no other has ended.
        client.collect_until(lambda: any(each.ended for each in client.answers.values()))
        (refused,) = (id for id, each in client.answers.items() if each.ended)
        assert client.answer(refused).status == 503
        wait_until(lambda: len(app.paths) == 16)
        app.free.set()
        for id in {*range(1, 26)} - {refused}:
            assert client.answer(id).body == b"/%d" % id


def test_a_refused_request_without_keep_conn_ends_its_connection() -> None:
    app = Holder()
    with running(app, threads=1, max_queued=1) as server:
        busy, refused = server.connect(), server.connect()
        busy.ask(1, "/1")
        wait_until(lambda: app.paths)
        busy.ask(2, "/2")
        wait_until(lambda: server.context.dispatcher.waiting == 1)
        refused.ask(1, "/3", b"body", keep_conn=False)
        assert refused.answer(1).status == 503
        refused.read_to_end(seconds=3)
        app.free.set()
        assert busy.answer(1).status == busy.answer(2).status == 200


def test_head_gets_no_body_with_its_503() -> None:
    app = Holder()
    with running(app, max_requests_per_connection=1) as server:
        client = server.connect()
        client.ask(1)
        client.ask(2, method="HEAD")
        # Its params have not even been read: it is the number of requests that is refused.
        assert client.answer(2).status == 503
        app.free.set()
        assert client.answer(1).status == 200


@pytest.mark.parametrize("worker", WORKERS)
def test_a_burst_of_requests_in_one_write_is_answered_one_by_one(worker: str) -> None:
    app = Holder()
    app.free.set()
    with running(app, worker=worker, threads=2) as server:
        client = server.connect()
        ids = range(1, 301)
        client.send(b"".join(whole_request(id, f"/{id}") for id in ids))
        for id in ids:
            assert client.answer(id).body == b"/%d" % id


def test_params_that_never_end_are_bounded_over_all_requests() -> None:
    """However many requests have begun on however many connections."""
    app = Holder()
    with running(app, total_params_bytes=1_000_000, max_params_bytes=100_000) as server:
        clients = [server.connect() for _ in range(4)]
        refused = 0
        for client in clients:
            for id in range(1, 11):
                client.send(records.begin(id) + records.params(id, b"x" * 90_000, end=False))
        for client in clients:
            client.ask(100, method="OPTIONS", more={"REQUEST_METHOD": ""})
            client.answer(100)
            refused += sum(answer.status == 503 for answer in client.answers.values())
        held = sum(connection.protocol.params_held for connection in server.context.connections)
        assert held == server.context.connections.params.used <= 1_000_000
        assert refused >= 28
        # The remaining requests continue, and refused ones can be sent again.
        clients[0].close()
        app.free.set()
        assert clients[1].get("/again", id=200).body == b"/again"
