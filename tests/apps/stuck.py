"""An app whose requests for ``/stuck``, ``/sleep``, ``/call`` and ``/compute`` never end."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path.startswith("/stuck"):
        wait_for_ever()
    elif path == "/sleep":
        time.sleep(1000)
    elif path == "/call":
        ctypes.CDLL(None).sleep(1000)
    elif path == "/compute":
        compute()
    start_response("500 Broken" if path == "/broken" else "200 OK", [("Content-Length", "5")])
    return [b"hello"]


def wait_for_ever() -> None:
    lock = threading.Lock()
    lock.acquire()
    with lock:
        pass


def compute() -> None:
    number = 0
    while True:
        number += 1
