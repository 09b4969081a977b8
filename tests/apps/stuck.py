"""An app whose requests for ``/stuck`` never end."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path.startswith("/stuck"):
        wait_for_ever()
    start_response("500 Broken" if path == "/broken" else "200 OK", [("Content-Length", "5")])
    return [b"hello"]


def wait_for_ever() -> None:
    lock = threading.Lock()
    lock.acquire()
    with lock:
        pass
