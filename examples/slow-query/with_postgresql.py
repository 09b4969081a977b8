"""Cancel a slow PostgreSQL query when its client has gone.

Run it in this folder:

    DATABASE="dbname=test" vsgi-fcgi with_postgresql:app --http 127.0.0.1:8080
    curl --max-time 1 "http://127.0.0.1:8080/?seconds=60"

It needs psycopg 3.2 or later. The variable DATABASE is a connection string of PostgreSQL.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

import psycopg

from vsgi_fcgi.exceptions import ClientDisconnected

# To cancel a query, psycopg sends a message on another connection, and waits. A callback must not
# wait, so it leaves this to a thread.
CANCELLING = ThreadPoolExecutor(4)


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer the time of the database, after a query that takes some seconds."""
    seconds = float(parse_qs(environ["QUERY_STRING"]).get("seconds", ["1"])[0])
    request = environ["vsgi_fcgi.request"]
    # Closed at the end of the block. If you have a pool, close a connection whose client has gone,
    # instead of returning it: the message may arrive late, and would cancel the next query.
    with psycopg.connect(os.environ["DATABASE"]) as connection:

        def cancel() -> None:
            CANCELLING.submit(connection.cancel_safe, timeout=5)

        try:
            with request.on_disconnect(cancel):
                query = "SELECT now(), pg_sleep(%s)"
                row = connection.execute(query, (seconds,)).fetchone()
        except psycopg.errors.QueryCanceled as error:
            if request.client_disconnected():
                # The server does not log this exception.
                raise ClientDisconnected("the query was cancelled") from error
            raise
    assert row is not None
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{row[0]}\n".encode()]
