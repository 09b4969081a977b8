"""Test signals that stop the server: requests in flight and queued requests are answered."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest
from support.clients import Clients
from support.fcgi.peer import Client as FastCGIClient
from support.front_ends.servers import APPS, AppServer, Nginx, command
from support.gates import Gate
from support.http import Client, request
from support.processes import ProcessGroup, logging_to, open_files, wait_until

APP = "apps.routes:app"

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("worker", ["thread", "main"])
def test_an_idle_server_stops_at_once(
    processes: ProcessGroup, worker: str, number: signal.Signals
) -> None:
    server = AppServer(processes, APP, "--worker", worker)
    # A connection that is kept, and one on which nothing was ever sent, hold nothing up.
    with FastCGIClient(str(server.socket)) as kept, FastCGIClient(("127.0.0.1", server.port)):
        assert kept.get("/echo").status == 200
        began = time.monotonic()
        assert server.process.stop(number, within=5) == 0
        assert time.monotonic() - began < 2
    assert not server.socket.exists()
    assert f"{number.name}: stopping" in server.process.log()


def _is_refused(port: int, path: str) -> bool:
    return request(port, path).status == 502


@pytest.mark.parametrize("number", SIGNALS)
def test_a_running_request_ends(processes: ProcessGroup, number: signal.Signals) -> None:
    server = AppServer(processes, APP)
    nginx = Nginx(processes, server)
    for prefix in ("", "/tcp", "/unbuffered"):
        assert request(nginx.port, f"{prefix}/echo").status == 200
    with Gate(processes.folder) as gate, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(request, nginx.port, gate.url)
        gate.wait_for_app()
        server.process.send_signal(number)
        # It takes no more, and waits for what it has.
        for prefix in ("", "/tcp", "/unbuffered"):
            refused = functools.partial(_is_refused, nginx.port, f"{prefix}/echo")
            wait_until(refused, f"the listener of {prefix or '/'} to be closed")
        assert not server.socket.exists()
        assert server.process.running
        gate.open()
        assert answer.result(10).text == "before\nafter\n"
    assert server.process.wait(5) == 0


@pytest.mark.parametrize("worker", ["thread", "main"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_stops_now(
    processes: ProcessGroup, worker: str, number: signal.Signals
) -> None:
    server = AppServer(processes, APP, "--worker", worker)
    with Gate(processes.folder) as gate, FastCGIClient(str(server.socket)) as client:
        client.ask(1, gate.url)
        gate.wait_for_app()
        server.process.send_signal(number)
        wait_until(lambda: not _pending(server.pid, number), "the first to be delivered")

        def ended() -> bool:
            # Again and again: one that comes before Python has handled the last is one with it.
            server.process.send_signal(number)
            return not server.process.running

        wait_until(ended, "the end", 5)
        assert server.process.wait() == 1
    assert f"a second signal came ({number.name})" in server.process.log()


@pytest.mark.parametrize("worker", ["thread", "main"])
def test_two_signals_at_once_are_one(processes: ProcessGroup, worker: str) -> None:
    """As a Ctrl-C in a terminal sends them: the terminal one, the web server that it ends another.

    What runs is not cut off by that.
    """
    server = AppServer(processes, APP, "--worker", worker)
    with Gate(processes.folder) as gate, FastCGIClient(str(server.socket)) as client:
        client.ask(1, gate.url)
        gate.wait_for_app()
        # Both wait for the process to go on, and reach it together.
        server.process.send_signal(signal.SIGSTOP)
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        for number in SIGNALS:
            wait_until(lambda n=number: not _pending(server.pid, n), "delivery")  # type: ignore[misc]
        gate.open()
        assert client.answer(1).body == b"before\nafter\n"
    assert server.process.wait(5) == 0
    assert "second signal" not in server.process.log()


ENDING = """
import atexit, os, signal
from pathlib import Path

def app(environ, start_response):
    raise AssertionError("the app does not read it")

def end():
    os.kill(os.getpid(), signal.SIGTERM)
    Path({path!r}).touch()

