"""An app with a stream of news that loses nothing: it knows all items, from the file ``NEWS``.

Each line of the file is an identifier, which counts from 1. A client that comes back names the last
one that it has got, and so does the server when it has missed one. The header ``X-Host`` is the
variable ``HOST``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vsgi_fcgi.push import publish


def event(id: int) -> str:
    return f"id: {id}\ndata: item {id}\n\n"


def known() -> int:
    """The last item."""
    return Path(os.environ["NEWS"]).read_text().count("\n")


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    query = environ["QUERY_STRING"]
    if environ["PATH_INFO"] == "/publish":
        publish("news", http_stream=event(int(query)), id=query, prev_id=str(int(query) - 1))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [os.environ.get("GRIP_URL", "").encode()]
    after = int(environ.get("HTTP_LAST_EVENT_ID") or 0)
    if query == "more":
        after = int(environ["HTTP_GRIP_LAST"].partition("last-id=")[2])
    last = known()
    start_response(
        "200 OK",
        [
            ("Content-Type", "text/event-stream"),
            ("X-Accel-Buffering", "no"),
            ("X-Host", os.environ.get("HOST", "")),
            ("Grip-Hold", "stream"),
            ("Grip-Channel", f"news; prev-id={last}"),
            ("Grip-Link", "</stream?more>; rel=next; timeout=3600"),
            ("Grip-Keep-Alive", ":\\n\\n; format=cstring; timeout=5"),
        ],
    )
    return ["".join(event(id) for id in range(after + 1, last + 1)).encode() or b":\n\n"]
