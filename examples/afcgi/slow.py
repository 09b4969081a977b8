"""A WSGI app whose answers take their time.

`/?seconds=1.5` answers after so many seconds; `/figures` says what the server has seen, as JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import gevent

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer late."""
    if environ["PATH_INFO"] == "/figures":
        figures = environ["vsgi_fcgi.main_context"].figures
        text = json.dumps(
            {
                "connections_accepted": figures.connections_accepted,
                "connections_open": figures.connections_open,
                "requests_in_flight": figures.requests_in_flight,
            }
        )
    else:
        seconds = float(parse_qs(environ["QUERY_STRING"]).get("seconds", ["1"])[0])
        wait(environ, seconds)
        text = f"waited {seconds:g} s"
    body = f"{text}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def wait(environ: WSGIEnvironment, seconds: float) -> None:
    """Wait as whoever runs the app may: a thread sleeps, a greenlet lets others go on."""
    if environ["wsgi.multithread"]:
        time.sleep(seconds)
    else:
        gevent.sleep(seconds)
