"""Test Flask and Django under ``--worker greenlet``, with requests that wait at the same time.

`live/conftest.py` runs their other tests under it.
"""

from __future__ import annotations

import contextlib
import threading

import pytest
from support.front_ends.servers import AppServer, Lighttpd, Nginx, WebServer
from support.http import Browser, connect, request
from support.postgresql import postgresql
from support.processes import ProcessGroup, wait_until

LISTENERS = 60
"""More than the default number of threads."""


@pytest.mark.parametrize("front_end", ["lighttpd", "nginx"])
def test_streams_of_events_with_flask(front_end: str, processes: ProcessGroup) -> None:
    app = "apps.events_site:app"
    web: WebServer
    if front_end == "lighttpd":
        web = Lighttpd(processes, f"--worker greenlet {app}")
    else:
        web = Nginx(processes, AppServer(processes, app, "--worker", "greenlet"))
    prefix = "" if front_end == "lighttpd" else "/unbuffered"
    with contextlib.ExitStack() as stack:
        files = []
        for _ in range(LISTENERS):
            sock = stack.enter_context(connect(web.port))
            sock.sendall(f"GET {prefix}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            files.append(stack.enter_context(sock.makefile("rb")))

        def wait_for_line(text: bytes) -> None:
            for file in files:
                while text not in (line := file.readline()):
                    assert line

        wait_for_line(b"data: welcome")
        browser = Browser(web.port, prefix)
        for text in ("first", "second"):
            assert browser.post("/publish", text=text).text == str(LISTENERS)
            wait_for_line(f"data: {text}".encode())
        assert browser.post("/publish", text="end").text == str(LISTENERS)
        wait_until(lambda: browser.get("/count").text == "0", "the end of all streams")


def test_django_waits_for_postgresql_in_all_requests_at_once(
    processes: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg uses the patched library: with one connection per request, nothing blocks."""
    with postgresql(processes) as conninfo:
        import psycopg

        monkeypatch.setenv("DATABASE", conninfo)
        server = AppServer(processes, "apps.django_postgresql:app", "--worker", "greenlet")
        nginx = Nginx(processes, server)
        answers: dict[int, object] = {}

        def ask(number: int) -> None:
            answers[number] = request(nginx.port, f"/wait?number={number}").json()

        numbers = range(40)
        threads = [threading.Thread(target=ask, args=(number,)) for number in numbers]
        with psycopg.connect(conninfo, autocommit=True) as watching:
            watching.execute("SELECT pg_advisory_lock(1)")
            for thread in threads:
                thread.start()

            def waiting() -> int:
                query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                row = watching.execute(query).fetchone()
                assert row is not None
                return int(row[0])

            wait_until(lambda: waiting() == len(numbers), "all requests in the database")
            assert answers == {}
            watching.execute("SELECT pg_advisory_unlock(1)")
            for thread in threads:
                thread.join()
        assert answers == {number: {"doubled": 2 * number} for number in numbers}
        assert server.process.stop() == 0
        assert "Traceback" not in server.process.log()
