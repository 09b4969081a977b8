"""An app whose streams and long polls are held, and which publishes what it is sent.

When the client of a stream has gone, it creates the file that the query of the request names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vsgi_fcgi.push import publish
from vsgi_fcgi.push.items import StreamPart


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    path = environ["PATH_INFO"].rpartition("/")[2]
    headers = [("Content-Type", "text/plain"), ("X-Accel-Buffering", "no")]
    if path == "stream":
        headers += [("Grip-Hold", "stream"), ("Grip-Channel", "held")]
        headers.append(("Grip-Link", f"<gone?{environ['QUERY_STRING']}>; rel=gone"))
        headers.append(("Grip-Keep-Alive", "beat; timeout=1"))
        start_response("200 OK", headers)
        return [b"begun"]
    if path == "poll":
        headers += [("Grip-Hold", "response"), ("Grip-Channel", "held")]
        start_response("200 OK", headers)
        return [b"nothing"]
    if path == "gone":
        Path(environ["QUERY_STRING"]).touch()
    elif path == "close":
        publish("held", http_stream=StreamPart(action="close"))
    elif path == "publish":
        content = environ["wsgi.input"].read()
        publish("held", http_stream=content, http_response=content)
    start_response("204 No Content", [])
    return []
