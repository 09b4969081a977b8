"""An app that writes down what is delivered in its process, and publishes bodies.

The items of a process go to the file ``PID.items`` in the working directory. While there is a file
``full``, the queue for delivery is full. A request for ``/wait`` waits for a writer of the FIFO
``fifo``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vsgi_fcgi.push import publish
from vsgi_fcgi.push.items import Item
from vsgi_fcgi.push.publishing import PROCESS


def deliver(items: list[Item]) -> bool:
    if Path("full").exists():
        return False
    with Path(f"{os.getpid()}.items").open("a") as file:
        for item in items:
            content = "" if item.stream is None else item.stream.content.decode()
            file.write(json.dumps([item.channel, item.id, content]) + "\n")
    return True


PROCESS.open(deliver, 1 << 20)


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] == "POST":
        publish("app", http_stream=environ["wsgi.input"].read(), id=environ["QUERY_STRING"] or None)
    if environ["PATH_INFO"] == "/wait":
        Path("fifo").read_bytes()
    start_response("200 OK", [("Content-Type", "text/plain")])
    signature = environ.get("HTTP_GRIP_SIG")
    return [f"{os.getpid()} {os.environ.get('GRIP_URL')} {signature}".encode()]
