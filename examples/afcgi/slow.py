"""A WSGI app with slow responses, which the server holds. No worker waits for them.

`/?seconds=1.5` answers after so many seconds; `/stats` says what the server has seen, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer after a delay."""
    if environ["PATH_INFO"] == "/stats":
        stats = environ["vsgi_fcgi.main_context"].stats
        text = json.dumps(
            {
                "connections_accepted": stats.connections_accepted,
                "connections_open": stats.connections_open,
                "requests_in_flight": stats.requests_in_flight,
            }
        )
    else:
        seconds = float(parse_qs(environ["QUERY_STRING"]).get("seconds", ["1"])[0])
        # The response is the answer at the timeout. A request that waits for something else than
        # time names a channel here, and the answer is published on it.
        environ["vsgi_fcgi.request"].hold(mode="response", timeout=seconds)
        text = f"waited {seconds:g} s"
    body = f"{text}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
