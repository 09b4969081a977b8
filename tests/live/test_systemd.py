"""Test the server under ``systemd-socket-activate``, with notifications to a real socket."""

from __future__ import annotations

import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from configparser import RawConfigParser
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.front_ends.servers import APPS, EXAMPLES, command, find
from support.gates import Gate
from support.processes import Process, ProcessGroup, free_port, wait_until
from support.systemd import Manager, activate

from vsgi_fcgi.server.config import Config

APP = "apps.routes:app"
UNITS = EXAMPLES / "systemd"

# Says what its process has of what systemd passed.
SEEING = """
import os

def inherited():
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                yield name
        except OSError:
            pass

def app(environ, start_response):
    start_response("200 OK", [])
    variables = [name for name in os.environ if name.startswith("LISTEN_")]
    return [repr((variables, list(inherited()))).encode()]
"""

SCRIPT = """
import sys
from seeing import app
from vsgi_fcgi import Server
server = Server(app)
{listen}
sys.exit(server.run())
"""


def arguments(group: ProcessGroup, *options: str, app: str = APP) -> list[str]:
    return [str(command(group)), "--chdir", str(APPS), *options, app]


def get(address: str, path: str = "/echo") -> int:
    with Client(address) as client:
        return client.get(path).status


def failure(process: Process, address: str) -> str:
    """What the server says when it cannot serve: the last line of its log."""
    with socket.socket(socket.AF_UNIX, _kind(address)) as sock:
        sock.connect(address)
        if sock.type == socket.SOCK_DGRAM:
            sock.send(b"wake up")
        assert process.wait() == 2
    return process.log().splitlines()[-1]


def _kind(address: str) -> socket.SocketKind:
    return socket.SOCK_DGRAM if address.endswith(".dgram") else socket.SOCK_STREAM


def test_all_sockets_are_served_unless_something_is_named(processes: ProcessGroup) -> None:
    first, second = f"{processes.folder}/1.sock", f"{processes.folder}/2.sock"
    server = activate(processes, arguments(processes), first, second)
    assert get(first) == get(second) == 200
    wait_until(lambda: server.log().count("INFO listening on fcgi+fd://") == 2, "both lines")
    assert server.stop() == 0
    # They are systemd's, and not ours to remove.
    assert Path(first).exists()


def test_sockets_by_their_name(processes: ProcessGroup) -> None:
    paths = [f"{processes.folder}/{number}.sock" for number in range(3)]
    argv = arguments(processes, "--bind", "systemd:web", "--bind", "systemd:admin")
    activate(processes, argv, *paths, names="web:other:admin")
    assert get(paths[0]) == get(paths[2]) == 200
    with Client(paths[1]) as client:
        # Nobody listens, though it is not refused: systemd's tool has no other process for it.
        client.ask(1, "/echo")
        assert get(paths[0]) == 200
        assert 1 not in client.answers


