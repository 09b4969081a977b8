"""Test lighttpd, which starts the server on descriptor 0: ``examples/lighttpd.conf``."""

from __future__ import annotations

import hashlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.front_ends.more_servers import LighttpdExternal
from support.front_ends.servers import EXAMPLES, AppServer, Lighttpd
from support.gates import Gate
from support.http import connect, receive, request
from support.processes import ProcessGroup, wait_until

APP = "apps.routes:app"


def test_the_example_is_one_process_that_goes_with_lighttpd(processes: ProcessGroup) -> None:
    lighttpd = Lighttpd(processes, "hello:app", folder=EXAMPLES)
    answer = request(lighttpd.port, "/some/p%20ath?query")
    assert answer.status == 200
    assert "You asked for: GET /some/p%20ath\n" in answer.text
    assert "lighttpd/" in answer.text
    assert sorted(processes.pids()) == sorted([lighttpd.process.pid, lighttpd.server_pid])
    assert len(list(lighttpd.state.iterdir())) == 1
    # It is 1 where it has not yet seen that a client of its own has gone.
    assert lighttpd.process.stop() in (0, 1)
    wait_until(lambda: not processes.pids(), "the server's end", 5)
    assert lighttpd.server_log().rstrip().endswith("INFO stopped")
    assert list(lighttpd.state.iterdir()) == []


def test_several_processes(processes: ProcessGroup) -> None:
    """Each has a socket, all of them serve, and one that has died is started again."""
    lighttpd = Lighttpd(processes, f"--threads 1 {APP}", procs=3)
    lines = _wait_for_listening(lighttpd, 3)
    assert len(list(lighttpd.state.iterdir())) == 3
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        gates = [stack.enter_context(Gate(processes.folder, f"gate{n}")) for n in range(3)]
        answers = [pool.submit(request, lighttpd.port, gate.url) for gate in gates]
        # With a thread for each process, there is one at every gate.
        for gate in gates:
            gate.wait_for_app()
        for gate in gates:
            gate.open()
        assert {answer.result(10).text for answer in answers} == {"before\nafter\n"}
    os.kill(int(lines[0].split()[1]), signal.SIGKILL)
    lines = _wait_for_listening(lighttpd, 4)
    assert len(set(processes.pids()) - {lighttpd.process.pid}) == 3
    assert all(request(lighttpd.port, "/echo").status == 200 for _ in range(10))
    lighttpd.process.stop()
    wait_until(lambda: not processes.pids(), "the servers' end", 5)
    assert lighttpd.server_log().count("INFO stopped") == 3
    assert list(lighttpd.state.iterdir()) == []


def _wait_for_listening(lighttpd: Lighttpd, count: int) -> list[str]:
    def found() -> list[str]:
        lines = lighttpd.server_log().splitlines()
        return [line for line in lines if "INFO listening on fcgi+fd://0/" in line]

    wait_until(lambda: len(found()) == count, f"{count} servers", log=lighttpd.server_log)
    return found()


def test_a_server_of_its_own_that_is_restarted(processes: ProcessGroup) -> None:
    """lighttpd answers 503 until it is back, and finds that out within seconds."""
    server = AppServer(processes, APP)
    lighttpd = LighttpdExternal(processes, server)
    assert request(lighttpd.port, "/echo").status == 200
    assert server.process.stop() == 0
    assert request(lighttpd.port, "/echo").status == 503
    server = AppServer(processes, APP)
    wait_until(lambda: request(lighttpd.port, "/echo").status == 200, "lighttpd to ask again", 5)
    assert lighttpd.process.stop() in (0, 1)
    assert server.process.running


def test_killed_in_the_middle_of_a_request(processes: ProcessGroup) -> None:
    """The request's client and web server are gone: there is nothing to wait 30 seconds for."""
    lighttpd = Lighttpd(processes, APP)
    with Gate(processes.folder) as gate, connect(lighttpd.port) as sock:
        sock.sendall(f"GET {gate.url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        gate.wait_for_app()
        lighttpd.process.stop(within=5)
        wait_until(lambda: not processes.pids(), "the server's end", 5)
    assert "SIGTERM: stopping" in lighttpd.server_log()


def test_a_graceful_stop_lets_a_request_end(processes: ProcessGroup) -> None:
    lighttpd = Lighttpd(processes, APP)
    with Gate(processes.folder) as gate, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(request, lighttpd.port, gate.url)
        gate.wait_for_app()
        lighttpd.process.send_signal(signal.SIGINT)
        lighttpd.process.wait_for_log("graceful shutdown")
        gate.open()
        assert answer.result(10).text == "before\nafter\n"
    assert lighttpd.process.wait() == 0
    wait_until(lambda: not processes.pids(), "the server's end", 5)


def test_a_signal_for_the_whole_process_group(processes: ProcessGroup) -> None:
    """It reaches both, and lighttpd sends it again when it exits."""
    lighttpd = Lighttpd(processes, APP)
    with Gate(processes.folder) as gate, connect(lighttpd.port) as sock:
        sock.sendall(f"GET {gate.url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        gate.wait_for_app()
        os.killpg(lighttpd.process.pid, signal.SIGTERM)
        wait_until(lambda: not processes.pids(), "the server's end", 5)
    assert "SIGTERM: stopping" in lighttpd.server_log()
    assert "INFO stopped" in lighttpd.server_log()
    assert "second signal" not in lighttpd.server_log()


def test_descriptor_0_is_not_handed_on(processes: ProcessGroup) -> None:
    lighttpd = Lighttpd(processes, APP)
    links = Path(f"/proc/{lighttpd.server_pid}/fd")
    assert str((links / "0").readlink()) == "/dev/null"


def test_an_answer_that_breaks_off_after_its_beginning_was_sent(processes: ProcessGroup) -> None:
    lighttpd = Lighttpd(processes, APP)
    path = f"/fail_midway?pieces=1&at={processes.folder}/gate"
    with Gate(processes.folder) as gate, connect(lighttpd.port) as sock:
        assert gate.query in path
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = sock.recv(65536)
        assert b"\r\nTransfer-Encoding: chunked\r\n" in received
        gate.wait_for_app()
        gate.open()
        received += b"".join(receive(sock))
    assert len(received) > 65536
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("extra", ["", "server.stream-request-body = 2"])
def test_a_body_that_is_too_large_is_answered_413(processes: ProcessGroup, extra: str) -> None:
    lighttpd = Lighttpd(processes, f"--max-body-bytes 100000 {APP}", extra=extra)
    for _ in range(10):
        assert request(lighttpd.port, "/upload", method="POST", body=bytes(3 << 20)).status == 413
    answer = request(lighttpd.port, "/upload", method="POST", body=bytes(100000))
    assert answer.text == f"100000 {hashlib.sha256(bytes(100000)).hexdigest()}\n"


def test_streamed_uploads(processes: ProcessGroup) -> None:
    """The body reaches the server while it arrives, and a client that leaves ends its request."""
    lighttpd = Lighttpd(processes, APP, extra="server.stream-request-body = 2")
    body = bytes(range(256)) * 8192
    expected = f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"
    assert request(lighttpd.port, "/upload", method="POST", body=body).text == expected
    with connect(lighttpd.port) as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nhalf")
    assert request(lighttpd.port, "/upload", method="POST", body=body).text == expected
    assert "Traceback" not in lighttpd.server_log()
