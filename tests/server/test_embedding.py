"""Test `Server` as a library: listen, start, stop, run."""

from __future__ import annotations

import os
import socket
import textwrap
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.processes import need_module
from support.server import (
    WORKERS,
    address_of,
    echo,
    hello,
    logged,
    respond,
    run_script,
    running,
    wait_in_app,
)

from vsgi_fcgi import Config, Server
from vsgi_fcgi.client import FastCGIClient
from vsgi_fcgi.exceptions import ListenError, UsageError
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(
    "bind",
    [None, "127.0.0.1:0", pytest.param(f"unix:@vsgi-fcgi-{os.getpid()}", id="abstract")],
)
def test_it_serves_on_each_kind_of_address(bind: str | None, worker: str) -> None:
    with running(echo, bind=bind, worker=worker) as server:
        client = server.connect()
        for body in (b"first", b"second"):
            answer = client.get("/", body)
            assert (answer.status, answer.body) == (200, body)
            assert (answer.app_status, answer.protocol_status) == (0, 0)


@pytest.mark.parametrize("inherited", [False, True])
def test_an_inherited_listener_may_be_shared_with_other_processes(inherited: bool) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, str(environ["wsgi.multiprocess"]).encode())

    server = Server(app, threads=1)
    server.listen("127.0.0.1:0")
    if inherited:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server.listen(f"fd://{listener.detach()}")
    server.start()
    try:
        for uri in server.uris[:1]:
            with Client(address_of(uri)) as client:
                assert client.get().body == str(inherited).encode()
    finally:
        server.stop()


def test_one_server_has_several_listeners(tmp_path: Path) -> None:
    server = Server(hello, threads=2)
    server.listen(f"unix:{tmp_path}/one.sock")
    server.listen("127.0.0.1:0")
    server.listen(f"unix:@vsgi-fcgi-{os.getpid()}-several")
    unix, tcp, abstract = uris = server.uris
    assert unix == f"fcgi+unix://{tmp_path}/one.sock"
    assert tcp.startswith("fcgi://127.0.0.1:")
    assert not tcp.endswith(":0/")
    server.start()
    try:
        for uri in uris:
            with Client(address_of(uri)) as client:
                assert client.get("/" + uri[:12]).body == b"/" + uri[:12].encode()
    finally:
        assert server.stop(5)
    assert server.uris == []
    assert not (tmp_path / "one.sock").exists()
    assert abstract.startswith("fcgi+unix:@")


def test_unknown_settings_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="thraeds"):
        Server(hello, thraeds=8)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="threads is 0"):
        Server(hello, threads=0)
    with pytest.raises(UsageError, match="exclude each other"):
        Server(hello, config=Config(), threads=2)


def test_a_whole_config_is_taken_as_it_is() -> None:
    config = Config(threads=3)
    assert Server(hello, config=config).config is config


def test_starting_twice_is_refused_and_does_no_harm() -> None:
    with running(hello) as server:
        with pytest.raises(UsageError, match="runs already"):
            server.server.start()
        assert server.connect().get("/still").body == b"/still"


def test_a_server_that_stopped_can_listen_and_start_again(tmp_path: Path) -> None:
    server = Server(hello, threads=1)
    for path in ("/first", "/second"):
        server.listen(f"unix:{tmp_path}/app.sock")
        server.start()
        try:
            with Client(str(tmp_path / "app.sock")) as client:
                assert client.get(path).body == path.encode()
        finally:
            assert server.stop(5)


def test_stop_without_start_and_twice_is_harmless(tmp_path: Path) -> None:
    server = Server(hello, threads=1)
    assert server.stop(1)
    server.listen(f"unix:{tmp_path}/app.sock")
    server.start()
    assert server.stop(1)
    assert server.stop(1)


def test_start_reports_why_it_failed_and_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", "not an address")
    server = Server(hello, threads=1)
    server.listen(f"unix:{tmp_path}/app.sock")
    with pytest.raises(UsageError, match="FCGI_WEB_SERVER_ADDRS"):
        server.start()
    assert server.stop(1)
    # Nothing is in the way of another try.
    monkeypatch.delenv("FCGI_WEB_SERVER_ADDRS")
    server.start()
    assert server.stop(1)


def test_a_taken_address_is_refused() -> None:
    with running(hello, bind="127.0.0.1:0") as server:
        port = server.address[1]
        with pytest.raises(ListenError, match=str(port)):
            Server(hello).listen(f"127.0.0.1:{port}")