def test_another_address_beside_those_of_systemd(processes: ProcessGroup) -> None:
    path, port = f"{processes.folder}/app.sock", free_port()
    server = activate(processes, arguments(processes, "--bind", f"127.0.0.1:{port}"), path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        server.wait_for_log(f"listening on fcgi://127.0.0.1:{port}/")
    assert "fcgi+fd" not in server.log()


@pytest.mark.parametrize("listen", ["", "server.listen()", "server.listen('systemd:web')"])
def test_a_script(processes: ProcessGroup, listen: str) -> None:
    path = f"{processes.folder}/app.sock"
    (processes.folder / "seeing.py").write_text(SEEING)
    script = processes.folder / "serve.py"
    script.write_text(SCRIPT.format(listen=listen))
    server = activate(processes, [sys.executable, str(script)], path, names="web")
    with Client(path) as client:
        assert client.get().body == b"([], [])"
    assert server.stop() == 0


def test_nothing_of_it_is_left_to_child_processes(processes: ProcessGroup) -> None:
    """Not even the sockets that the server does not use."""
    paths = [f"{processes.folder}/{number}.sock" for number in range(2)]
    (processes.folder / "seeing.py").write_text(SEEING)
    argv = [str(command(processes)), "--bind", "systemd:web", "seeing"]
    activate(processes, argv, *paths, names="web:other")
    with Client(paths[0]) as client:
        assert client.get().body == b"([], [])"


def test_a_name_that_was_not_passed(processes: ProcessGroup) -> None:
    path = f"{processes.folder}/app.sock"
    argv = arguments(processes, "--bind", "systemd:wbe")
    said = failure(activate(processes, argv, path, names="web"), path)
    assert "systemd:wbe: no socket with this name was passed (names: web); " in said


def test_a_socket_that_does_not_listen(processes: ProcessGroup) -> None:
    path = f"{processes.folder}/app.dgram"
    server = activate(processes, arguments(processes), path, names="log", options=("--datagram",))
    said = failure(server, path)
    assert "fd 3 of systemd (log) is not a listening socket; set ListenStream=" in said


def test_a_connection_as_of_accept_yes(processes: ProcessGroup) -> None:
    path = f"{processes.folder}/app.sock"
    activate(processes, arguments(processes), path, options=("--accept",))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        log = processes.folder / "server.log"
        wait_until(lambda: "is not a listening socket" in log.read_text(), "the server's end")
    assert "fd 3 of systemd (unknown) is not a listening socket" in log.read_text()


def test_without_systemd(processes: ProcessGroup) -> None:
    server = processes.start(arguments(processes, "--bind", "systemd:"), name="server")
    assert server.wait() == 2
    assert "systemd passed no sockets" in server.log()


def test_a_script_in_between_that_does_not_exec(processes: ProcessGroup) -> None:
    path = f"{processes.folder}/app.sock"
    argv = ["sh", "-c", '"$@"; exit $?', "sh", *arguments(processes, "--bind", "systemd:")]
    assert "must start the server with exec" in failure(activate(processes, argv, path), path)


# Notifying.


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize("worker", ["thread", "main"])
def test_ready_status_and_stopping(processes: ProcessGroup, worker: str, abstract: bool) -> None:
    with Manager(processes.folder, abstract) as manager:
        path = f"{processes.folder}/app.sock"
        argv = arguments(processes, "--worker", worker)
        env = {"NOTIFY_SOCKET": manager.address}
        server = activate(processes, argv, path, env=env)
        assert get(path) == 200
        message = manager.receive()
        assert message["READY"] == "1"
        assert message["STATUS"].startswith("listening on fcgi+fd://3/; connections: ")
        assert "WATCHDOG" not in message
        assert server.stop() == 0
        message = manager.receive()
        assert message["STOPPING"] == "1"
        assert message["STATUS"].startswith("stopping; connections: ")


def test_the_status_follows_what_happens(processes: ProcessGroup) -> None:
    with Manager(processes.folder) as manager, Gate(processes.folder) as gate:
        env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
        path = f"{processes.folder}/app.sock"
        argv = arguments(processes, "--socket", path, "--threads", "1")
        server = processes.start(argv, name="server", env=env)
        assert manager.wait_for("READY", "1")["WATCHDOG"] == "1"
        with Client(path) as client:
            client.ask(1, gate.url)
            gate.wait_for_app()
            client.ask(2, "/echo")
            manager.wait_for("STATUS", "connections: 1, requests: 2, waiting for a worker: 1")
            server.send_signal(signal.SIGTERM)
            manager.wait_for("STOPPING", "1")
            # There are signs of life as long as it lives.
            manager.wait_for("WATCHDOG", "1")
            gate.open()
            assert client.answer(1).body == b"before\nafter\n"
        assert server.wait() == 0


@pytest.mark.parametrize("worker", ["thread", "main"])
def test_the_watchdog_sees_a_main_context_that_is_stuck(
    processes: ProcessGroup, worker: str
) -> None:
    with Manager(processes.folder) as manager, Gate(processes.folder) as gate:
        env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
        path = f"{processes.folder}/app.sock"
        argv = arguments(processes, "--socket", path, "--worker", worker)
        processes.start(argv, name="server", env=env)
        for _ in range(3):
            manager.wait_for("WATCHDOG", "1")
        with Client(path) as client:
            client.ask(1, gate.url)
            gate.wait_for_app()
            # A waiting thread delays no others; in the main context, nothing else runs meanwhile.
            assert manager.is_silent(0.5) == (worker == "main")
            gate.open()
            assert client.answer(1).ended
        manager.wait_for("WATCHDOG", "1")


def test_a_watchdog_of_another_process(processes: ProcessGroup) -> None:
    with Manager(processes.folder) as manager:
        env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
        argv = arguments(processes, "--socket", f"{processes.folder}/app.sock")
        processes.start(argv, name="server", env=env)
        assert "WATCHDOG" not in manager.receive()


def test_a_reload_is_notified_from_its_beginning_to_its_end(processes: ProcessGroup) -> None:
    """As ``Type=notify-reload`` waits for it, with a time that is not before that of its signal."""
    with Manager(processes.folder) as manager:
        env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
        path = f"{processes.folder}/app.sock"
        server = activate(processes, arguments(processes, "--processes", "2"), path, env=env)
        assert get(path) == 200
        message = manager.wait_for("READY", "1")
        assert message["MAINPID"] == str(server.pid)
        manager.wait_for("WATCHDOG", "1")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        server.send_signal(signal.SIGHUP)
        assert int(manager.wait_for("RELOADING", "1")["MONOTONIC_USEC"]) >= before
        message = manager.wait_for("READY", "1")
        assert message["STATUS"].startswith("serving on fcgi+fd://3/; processes: 2")
        server.wait_for_log("reloaded: all processes serve the new version")
        assert get(path) == 200
        assert server.stop() == 0
        assert manager.wait_for("STOPPING", "1")


@pytest.mark.parametrize("there", [False, True])
def test_a_manager_that_does_not_listen_ends_nothing(processes: ProcessGroup, there: bool) -> None:
    """Neither one that is gone nor one that does not read."""
    path = processes.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        if there:
            manager.bind(str(path))
        env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000"}
        server = processes.start(
            arguments(processes, "--socket", f"{processes.folder}/app.sock"), env=env, name="server"
        )
        server.wait_for_log("cannot notify the service manager at NOTIFY_SOCKET=")
        for _ in range(20):
            assert get(f"{processes.folder}/app.sock") == 200
        assert server.stop() == 0
    assert server.log().count("cannot notify") == 1


# The example.


def unit(name: str) -> RawConfigParser:
    """A unit file; of an option that is there twice, only the last is seen."""
    parser = RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def test_the_units_are_what_systemd_understands(tmp_path: Path) -> None:
    find("systemd-analyze")
    program = tmp_path / "vsgi-fcgi"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in UNITS.iterdir():
        shutil.copy(path, tmp_path)
    service = tmp_path / "vsgi-fcgi.service"
    text = service.read_text()
    assert text.count("ExecStart=/srv/venv/bin/vsgi-fcgi ") == 1
    service.write_text(text.replace("/srv/venv/bin/vsgi-fcgi", str(program)))
    argv = ["systemd-analyze", "verify", "--man=no", str(service), f"{tmp_path}/vsgi-fcgi.socket"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    # It would have said so.
    program.unlink()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert f"{program} is not executable" in done.stderr


def test_the_service_of_the_example(processes: ProcessGroup) -> None:
    """Started as its units say, in other folders."""
    service, sock = unit("vsgi-fcgi.service")["Service"], unit("vsgi-fcgi.socket")["Socket"]
    program, *argv = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/vsgi-fcgi")
    (processes.folder / "mysite").mkdir()
    (processes.folder / "mysite" / "wsgi.py").write_text((EXAMPLES / "hello.py").read_text())
    argv[argv.index("/srv/mysite")] = str(processes.folder)
    path = str(processes.folder / Path(sock["ListenStream"]).name)
    with Manager(processes.folder) as manager:
        env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": f"{service['WatchdogSec']}000000"}
        name = sock["FileDescriptorName"]
        started = [str(command(processes)), *argv]
        server = activate(processes, started, path, names=name, env=env)
        with Client(path) as client:
            assert client.get("/path").body.startswith(b"Hello from vsgi_fcgi!\n")
        message = manager.receive()
        assert message["READY"] == message["WATCHDOG"] == "1"
        assert server.stop() == 0
    assert float(service["TimeoutStopSec"]) > Config().graceful_timeout
    assert service["Type"] == "notify"


def test_the_next_server_answers_what_waits_during_a_restart(processes: ProcessGroup) -> None:
    """The socket stays, whichever server is there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        # As systemd does it: the descriptor is 3, and the process is the one that is named.
        shell = ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 0</dev/null', "sh"]
        argv = [*shell, *arguments(processes)]
        first = processes.start(argv, name="first", stdin=listener)
        first.wait_for_log("listening on fcgi+fd://3/")
        assert first.stop() == 0
        with Client(listener.getsockname()) as waiting:
            waiting.ask(1, "/echo")
            second = processes.start(argv, name="second", stdin=listener)
            assert waiting.answer(1).status == 200
        assert second.stop() == 0
