"""Test ``examples/slow-query``: the query of a client that has gone is cancelled."""

from __future__ import annotations

import pytest
from support.front_ends.servers import EXAMPLES, AppServer, Nginx
from support.http import connect, request
from support.postgresql import postgresql
from support.processes import ProcessGroup, wait_until

FOLDER = EXAMPLES / "slow-query"

ENDLESS = b"GET /?rows=1000000000000&seconds=3600 HTTP/1.1\r\nHost: x\r\n\r\n"


def test_with_sqlite(processes: ProcessGroup) -> None:
    options = ("--threads", "1", "--slow-request", "0.2")
    server = AppServer(processes, "with_sqlite:app", *options, folder=FOLDER)
    nginx = Nginx(processes, server)
    assert request(nginx.port, "/?rows=4").text == "10\n"
    with connect(nginx.port) as sock:
        sock.sendall(ENDLESS)
        # An interrupt has no effect before the query runs.
        server.process.wait_for_log("has run for")
    # The only thread is free again.
    assert request(nginx.port, "/?rows=5").text == "15\n"
    assert server.process.stop() == 0
    assert "Traceback" not in server.process.log()


def test_with_postgresql(processes: ProcessGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgresql(processes) as conninfo:
        import psycopg

        monkeypatch.setenv("DATABASE", conninfo)
        server = AppServer(processes, "with_postgresql:app", "--threads", "1", folder=FOLDER)
        nginx = Nginx(processes, server)
        assert request(nginx.port, "/?seconds=0").status == 200
        with psycopg.connect(conninfo, autocommit=True) as watching:

            def running() -> int:
                query = (
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE state = 'active' AND query LIKE '%pg_sleep%'"
                    " AND pid <> pg_backend_pid()"
                )
                row = watching.execute(query).fetchone()
                assert row is not None
                return int(row[0])

            with connect(nginx.port) as sock:
                sock.sendall(ENDLESS)
                wait_until(lambda: running() == 1, "the query to run")
            wait_until(lambda: running() == 0, "the end of the query")
        # The only thread is free again.
        assert request(nginx.port, "/?seconds=0").status == 200
        assert server.process.stop() == 0
        assert "Traceback" not in server.process.log()