atexit.register(end)
"""


def test_the_same_signal_once_more_does_not_cut_the_end_short(processes: ProcessGroup) -> None:
    """The web server's own end may be a moment later than ours."""
    path = processes.folder / "ended"
    (processes.folder / "ending.py").write_text(ENDING.format(path=str(path)))
    server = AppServer(processes, "ending", folder=processes.folder)
    assert server.process.stop() == 0
    assert path.exists()


OWN = {
    "python": "signal.signal(signal.SIGUSR1, lambda *_: print('mine', flush=True))",
    "c": "faulthandler.register(signal.SIGUSR1)",
    "ignored": "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
}
HANDLING = """
import faulthandler, signal

def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/take":
        {late}
    return [b"ok"]

{early}
"""


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", OWN)
def test_sigusr1_is_the_apps_if_it_wants_it(processes: ProcessGroup, kind: str, late: bool) -> None:
    taking = {"late": OWN[kind], "early": ""} if late else {"late": "pass", "early": OWN[kind]}
    (processes.folder / "handling.py").write_text(HANDLING.format(**taking))
    options = ["--worker", "main", "--graceful-timeout", "0"]
    server = AppServer(processes, "handling", *options, folder=processes.folder)
    with FastCGIClient(str(server.socket)) as client:
        assert client.get("/take").body == b"ok"
        server.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: not _pending(server.pid, signal.SIGUSR1), "the signal's delivery")
        signs = {"python": "mine\n", "c": "most recent call first", "ignored": ""}
        server.process.wait_for_log(signs[kind])
        # Nothing counts down to an end either, for which no time is allowed.
        for _ in range(20):
            assert client.get("/").body == b"ok"
    log = server.process.log()
    assert "SIGUSR1" not in log
    assert "graceful timeout" not in log
    server.process.stop(signal.SIGKILL)


@pytest.mark.parametrize("option", ["--no-reload", "--reload"])
def test_sigusr1_reopens_the_log_files(processes: ProcessGroup, option: str) -> None:
    """As logrotate wants it, which has renamed them."""
    folder = processes.folder
    (folder / "logging.toml").write_text(logging_to(folder / "error.log"))
    logs = folder / "access.log", folder / "error.log"
    options = ["--log-config", str(folder / "logging.toml"), "--access-log", str(logs[0])]
    server = AppServer(processes, APP, *options, option)
    with FastCGIClient(str(server.socket)) as client:
        assert client.get("/errors").status == 200
        wait_until(
            lambda: all("/errors" in _text(log) or "a complaint" in _text(log) for log in logs),
            "lines",
        )
        for log in logs:
            log.rename(f"{log}.1")
        server.process.send_signal(signal.SIGUSR1)
        # Before anything is written to them.
        wait_until(lambda: all(log.exists() for log in logs), "the new files")
        wait_until(lambda: "SIGUSR1: the log files were opened again" in _text(logs[1]), "a line")
        old = [_text(Path(f"{log}.1")) for log in logs]
        assert client.get("/errors").status == 200
        wait_until(lambda: "/errors" in _text(logs[0]) and "a complaint" in _text(logs[1]), "lines")
        assert [_text(Path(f"{log}.1")) for log in logs] == old
        used = {name for pid in processes.pids() for name in open_files(pid)}
        assert not {f"{log}.1" for log in logs} & used
    assert server.process.stop() == 0


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("option", ["--no-reload", "--reload"])
def test_a_terminal_that_is_closed_stops_it(processes: ProcessGroup, option: str) -> None:
    master, slave = pty.openpty()
    address = str(processes.folder / "app.sock")
    argv = [sys.executable, "-c", ON_TERMINAL, str(command(processes)), "--chdir", str(APPS)]
    argv += [option, "--socket", address, APP]
    with subprocess.Popen(
        argv,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env=processes.environ(),
    ) as process:
        try:
            os.close(slave)
            wait_until(lambda: _accepts(address), "the socket")
            with Gate(processes.folder) as gate, FastCGIClient(address) as client:
                client.ask(1, gate.url)
                gate.wait_for_app()
                os.close(master)
                wait_until(
                    lambda: not _pending(process.pid, signal.SIGHUP), "the signal's delivery"
                )
                gate.open()
                assert client.answer(1).body == b"before\nafter\n"
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert not Path(address).exists()
    wait_until(lambda: not processes.pids(), "the end of all processes", 5)