@pytest.mark.parametrize("bind", ["unix:{}/app.sock", "127.0.0.1:0", "unix:@vsgi-fcgi-{}"])
def test_a_client_takes_the_uri_of_a_server(bind: str, tmp_path: Path) -> None:
    with Server(hello, threads=1) as server:
        server.listen(bind.format(tmp_path))
        server.start()
        with FastCGIClient(server.uris[0]) as client:
            assert client.request("GET", "/path").read() == b"/path"


def test_leaving_a_with_statement_stops_and_closes(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    for start in (True, False):
        with Server(hello, threads=1) as server:
            server.listen(f"unix:{path}")
            if start:
                server.start()
            assert path.exists()
        assert not path.exists()
        assert server.uris == []


def test_close_gives_up_listeners_that_never_served(tmp_path: Path) -> None:
    server = Server(hello)
    server.listen(f"unix:{tmp_path}/app.sock")
    server.close()
    assert not (tmp_path / "app.sock").exists()
    assert server.uris == []


def test_stop_says_whether_every_request_was_answered() -> None:
    begun, free = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        wait_in_app(environ, free)
        return respond(start_response, b"late")

    with logged() as log, running(app) as server:
        client = server.connect()
        client.ask(1)
        assert begun.wait(10)
        assert not server.server.stop(0.05)
        client.read_to_end()
        assert 1 not in client.answers
        free.set()
        log.wait_for("cut off")


def test_a_tcp_peer_that_is_not_named_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", "192.0.2.1, 127.0.0.2")
    with logged() as log, running(hello, bind="127.0.0.1:0") as server:
        client = server.connect()
        client.read_to_end()
        log.wait_for("127.0.0.1: refused")
        assert server.connect(source="127.0.0.2").get("/in").body == b"/in"


def test_unix_peers_are_not_asked_for_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCGI_WEB_SERVER_ADDRS", "192.0.2.1")
    with running(hello) as server:
        assert server.connect().get("/unix").body == b"/unix"


@pytest.mark.process
def test_run_serves_until_sigterm_and_says_how_it_went(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys, threading
from support.fcgi.peer import Client
from support.server import hello
from vsgi_fcgi import Server

server = Server(hello, threads=2)
server.listen("unix:{tmp_path}/app.sock")

def ask():
    with Client("{tmp_path}/app.sock") as client:
        print(client.get("/run").body.decode())
        os.kill(os.getpid(), signal.SIGTERM)
        client.read_to_end()

threading.Thread(target=ask).start()
before = signal.getsignal(signal.SIGTERM)
print(server.run(), signal.getsignal(signal.SIGTERM) is before, server.uris)
"""
    assert run_script(script).split("\n")[:2] == ["/run", "0 True []"]


def test_a_gone_client_costs_no_grace() -> None:
    begun, free = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        wait_in_app(environ, free)
        return respond(start_response)

    with running(app) as server:
        client = server.connect()
        client.ask(1)
        assert begun.wait(10)
        client.close()
        started = time.monotonic()
        assert server.server.stop(60)
        assert time.monotonic() - started < 30
        free.set()


@pytest.mark.process
@pytest.mark.parametrize("serve", ["start", "run"])
def test_a_process_that_eventlet_has_patched_gets_an_exception(serve: str) -> None:
    """Patched before this package is imported: a thread of the server would never begin."""
    need_module("eventlet")
    said = run_script(
        textwrap.dedent(f"""
        import warnings
        warnings.simplefilter("ignore")
        import eventlet
        eventlet.monkey_patch()
        from vsgi_fcgi import Server
        from vsgi_fcgi.exceptions import UsageError

        server = Server(lambda environ, start_response: [])
        server.listen("127.0.0.1:0")
        try:
            server.{serve}()
        except UsageError as error:
            print(error)
        finally:
            server.close()
    """)
    )
    assert said.strip() == (
        "eventlet has monkey-patched threading, socket and select, on which this server hangs;"
        " remove eventlet.monkey_patch()"
    )


@pytest.mark.process
@pytest.mark.parametrize("request_runs", [False, True])
def test_worker_threads_do_not_keep_a_process_alive(request_runs: bool) -> None:
    """Neither idle ones nor one whose app is stuck, in a process that never calls `stop`."""
    said = run_script(
        textwrap.dedent(f"""
        import threading
        from vsgi_fcgi import Server
        from support.fcgi.peer import Client

        begun, never = threading.Event(), threading.Event()

        def app(environ, start_response):
            begun.set()
            never.wait()

        server = Server(app, threads=2)
        server.listen("127.0.0.1:0")
        server.start()
        if {request_runs}:
            port = int(server.uris[0].rpartition(":")[2].strip("/"))
            client = Client(("127.0.0.1", port))
            client.ask(1)
            begun.wait()
        print("the end")
    """)
    )
    assert said == "the end\n"
