"""A WSGI app that sends without end, and notes in the file of the query that it has cleaned up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Send a piece every 10 ms."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        while True:
            yield b"x"
            time.sleep(0.01)
    finally:
        Path(environ["QUERY_STRING"]).touch()