def _accepts(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address) == 0


def _pending(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", status, re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


@pytest.mark.parametrize("worker", ["thread", "main"])
def test_the_graceful_timeout_is_kept_beside_an_app_that_computes(
    processes: ProcessGroup, worker: str
) -> None:
    server = AppServer(processes, APP, "--worker", worker, "--graceful-timeout", "0.5")
    began = processes.folder / "began"
    with FastCGIClient(str(server.socket)) as client:
        client.ask(1, f"/burn?seconds=50&began={began}")
        wait_until(began.exists, "the app to begin")
        start = time.monotonic()
        assert server.process.stop(within=10) == 1
        assert 0.5 <= time.monotonic() - start < 5
    assert "the graceful timeout of 0.5 seconds is over" in server.process.log()
    assert not server.socket.exists()


@pytest.mark.parametrize("worker", ["thread", "main"])
def test_a_request_whose_peer_is_gone_is_not_waited_for(
    processes: ProcessGroup, worker: str
) -> None:
    """Not even an endless one."""
    server = AppServer(processes, APP, "--worker", worker)
    with FastCGIClient(str(server.socket)) as client:
        client.ask(1, "/stream?pieces=1000000000")
        client.read_record()
    assert server.process.stop(within=5) == 0


@pytest.mark.parametrize("worker", ["thread", "main"])
def test_kept_connections_that_never_rest_do_not_hold_it_up(
    processes: ProcessGroup, worker: str
) -> None:
    """The next request is there whenever an answer has gone; that must end."""
    server = AppServer(processes, APP, "--worker", worker)
    begun = threading.Barrier(17)

    def ask() -> None:
        with FastCGIClient(str(server.socket)) as client:
            path = f"/work?id=x&journal={processes.folder}/journal"
            assert client.get(path).status == 200
            begun.wait(10)
            # Until the server closes the connection, which is an AssertionError of the client.
            with contextlib.suppress(OSError, AssertionError):
                while client.get(path).ended:
                    pass

    with ThreadPoolExecutor(16) as pool:
        clients = [pool.submit(ask) for _ in range(16)]
        begun.wait(10)
        assert server.process.stop(within=5) == 0
        for client in clients:
            client.result(10)


@pytest.mark.parametrize("worker", ["thread", "main"])
def test_sigpipe_is_ignored(processes: ProcessGroup, worker: str) -> None:
    server = AppServer(processes, APP, "--worker", worker)
    server.process.send_signal(signal.SIGPIPE)
    with FastCGIClient(str(server.socket)) as client:
        assert client.get("/echo").status == 200
    assert server.process.stop() == 0


class Load(Clients):
    """They note how each of their requests, which has a name, was answered.

    Args:
        port: the web server's port.
        path: what they ask for; the request's name is put behind it.
        count: how many they are.
    """

    def __init__(self, port: int, path: str, count: int) -> None:
        super().__init__(port, count)
        self._path = path
        self._numbers = itertools.count(1)
        self.answers: dict[str, int] = {}
        self.wrong: list[str] = []

    def ask(self, client: Client, number: int) -> None:
        name = f"{number}.{next(self._numbers)}"
        try:
            answer = client.request("GET", self._path + name)
        except (OSError, HTTPException) as error:
            self.wrong.append(f"{name}: {error!r}")
            return
        if answer.status == 200 and answer.text != f"did {name}\n":
            self.wrong.append(f"{name}: {answer.body!r}")
        self.answers[name] = answer.status

    def wait_for(self, enough: Callable[[Counter[int]], bool], what: str) -> None:
        wait_until(lambda: enough(Counter(list(self.answers.values()))), what, 20)


# What nginx says of a kept connection that was closed while its next request was on the way. It
# cannot be helped: that request came after the last read.
_CLOSED_KEPT = "|".join(
    (
        r"writev\(\) failed \(32: Broken pipe\) while sending request",
        r"recv\(\) failed \(104: Connection reset by peer\) while reading response header",
        r"upstream prematurely closed connection while reading response header",
    )
)


@pytest.mark.parametrize("worker", ["thread", "main"])
@pytest.mark.parametrize("prefix", ["", "/tcp", "/unbuffered"])
def test_no_request_is_lost_when_it_stops_under_load(
    processes: ProcessGroup, prefix: str, worker: str
) -> None:
    """What the app has begun is answered; what nginx could not hand over any more is a 502."""
    journal = processes.folder / "journal"
    server = AppServer(processes, APP, "--worker", worker, "--threads", "4")
    nginx = Nginx(processes, server)
    with Load(nginx.port, f"{prefix}/work?journal={journal}&id=", 16) as load:
        load.wait_for(lambda seen: seen[200] >= 200, "200 answers")
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(10)
        # A request that crosses the end of a TCP connection is lost, and the status admits it.
        crossed = "requests that were sent on TCP connections while these were closed"
        assert status == (1 if crossed in server.process.log() else 0)
        assert status == 0 or prefix == "/tcp"
        load.wait_for(lambda seen: seen[502] >= 50, "50 refusals")
    assert load.wrong == []
    assert set(load.answers.values()) == {200, 502}
    lines = [line.split() for line in journal.read_text().splitlines()]
    begun = {name for what, name in lines if what == "begin"}
    assert begun == {name for what, name in lines if what == "end"}
    assert begun == {name for name, status in load.answers.items() if status == 200}
    allowed = r"connect\(\) .*failed|no live upstreams"
    if prefix != "/unbuffered":
        allowed += f"|{_CLOSED_KEPT}"
    failures = re.findall(r".*\[(?:error|crit|alert|emerg)\].*", nginx.error_log())
    assert [line for line in failures if not re.search(allowed, line)] == []


@pytest.mark.parametrize("worker", ["thread", "main"])
def test_what_was_readable_when_the_signal_came_is_answered(
    processes: ProcessGroup, worker: str
) -> None:
    """On kept connections, and on such as were not even accepted."""
    server = AppServer(processes, APP, "--worker", worker, "--threads", "1")
    with Gate(processes.folder) as gate, contextlib.ExitStack() as stack:
        addresses: list[str | tuple[str, int]] = [str(server.socket), ("127.0.0.1", server.port)]
        kept = [stack.enter_context(FastCGIClient(addresses[n % 2])) for n in range(10)]
        assert all(client.get("/echo").status == 200 for client in kept)
        holder = stack.enter_context(FastCGIClient(addresses[0]))
        holder.ask(1, gate.url)
        # Under `main` the app holds the whole process from here on: nothing is read or accepted.
        gate.wait_for_app()
        new = [stack.enter_context(FastCGIClient(addresses[n % 2])) for n in range(100)]
        for number, client in enumerate([*kept, *new]):
            client.ask(2, "/upload", b"%d" % number, keep_conn=number % 3 == 0)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _pending(server.pid, signal.SIGTERM), "the signal's delivery")
        gate.open()
        assert holder.answer(1).body == b"before\nafter\n"
        for number, client in enumerate([*kept, *new]):
            digest = hashlib.sha256(b"%d" % number).hexdigest()
            assert client.answer(2).body.decode() == f"{len(str(number))} {digest}\n"
    assert server.process.wait(5) == 0


