"""App for ``--worker greenlet``: each path waits, fails or blocks in one of the ways of gevent."""

from __future__ import annotations

import contextvars
import json
import logging
import os
import queue
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey
from gevent.pool import Pool

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATCHED = ("socket", "ssl", "threading", "time", "queue", "select", "subprocess", "os", "signal")
assert all(monkey.is_module_patched(name) for name in PATCHED)

held: dict[str, Any] = {}
released = threading.Event()
local = threading.local()
executor = ThreadPoolExecutor()
user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


def hold(environ: WSGIEnvironment) -> object:
    """Wait until another request releases all."""
    held[environ["QUERY_STRING"]] = gevent.getcurrent()
    try:
        return released.wait(20)
    finally:
        del held[environ["QUERY_STRING"]]


def release(environ: WSGIEnvironment) -> object:
    released.set()
    while held:
        time.sleep(0.001)
    released.clear()
    return True


def count(environ: WSGIEnvironment) -> object:
    return len(held)


def kill(environ: WSGIEnvironment) -> object:
    """Kill the greenlet of a request that waits."""
    gevent.kill(held[environ["QUERY_STRING"]])
    return True


def forget(environ: WSGIEnvironment) -> object:
    gevent.Timeout.start_new(0.001)
    return True


def time_out(environ: WSGIEnvironment) -> object:
    with gevent.Timeout(0.01):
        time.sleep(20)
    return None


def leave(environ: WSGIEnvironment) -> object:
    raise {"exit": SystemExit, "killed": gevent.GreenletExit}[environ["QUERY_STRING"]]


def remember(environ: WSGIEnvironment) -> object:
    """Return what an earlier request has left in this greenlet."""
    seen = [getattr(local, "name", None), user.get()]
    local.name = "somebody"
    user.set("somebody")
    return seen


def spawn(environ: WSGIEnvironment) -> object:
    def square(number: int) -> int:
        time.sleep(0.001)
        return number * number

    return Pool(10).map(square, range(20))


def library(environ: WSGIEnvironment) -> object:
    """Use what gevent has patched: each would block, or fail, if it were half patched."""
    lines: queue.Queue[int] = queue.Queue()
    thread = threading.Thread(target=lambda: lines.put(threading.get_ident()))
    thread.start()
    other = lines.get()
    thread.join()
    left, right = socket.socketpair()
    gevent.spawn_later(0.001, left.sendall, b"x")
    assert right.recv(1) == b"x"
    left.close()
    right.close()
    ssl.create_default_context()
    return {
        "thread": other != threading.get_ident(),
        "dns": bool(socket.getaddrinfo("localhost", 80)),
        "child": subprocess.run(["sh", "-c", "sleep 0.01; echo child"], capture_output=True).stdout
        == b"child\n",
        "handlers": signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL,
    }


def fork(environ: WSGIEnvironment) -> object:
    """The child returns to the server, and must end."""
    child = os.fork()
    if not child:
        return None
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def linger(environ: WSGIEnvironment) -> object:
    """Start two threads, each of which removes a file of the test as soon as it is there."""
    folder = Path(environ["QUERY_STRING"])

    def work(name: str) -> None:
        path = folder / name
        while not path.exists():
            time.sleep(0.001)
        path.unlink()

    threading.Thread(target=work, args=("thread",), name="lingering", daemon=False).start()
    executor.submit(work, "job")
    return True


def block(environ: WSGIEnvironment) -> object:
    """Wait for the other end of a FIFO, in a way that gevent cannot patch."""
    with open(environ["QUERY_STRING"], "rb") as file:
        file.read()
    return True


def kept(environ: WSGIEnvironment) -> object:
    """Return which modules had taken something from a module before it was patched."""
    originals = {
        id(value): f"{module}.{name}"
        for module, items in monkey.saved.items()  # type: ignore[attr-defined]
        for name, value in items.items()
        if callable(value)
    }
    return sorted(
        f"{name}: {originals[id(value)]}"
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in ("gevent", "vsgi_fcgi")
        and str(getattr(module, "__file__", None)).endswith(".py")
        for value in list(vars(module).values())
        if id(value) in originals
    )


def locks(environ: WSGIEnvironment) -> object:
    """Return the kinds of locks that the log's thread shares with the app."""
    return [type(handler.lock).__module__ for handler in logging.getLogger("vsgi_fcgi").handlers]


def environment(environ: WSGIEnvironment) -> object:
    return [environ["wsgi.multithread"], environ["wsgi.multiprocess"]]


_PATHS: dict[str, Callable[[WSGIEnvironment], object]] = {
    f"/{function.__name__}": function
    for function in (
        *(hold, release, count, kill, forget, time_out, leave, remember),
        *(spawn, library, fork, linger, block, kept, locks, environment),
    )
}


def _endless() -> Iterator[bytes]:
    held["endless"] = gevent.getcurrent()
    try:
        while True:
            yield b"x" * 65536
    finally:
        del held["endless"]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/endless":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return _endless()
    result = _PATHS[environ["PATH_INFO"]](environ)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(result).encode()]
