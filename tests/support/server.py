"""Run a `Server` in the test's process, and check that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

if "vsgi_fcgi" not in sys.modules:
    os.environ["VSGI_FCGI_CHECK_CONTRACT"] = "1"

import gevent

from support.fcgi.peer import DEADLINE, Address, Client
from support.memory import is_full
from vsgi_fcgi import Server
from vsgi_fcgi.protocol import Request
from vsgi_fcgi.server.connection import ServerConnection
from vsgi_fcgi.server.exchange import Exchange
from vsgi_fcgi.server.main_context import MainContext
from vsgi_fcgi.transport import thread_affinity as contract
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import App, StartResponse

assert contract.CHECKED, "set VSGI_FCGI_CHECK_CONTRACT=1 before vsgi_fcgi is imported"

WORKERS = ("thread", "main")
TESTS = Path(__file__).parents[1]


class Running:
    """A server that runs in a thread of this process.

    Attributes:
        server: it.
        address: where its first listener listens.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.address = address_of(server.uris[0])
        self._clients = contextlib.ExitStack()

    @property
    def context(self) -> MainContext:
        """The server's main context; reading a number from it is all that a test may do."""
        # Not public, so that no app depends on it.
        context = self.server._context
        assert context is not None
        return context

    def connect(self, **options: Any) -> Client:
        """Open a connection that is closed before the server stops."""
        return self._clients.enter_context(Client(self.address, **options))

    def leave(self) -> None:
        """Close all connections."""
        self._clients.close()

    def connection(self) -> ServerConnection:
        """The server's end of the only connection that is open."""
        wait_until(lambda: len(self.context.connections) == 1)
        return next(iter(self.context.connections))

    def full_connection(self) -> ServerConnection:
        """The same, when its client does not read and the kernel takes no more.

        That the writer is blocked does not say so: it also waits while others have their turn.
        """
        connection = self.connection()
        wait_until(lambda: connection.writer.blocked and is_full(connection.sock))
        return connection

    def in_context(self, function: Callable[[], object]) -> None:
        """Have something done in the main context, and wait for it."""
        self.context.calls.call(function)


def exchange_of(request: Request) -> Exchange:
    """Return the exchange of a request whose params have come."""
    assert isinstance(request.owner, Exchange)
    return request.owner


@contextlib.contextmanager
def running(app: App | None, *, bind: str | None = None, **settings: Any) -> Iterator[Running]:
    """Run a server, on a UNIX socket unless told otherwise.

    When it has been stopped, no thread, descriptor or byte of its budgets may be left.
    """
    settings.setdefault("threads", 4)
    threads, descriptors = count_threads(), count_descriptors()
    with tempfile.TemporaryDirectory(prefix="vsgi-fcgi-test-") as folder:
        server = Server(app, **settings)
        server.listen(bind or f"unix:{folder}/app.sock")
        server.start()
        this = Running(server)
        context = this.context
        try:
            yield this
        finally:
            this.leave()
            stopped = server.stop(DEADLINE)
        assert stopped
        # Workers and the thread of FileIO end a moment after the server.
        wait_until(lambda: not context.connections, lambda: f"open: {len(context.connections)}")
        services = context.services
        wait_until(lambda: not services.memory.used, lambda: f"memory: {services.memory.used}")
        wait_until(
            lambda: not context.connections.params.used,
            lambda: f"params: {context.connections.params.used}",
        )
        wait_until(lambda: not services.spool.used, lambda: f"spool: {services.spool.used}")
        wait_until(lambda: count_threads() <= threads, names_of_threads)
        wait_until(lambda: count_descriptors() <= descriptors, open_files)


def wait_until(
    done: Callable[[], object],
    otherwise: Callable[[], str] = lambda: "it never came about",
    seconds: float = DEADLINE,
) -> None:
    """Poll for a condition that is not reported."""
    deadline = time.monotonic() + seconds
    pause = 0.0002
    while not done():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def wait_in_app(environ: Environ, event: threading.Event, seconds: float = DEADLINE) -> None:
    """Wait for the test: natively in a thread, cooperatively in the main context."""
    if environ["wsgi.multithread"]:
        assert event.wait(seconds)
        return
    deadline = time.monotonic() + seconds
    while not event.is_set():
        assert time.monotonic() < deadline
        gevent.sleep(0.001)


def count_threads() -> int:
    """Native threads of this process, those without a `threading.Thread` too.

    Not the entries of ``/proc/self/task``: the kernel ends that list early if a thread exits while
    it is read, and the threads behind that one are missing (1 of 190,000 lists, Linux 6.18).
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("\nThreads:")[2].split(maxsplit=1)[0])


def names_of_threads() -> str:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            names.append((task / "comm").read_text().strip())
    return f"{count_threads()} threads: {', '.join(names)}, {threading.enumerate()}"


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def open_files() -> str:
    files = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            files.append(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
    return ", ".join(files)


def address_of(uri: str) -> Address:
    """What a client connects to, from what `Server.uris` says."""
    scheme, _, rest = uri.partition("://")
    if uri.startswith("fcgi+unix:@"):
        return "\0" + uri.removeprefix("fcgi+unix:@").rstrip("/")
    if scheme == "fcgi+unix":
        return rest
    host, _, port = rest.rstrip("/").rpartition(":")
    return host.strip("[]"), int(port)


# Apps.


def respond(
    start_response: StartResponse, body: bytes | Iterable[bytes] = b"", status: str = "200 OK"
) -> Iterable[bytes]:
    """Begin a plain response."""
    headers = [("Content-Type", "application/octet-stream")]
    if isinstance(body, bytes):
        headers.append(("Content-Length", str(len(body))))
        body = [body]
    start_response(status, headers)
    return body


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The smallest app; it says back which path it was asked for."""
    return respond(start_response, environ["PATH_INFO"].encode())


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """An app that sends the request body back."""
    return respond(start_response, environ["wsgi.input"].read())


# Subprocesses.


def run_script(script: str, *, seconds: float = 40, **environ: str) -> str:
    """Run a script of its own process; it must end well, and what it prints is returned."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        # Not the source tree, which would hide the installed package.
        cwd=TESTS,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


class Messages(logging.Handler):
    """What the server logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.exc_text:
            line += "\n" + record.exc_text
        if record.stack_info:
            line += "\n" + record.stack_info
        self.lines.append(line)

    def has(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def wait_for(self, text: str) -> None:
        wait_until(lambda: self.has(text), lambda: f"{text!r} not in {self.lines}")


@contextlib.contextmanager
def logged(messages: Messages | None = None) -> Iterator[Messages]:
    """Listen to the server's logger for a while."""
    messages = messages or Messages()
    logger = logging.getLogger("vsgi_fcgi")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(messages)
    try:
        yield messages
    finally:
        logger.removeHandler(messages)
        logger.setLevel(before)
