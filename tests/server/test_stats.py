"""Test the statistics of a server."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest
from support.server import WORKERS, hello, respond, running, wait_in_app, wait_until

from vsgi_fcgi import Server
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


def test_before_the_start_all_are_0() -> None:
    stats = Server(hello).stats
    assert stats.connections_accepted == 0
    assert stats.connections_open == 0
    assert stats.requests_in_flight == 0


@pytest.mark.parametrize("worker", WORKERS)
def test_the_app_and_the_embedder_see_the_same(worker: str) -> None:
    free = threading.Event()
    seen: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["vsgi_fcgi.main_context"].stats)
        wait_in_app(environ, free)
        return respond(start_response)

    with running(app, worker=worker) as server:
        stats = server.server.stats
        gone, client = server.connect(), server.connect()
        wait_until(lambda: stats.connections_open == 2)
        gone.close()
        wait_until(lambda: stats.connections_open == 1)
        for id in (1, 2, 3):
            client.ask(id)
        wait_until(lambda: stats.requests_in_flight == 3)
        free.set()
        for id in (1, 2, 3):
            assert client.answer(id).status == 200
        wait_until(lambda: stats.requests_in_flight == 0)
        assert stats.connections_accepted == 2
        assert seen[0] is stats