def test_a_full_pipe_as_stderr_does_not_keep_it_from_exiting(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"z" * 4096)
    os.set_blocking(writing, True)
    argv = [sys.executable, "-m", "vsgi_fcgi", "--graceful-timeout", "3", "--socket", "app.sock"]
    argv += ["--chdir", str(APPS), APP]
    argv[argv.index("app.sock")] = str(tmp_path / "app.sock")
    process = subprocess.Popen(argv, stderr=writing, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: _accepts(str(tmp_path / "app.sock")), "the socket", 20)
        with FastCGIClient(str(tmp_path / "app.sock")) as client:
            assert client.get("/echo").status == 200
        process.terminate()
        assert process.wait(20) == 1
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


JOBS = """
import time
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
def job(path, seconds):
    time.sleep(seconds)
    open(path, "w").close()
def app(environ, start_response):
    pool.submit(job, environ["PATH_INFO"], float(environ["QUERY_STRING"]))
    start_response("202 Accepted", [("Content-Length", "0")])
    return []
"""


@pytest.mark.parametrize(("seconds", "status"), [("0.5", 0), ("60", 1)])
def test_jobs_of_an_executor_are_waited_for(
    processes: ProcessGroup, seconds: str, status: int
) -> None:
    (processes.folder / "jobs.py").write_text(JOBS)
    options = ("--graceful-timeout", "2")
    server = AppServer(processes, "jobs:app", *options, folder=processes.folder)
    done = processes.folder / "done"
    with FastCGIClient(str(server.socket)) as client:
        assert client.get(f"{done}?{seconds}").status == 202
    assert server.process.stop(within=10) == status
    assert done.exists() == (status == 0)
    assert ("that still ran are cut off" in server.process.log()) == (status == 1)


