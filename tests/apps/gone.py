"""A WSGI app that waits until its client has gone, and notes in a file when it learned of it.

The query names the file: ``report``. ``/silent`` sends nothing before. ``/begun`` sends a piece of
its response, and then waits. ``/beats`` sends a heartbeat every 100 ms. All of them end when the
test makes the file ``stop`` in the same folder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HEADERS = [("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no")]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer when the client has gone."""
    report = Path(parse_qs(environ["QUERY_STRING"])["report"][0])
    gone = threading.Event()

    def note() -> None:
        written = report.with_suffix(".new")
        written.write_text(repr(time.monotonic()))
        written.rename(report.with_suffix(".gone"))
        gone.set()

    environ["vsgi_fcgi.request"].on_disconnect(note)
    stop = report.with_name("stop")
    kind = environ["PATH_INFO"].rpartition("/")[2]
    if kind == "silent":
        report.with_suffix(".begun").touch()
        while not gone.wait(0.1) and not stop.exists():
            pass
    start_response("200 OK", HEADERS)
    return stream(gone, report, beats=kind == "beats")


def stream(gone: threading.Event, report: Path, *, beats: bool) -> Iterator[bytes]:
    """Send one heartbeat or many, until the client has gone."""
    stop = report.with_name("stop")
    try:
        yield b": beat\n\n"
        report.with_suffix(".begun").touch()
        while not gone.wait(0.1) and not stop.exists():
            if beats:
                yield b": beat\n\n"
    finally:
        report.with_suffix(".closed").touch()
