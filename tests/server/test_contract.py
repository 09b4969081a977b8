"""The threading contract: who may call what, and that one context alone sends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable

import pytest
from support.server import ROOT, WORKERS, echo, respond, running

from vsgi_fcgi.server.contract import ContractBroken, main_only, worker_only
from vsgi_fcgi.server.reply import Reply
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.runner import StartResponse


def reply_of(environ: Environ) -> Reply:
    reply = environ["wsgi.errors"]._sink
    assert isinstance(reply, Reply)
    return reply


MAIN_ONLY: dict[str, Callable[[Reply], object]] = {
    "channel.on_readable": lambda reply: reply.channel.on_readable(),
    "channel.close": lambda reply: reply.channel.close(),
    "writer.flush": lambda reply: reply.channel.writer.flush(),
    "writer.finish": lambda reply: reply.channel.writer.finish(reply),
    "reply.cancel": lambda reply: reply.cancel(),
    "dispatcher.forget": lambda reply: reply.channel.context.dispatcher.forget(reply),
    "assembler.handle": lambda reply: reply.channel.context.assembler.handle(reply.channel, []),
}


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("name", MAIN_ONLY)
def test_what_is_for_the_main_context_raises_in_a_worker(name: str, worker: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with pytest.raises(ContractBroken, match="for the main context alone"):
            MAIN_ONLY[name](reply_of(environ))
        return respond(start_response, b"checked")

    with running(app, worker=worker) as server:
        assert server.connect().get().body == b"checked"


WORKER_ONLY: dict[str, Callable[[Reply], object]] = {
    "write": lambda reply: reply.write(b"x"),
    "finish": lambda reply: reply.finish(),
    "break_off": lambda reply: reply.break_off(),
    "write_error": lambda reply: reply.write_error("x"),
}


@pytest.mark.parametrize("name", WORKER_ONLY)
def test_what_is_for_workers_raises_in_the_main_context_and_elsewhere(name: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        reply = reply_of(environ)

        def call() -> str:
            with pytest.raises(ContractBroken, match="for workers alone"):
                WORKER_ONLY[name](reply)
            return "refused"

        elsewhere: list[str] = []
        thread = threading.Thread(target=lambda: elsewhere.append(call()))
        thread.start()
        thread.join(10)
        results = [environ["vsgi_fcgi.main_context"].call(call), *elsewhere]
        return respond(start_response, repr(results).encode())

    with running(app) as server:
        assert server.connect().get().body == b"['refused', 'refused']"


def test_no_thread_but_the_main_contexts_may_do_its_work() -> None:
    done: list[str] = []

    @main_only
    def for_main() -> None:
        done.append("main")

    @worker_only
    def for_workers() -> None:
        done.append("worker")

    for function in (for_main, for_workers):
        with pytest.raises(ContractBroken):
            function()
    with running(echo) as server:
        server.in_context(for_main)
        with pytest.raises(ContractBroken):
            server.in_context(for_workers)
    assert done == ["main"]


def test_the_marks_cost_nothing_where_nothing_is_checked() -> None:
    script = """
from vsgi_fcgi.server.contract import main_only, worker_only
function = lambda: None
assert main_only(function) is worker_only(function) is function
"""
    environ = {k: v for k, v in os.environ.items() if k != "VSGI_FCGI_CHECK_CONTRACT"}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environ, check=True, timeout=30)


@pytest.mark.parametrize("worker", WORKERS)
def test_one_context_alone_sends_on_a_channel(worker: str) -> None:
    """Under large and small answers, uploads and aborts on one connection."""
    threads: set[int] = set()

    class Sock:
        def __init__(self, sock: object) -> None:
            self._sock = sock

        def __getattr__(self, name: str) -> object:
            if name in ("send", "sendmsg", "recv", "close"):
                threads.add(threading.get_native_id())
            return getattr(self._sock, name)

    with running(echo, worker=worker, output_memory_bytes=10_000) as server:
        main: list[int] = []
        server.in_context(lambda: main.append(threading.get_native_id()))
        client = server.connect(receive_buffer=4096)
        channel = server.channel()
        server.in_context(lambda: setattr(channel, "sock", Sock(channel.sock)))
        for id in range(1, 9):
            client.ask(id, "/", b"x" * 100_000 * (id % 3))
        client.abort(2)
        for id in range(1, 9):
            client.answer(id)
        assert threads == set(main)
