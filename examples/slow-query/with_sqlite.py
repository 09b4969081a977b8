"""Cancel a slow SQLite query when its client has gone.

Run it in this folder:

vsgi-fcgi with_sqlite:app --http 127.0.0.1:8080
curl --max-time 1 "http://127.0.0.1:8080/?rows=10000000000"
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

from vsgi_fcgi.exceptions import ClientDisconnected

QUERY = """
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
    SELECT sum(n) FROM numbers
"""


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer a sum. SQLite computes it, row by row."""
    rows = int(parse_qs(environ["QUERY_STRING"]).get("rows", ["1000"])[0])
    request = environ["vsgi_fcgi.request"]
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        try:
            # The main context calls interrupt() if the client leaves during the query.
            with request.on_disconnect(database.interrupt):
                (total,) = database.execute(QUERY, (rows,)).fetchone()
        except sqlite3.OperationalError as error:
            if request.client_disconnected():
                # The server does not log this exception.
                raise ClientDisconnected("the query was interrupted") from error
            raise
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{total}\n".encode()]
