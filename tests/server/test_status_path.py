"""Test ``--status-path``: the status over FastCGI."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable

import pytest
from support.memory import no_memory
from support.server import hello, logged, respond, running, wait_until

from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


def test_the_status_comes_over_fastcgi_while_all_threads_are_stuck() -> None:
    free = threading.Event()
    paths: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        paths.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/stuck":
            assert free.wait(20)
        return respond(start_response, b"app")

    settings = {"status_path": "/_status", "status_allow": ("192.0.2.7",)}
    with running(app, threads=1, **settings) as server:  # type: ignore[arg-type]
        client = server.connect()
        client.ask(1, "/stuck")
        wait_until(lambda: paths)

        def status_of(address: str, path: str = "/_status/json") -> int:
            client.ask(2, path, more={"REMOTE_ADDR": address})
            return client.answer(2).status

        client.ask(2, "/_status/json?x", more={"REMOTE_ADDR": "127.0.0.1"})
        report = json.loads(client.answer(2).body)
        assert [each["target"] for each in report["requests"]] == ["/stuck"]
        assert status_of("::1", "/_status") == 200
        assert status_of("192.0.2.7") == 200
        assert status_of("192.0.2.8") == 403
        assert status_of("") == 403
        free.set()
        assert client.answer(1).body == b"app"
        # Other paths are the app's.
        assert client.get("/_statuses").body == b"app"
    assert paths == ["/stuck", "/_statuses"]


def test_a_page_that_cannot_be_made_does_not_keep_others_from_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = {"REQUEST_URI": "/status", "REMOTE_ADDR": "127.0.0.1"}
    with running(hello, status_path="/status") as server, logged() as log:
        client = server.connect()
        with monkeypatch.context() as patch:
            patch.setattr("vsgi_fcgi.status.app.make_report", no_memory)
            client.ask(1, "/status", more=params)
            assert client.answer(1).status == 500
        client.ask(1, "/status", more=params)
        assert client.answer(1).status == 200
        log.wait_for("a page of the status cannot be made")
