"""Test processes that an app forks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gevent
import pytest
from support import http
from support.fcgi.peer import Client
from support.processes import ProcessGroup, free_port, wait_until
from support.server import WORKERS, logged, respond, run_script, running

from vsgi_fcgi.exceptions import MainContextClosed
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

Job = Callable[[Environ, StartResponse], Iterable[bytes]]


def forking(job: Job) -> Callable[..., Iterable[bytes]]:
    """An app whose child does something; the answer is the child's exit status."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        child = os.fork()
        if child == 0:
            return job(environ, start_response)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return respond(start_response, str(status).encode())

    return app


def exits(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    sys.exit(3)


def fails(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    raise LookupError("in the child")


def answers(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return respond(start_response, b"from the child")


def yields(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])

    def pieces() -> Iterable[bytes]:
        for _ in range(1000):
            yield b"x" * 65536

    return pieces()


def forks_again(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.exit(5)


def idles(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    loop: Any = gevent.get_hub().loop
    before = loop.iteration
    gevent.sleep(0.2)
    os._exit(min(loop.iteration - before, 255))


def calls(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    try:
        environ["vsgi_fcgi.main_context"].call(print)
    except MainContextClosed:
        os._exit(7)
    os._exit(1)


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(
    ("job", "status"),
    [(exits, 3), (fails, 1), (answers, 0), (yields, 0), (forks_again, 5), (calls, 7)],
)
def test_a_child_ends_and_answers_nothing(job: Job, status: int, worker: str) -> None:
    with running(forking(job), worker=worker) as server, logged():
        client = server.connect()
        for _ in range(2):
            assert client.get().body == str(status).encode()


def test_a_child_that_a_function_of_the_main_context_forks_ends_with_it() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        child = environ["vsgi_fcgi.main_context"].call(os.fork)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return respond(start_response, str(status).encode())

    with running(app) as server:
        assert server.connect().get().body == b"0"


@pytest.mark.parametrize("worker", WORKERS)
def test_a_child_has_no_socket_of_the_server(worker: str) -> None:
    ours: set[str] = set()

    def has_none(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        links = set()
        for fd in os.listdir("/proc/self/fd"):
            try:
                links.add(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:
                continue
        os._exit(len(ours & links))

    with running(forking(has_none), worker=worker) as server:
        client = server.connect()
        connection = server.connection()
        # The descriptor of the socket, which a child must not have.
        listener = server.server._listeners[0]
        for sock in (connection.sock, listener.sock):
            ours.add(os.readlink(f"/proc/self/fd/{sock.fileno()}"))
        assert client.get().body == b"0"


@pytest.mark.process
def test_what_a_child_logs_is_in_the_log_and_its_signals_are_its_own(
    processes: ProcessGroup, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            import multiprocessing, time

            def job(errors):
                errors.write("line of the child\\n")
                time.sleep(60)

            def app(environ, start_response):
                job_ = multiprocessing.get_context("fork").Process(
                    target=job, args=(environ["wsgi.errors"],)
                )
                job_.start()
                while "line of the child" not in open("app.log").read():
                    time.sleep(0.005)
                job_.terminate()
                job_.join(10)
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [str(job_.exitcode).encode()]
        """)
    )
    command = [sys.executable, "-m", "vsgi_fcgi", "mine:app", "--socket", "a.sock"]
    process = processes.start(command, name="app", cwd=tmp_path)
    process.wait_for_log("listening")
    for _ in range(2):
        with Client(str(tmp_path / "a.sock")) as client:
            assert client.get().body == str(-signal.SIGTERM).encode()
    assert process.running
    assert "stopping" not in process.log()


def test_the_loop_of_a_child_has_nothing_to_do() -> None:
    """With ``--worker main`` it runs while the app waits, and connections had been blocked."""
    forks = forking(idles)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fork":
            return forks(environ, start_response)
        return respond(start_response, bytes(1 << 20))

    with logged() as log, running(app, worker="main") as server:
        blocked = server.connect()
        blocked.ask(1, "/large")
        server.full_connection()
        # The thread of the log may be late.
        log.wait_for("listening on")
        before = len(log.lines)
        assert int(server.connect().get("/fork").body) < 10
        assert log.lines[before:] == []
        assert len(blocked.answer(1).body) == 1 << 20


def sockets(pid: str) -> set[str]:
    """The sockets that a process has."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return {link for link in found if link.startswith("socket:")}


@pytest.mark.process
@pytest.mark.parametrize("worker", WORKERS)
def test_a_child_has_no_http_connection_and_answers_on_none(
    worker: str, processes: ProcessGroup, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            import os, time
            import gevent

            def app(environ, start_response):
                child = os.fork() if environ["PATH_INFO"] == "/fork" else -1
                if child == 0:
                    # With gevent's, the child's loop runs meanwhile.
                    (time if environ["wsgi.multithread"] else gevent).sleep(60)
                    os._exit(0)
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [f"{os.getpid()} {child}".encode()]
        """)
    )
    port = free_port()
    command = [sys.executable, "-m", "vsgi_fcgi", "mine:app", "--worker", worker]
    process = processes.start(
        [*command, "--http", f"127.0.0.1:{port}"],
        name="app",
        cwd=tmp_path,
    )
    process.wait_for_log("serving HTTP on")
    with http.Client(port) as client, socket.create_connection(("127.0.0.1", port), 20) as other:
        other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
        pid, child = client.request("GET", "/fork").text.split()
        try:
            wait_until(lambda: not sockets(pid) & sockets(child), "sockets of one process alone")
            for _ in range(20):
                assert client.request("GET", "/").text.split()[0] == pid
                assert http.request(port).text.split()[0] == pid
            other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answers = b"".join(iter(lambda: other.recv(65536), b""))
            assert answers.count(b"HTTP/1.1") == 1
        finally:
            os.kill(int(child), signal.SIGKILL)
    assert process.stop() == 0
    assert "WARNING" not in process.log()
    assert process.log().count('"GET /fork HTTP/1.1"') == 1


@pytest.mark.process
def test_a_child_that_has_a_client_asks_on_a_connection_of_its_own() -> None:
    script = """
import gevent, os
gevent.sleep(0)
from support.asking import uri_of
from support.server import hello, running
from vsgi_fcgi.client import FastCGIClient

with running(hello) as server, FastCGIClient(uri_of(server)) as client:
    assert client.request("GET", "/before").read() == b"/before"
    child = os.fork()
    if child == 0:
        os._exit(client.request("GET", "/child").read() == b"/child")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert client.request("GET", "/after").read() == b"/after"
    print(server.server.stats.connections_accepted)
"""
    assert run_script(script).split() == ["1", "2"]