THREADS = """
import threading
from pathlib import Path

def work(gate, done):
    Path(gate).read_bytes()
    # One more, as a job that is done in steps has it.
    threading.Thread(target=finish, args=(done,)).start()

def finish(done):
    with open(done, "w") as file:
        for _ in range(1000):
            file.write("line\\n")
            file.flush()

def app(environ, start_response):
    args = str(Path(__file__).with_name("gate")), str(Path(__file__).with_name("done"))
    threading.Thread(target=work, args=args, name="the long work").start()
    start_response("202 Accepted", [("Content-Length", "0")])
    return []
"""


@pytest.mark.parametrize("worker", ["thread", "main"])
@pytest.mark.parametrize("grace", ["60", "1"])
def test_threads_that_requests_start_are_waited_for(
    processes: ProcessGroup, worker: str, grace: str
) -> None:
    (processes.folder / "threads.py").write_text(THREADS)
    options = ("--worker", worker, "--graceful-timeout", grace)
    server = AppServer(processes, "threads:app", *options, folder=processes.folder)
    done = processes.folder / "done"
    with Gate(processes.folder) as gate, FastCGIClient(str(server.socket)) as client:
        assert client.get("/").status == 202
        gate.wait_for_app()
        server.process.send_signal(signal.SIGTERM)
        client.read_to_end()
        if grace == "60":
            gate.open()
            assert server.process.wait() == 0
            assert done.read_text() == "line\n" * 1000
        else:
            assert server.process.wait() == 1
            assert not done.exists()
    named = "threads of the app that still ran are cut off: the long work" in server.process.log()
    assert named == (grace == "1")


def test_sigusr1_reopens_the_log_file_of_a_relay(processes: ProcessGroup) -> None:
    folder = processes.folder
    (folder / "logging.toml").write_text(logging_to(folder / "error.log"))
    server = AppServer(processes, APP)
    address = str(folder / "relay.sock")
    argv = [str(command(processes)), "relay", "--upstream", f"unix:{server.socket}"]
    argv += ["--socket", address, "--log-config", str(folder / "logging.toml")]
    relay = processes.start(argv, name="relay")
    relay.wait_for_log("listening on")
    log = folder / "error.log"
    log.rename(f"{log}.1")
    relay.send_signal(signal.SIGUSR1)
    wait_until(lambda: "SIGUSR1: the log files were opened again" in _text(log), "the new file")
    with FastCGIClient(address) as client:
        assert client.get("/echo").status == 200
    assert relay.stop() == 0
    assert "stopped" in _text(log)
