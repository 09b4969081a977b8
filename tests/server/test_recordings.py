"""Test when a server writes recordings, and where."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from support.commands import complaint
from support.fcgi import records
from support.fcgi.peer import Client
from support.front_ends.servers import AppServer
from support.front_ends.servers import command as command_path
from support.processes import Process, ProcessGroup
from support.server import TESTS, Running, hello, logged, respond, run_script, running, wait_until

from vsgi_fcgi.recording.file import About, read_recording
from vsgi_fcgi.recording.records import Record
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

SECRET = "tHe-SeCrEt"


def written(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.recording"))


def only(folder: Path) -> tuple[About, list[Record]]:
    """The recording in a folder, as soon as there is one."""
    wait_until(lambda: written(folder))
    (path,) = written(folder)
    return read_recording(str(path))


def abort(server: Running, client: Client) -> None:
    client.start(2, length=10)
    client.abort(2)
    client.answer(2)


def leave(server: Running, client: Client) -> None:
    client.start(2, length=10)
    client.stdin(2, b"12345", end=False)
    wait_until(lambda: 2 in server.connection().protocol.requests)
    client.close()


def violate(server: Running, client: Client) -> None:
    client.start(2, length=10)
    client.send(records.record(records.STDOUT, 2, b"x"))
    client.read_to_end()


def speak_http(server: Running, client: Client) -> None:
    client.send(f"GET /{SECRET} HTTP/1.1\r\nCookie: {SECRET}\r\n\r\n".encode())
    client.read_to_end()


def send_too_little(server: Running, client: Client) -> None:
    client.start(2, length=10)
    client.stdin(2, b"12345")
    assert client.answer(2).status == 400


def stop_sending(server: Running, client: Client) -> None:
    client.start(2, length=10)
    assert client.answer(2).status == 408


def get_broken(server: Running, client: Client) -> None:
    client.ask(2, "/broken")
    client.read_to_end()


def run_too_long(server: Running, client: Client) -> None:
    assert client.get("/long", id=2).status == 504


ENDS: dict[Callable[[Running, Client], None], str] = {
    abort: "request 2: the web server has aborted it",
    leave: "the connection ended before its requests: 1",
    violate: "protocol error: STDOUT record (id 2, 1 bytes): only an application may send",
    speak_http: "protocol error: this looks like an HTTP request",
    send_too_little: "request 2 is invalid",
    stop_sending: "request 2: no more of it arrived within 0.2 seconds",
    get_broken: "request 2: the app's response is incomplete",
    run_too_long: "request 2 has run or waited too long",
}


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/broken":
        # More than one piece, so that the first one is sent.
        start_response("200 OK", [("Content-Length", "10"), ("Set-Cookie", SECRET)])
        return iter([b"12", b"345"])
    if environ["PATH_INFO"] == "/long":
        # The server interrupts it between two waits.
        for _ in range(2000):
            threading.Event().wait(0.01)
    return respond(start_response, SECRET.encode())


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_a_bad_end_is_recorded(end: Callable[[Running, Client], None], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"receive_timeout": 0.2} if end is stop_sending else {}
    if end is run_too_long:
        settings = {"request_timeout": 0.1}
    with running(app, record=str(tmp_path), **settings) as server:
        client = server.connect()
        client.ask(1, f"/first?{SECRET}", more={"HTTP_COOKIE": SECRET})
        client.answer(1)
        end(server, client)
        about, found = only(tmp_path)
    assert about.reasons[0].startswith(ENDS[end])
    assert about.peer.startswith("connection 1 on fcgi+unix:")
    # The request before is there, and what followed the bad end.
    assert [each.name for each in found[:4]] == ["BEGIN_REQUEST", "PARAMS", "PARAMS", "STDIN"]
    (path,) = written(tmp_path)
    text = path.read_text()
    assert "/first?" in text
    assert SECRET not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == [path.name]


def test_good_ends_and_busy_servers_are_not_recorded(tmp_path: Path) -> None:
    with running(hello, record=str(tmp_path), max_body_bytes=10) as server:
        client = server.connect()
        client.get("/")
        assert client.get("/", b"too much for it").status == 413
        client.close()
        wait_until(lambda: not server.context.connections)
    # Stopping writes what is due.
    assert os.listdir(tmp_path) == []


def test_a_stop_writes_what_is_due(tmp_path: Path) -> None:
    with running(hello, record=str(tmp_path)) as server:
        client = server.connect()
        abort(server, client)
    only(tmp_path)


def test_many_requests_that_are_aborted_together_are_one_recording(tmp_path: Path) -> None:
    with running(hello, record=str(tmp_path)) as server:
        client = server.connect()
        ids = range(1, 31)
        client.send(b"".join(records.begin(id) for id in ids))
        client.send(b"".join(records.abort(id) for id in ids))
        client.collect_until(lambda: all(id in client.answers for id in ids))
        about, found = only(tmp_path)
    assert len(about.reasons) == 16
    assert sum(each.name == "ABORT_REQUEST" for each in found) == 30


def test_a_recording_has_the_last_records_at_most(tmp_path: Path) -> None:
    with running(hello, record=str(tmp_path), record_records=20) as server:
        client = server.connect()
        for _ in range(20):
            client.get("/")
        abort(server, client)
        _, found = only(tmp_path)
    assert len(found) == 20
    assert found[-1].name == "END_REQUEST"


def test_bodies_are_shown_if_this_is_wanted(tmp_path: Path) -> None:
    with running(app, record=str(tmp_path), record_body_bytes=4) as server:
        client = server.connect()
        client.get("/", b"a body")
        abort(server, client)
        only(tmp_path)
    text = written(tmp_path)[0].read_text()
    assert '"a bo"' in text
    assert f"\\r\\n\\r\\n{SECRET[:4]}" in text
    assert SECRET[:5] not in text


def test_the_oldest_files_are_removed(tmp_path: Path) -> None:
    others = ["a.txt", "vsgi-fcgi-notes", "x.recording"]
    for name in others:
        (tmp_path / name).touch()
    # Of another process, which has ended while it wrote one of them.
    old = [f"vsgi-fcgi-20200101T00000{number}.recording" for number in range(3)]
    for name in (*old, "vsgi-fcgi-20200101T000003.recording.part"):
        (tmp_path / name).touch()
    with running(hello, record=str(tmp_path), record_files=2) as server:
        for _ in range(2):
            with Client(server.address) as client:
                abort(server, client)
            wait_until(lambda: not server.context.connections)
    names = set(os.listdir(tmp_path))
    assert names >= set(others)
    assert len(names) == len(others) + 2
    assert not names & set(old)


def test_large_files_are_removed_first_by_age(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"vsgi-fcgi-2020010{number}.recording"
        path.write_bytes(bytes(500_000))
    with running(hello, record=str(tmp_path), record_total_bytes=1 << 20) as server:
        abort(server, server.connect())
    names = sorted(os.listdir(tmp_path))
    assert len(names) == 3
    assert names[0] == "vsgi-fcgi-20200101.recording"


def test_a_flood_of_bad_ends_writes_few_files(tmp_path: Path) -> None:
    with logged() as log, running(hello, record=str(tmp_path)) as server:
        clients = [server.connect() for _ in range(100)]
        for client in clients:
            client.start(1, length=10)
        wait_until(lambda: len(server.context.connections) == 100)
        wait_until(lambda: all(each.protocol.requests for each in server.context.connections))
        for client in clients:
            client.close()
        log.wait_for("further recordings of this second are not written, because more than 10")
        wait_until(lambda: not server.context.connections)
    assert 0 < len(written(tmp_path)) < 60


@pytest.mark.process
@pytest.mark.parametrize("worker", ["thread", "main"])
def test_a_full_disk_costs_the_recording_and_one_warning(worker: str) -> None:
    script = f"""
import os, resource, tempfile
from support.server import hello, logged, running, wait_until

def fill_the_disk(room):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

def fail(server, client, id):
    client.start(id, length=10)
    client.abort(id)
    client.answer(id)

with tempfile.TemporaryDirectory() as folder, logged() as log:
    with running(hello, record=folder, worker={worker!r}) as server:
        client = server.connect()
        fill_the_disk(100)
        fail(server, client, 1)
        log.wait_for("a recording cannot be written to")
        recorder = server.context.connections.recorder
        for id in (2, 3):
            fail(server, client, id)
            wait_until(lambda: recorder._number == id)
        # The thread writes one recording after the other, so the second one has failed as well.
        assert client.get("/fine").body == b"/fine"
        fill_the_disk(resource.RLIM_INFINITY)
        fail(server, client, 4)
        log.wait_for(": recorded in ")
        numbers = {{name.rpartition("-")[2] for name in os.listdir(folder)}}
    assert numbers and not numbers & {{"1.recording", "2.recording"}}, numbers
    warnings = [line for line in log.lines if "cannot be written" in line]
    assert len(warnings) == 1, warnings
print("fine")
"""
    assert run_script(script) == "fine\n"


@pytest.mark.process
def test_a_full_file_system(tmp_path: Path, root: None) -> None:
    script = """
import os
from support.server import hello, logged, running
folder = os.environ["FOLDER"]
filler = os.open(folder + "/filler", os.O_CREAT | os.O_WRONLY)
with logged() as log, running(hello, record=folder) as server:
    client = server.connect()
    try:
        while True:
            os.write(filler, bytes(4096))
    except OSError:
        pass
    client.start(1, length=10)
    client.abort(1)
    client.answer(1)
    log.wait_for("No space left on device")
    assert client.get("/fine").body == b"/fine"
assert os.listdir(folder) == ["filler"]
print("fine")
"""
    mount = 'mount -t tmpfs -o size=256k none "$FOLDER" && exec "$PYTHON" -W error -c "$SCRIPT"'
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount],
        env={**os.environ, "SCRIPT": script, "FOLDER": str(tmp_path), "PYTHON": sys.executable},
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=40,
    )
    if "unshare failed" in run.stderr or "mount:" in run.stderr:
        pytest.skip(f"a tmpfs cannot be mounted: {run.stderr}")
    assert run.stdout == "fine\n", run.stderr


@pytest.mark.process
def test_a_folder_that_cannot_be_used_is_reported_at_the_start(tmp_path: Path) -> None:
    said = "cannot be used: No such file or directory; name a folder that exists"
    words = ("--socket", "app.sock", "--chdir", str(TESTS))
    for command in ((), ("relay", "--upstream", "unix:/nowhere")):
        more = ("apps.echo:app",) if not command else ()
        chdir = words if not command else words[:2]
        complained = complaint(tmp_path, *command, *chdir, "--record", "/no/folder", *more)
        assert said in complained
        assert "record" in complained.partition(" ")[0]


@pytest.mark.process
@pytest.mark.parametrize("count", ["1", "2"])
def test_a_signal_writes_what_is_open(count: str, processes: ProcessGroup, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    server = AppServer(processes, "apps.echo:app", "--record", str(folder), "--processes", count)
    with Client(str(server.socket)) as client:
        client.get("/one")
        client.start(2, "/two", length=10)
        client.get("/three", id=3)
        server.process.send_signal(signal.SIGUSR2)
        about, found = only(folder)
        assert about.reasons == []
        names = [each.name for each in found if each.id == 2]
        assert names == ["BEGIN_REQUEST", "PARAMS", "PARAMS"]
        client.stdin(2, b"1234567890")
        assert client.answer(2).status == 200
    server.process.wait_for_log("recorded in")


def start(processes: ProcessGroup, app: str, *options: str) -> Process:
    """Start a server that does not record, unlike `AppServer`."""
    sock = str(processes.folder / "app.sock")
    argv = [str(command_path(processes)), "--socket", sock, "--chdir", str(TESTS)]
    env = {"PYTHONPATH": str(processes.folder)}
    return processes.start([*argv, *options, app], name="server", env=env)


@pytest.mark.process
@pytest.mark.parametrize("options", [(), ("--processes", "1"), ("--reload",)], ids=" ".join)
def test_a_signal_ends_no_server_that_records_nothing(
    options: tuple[str, ...], processes: ProcessGroup
) -> None:
    server = start(processes, "apps.echo:app", *options)
    server.wait_for_log("listening on")
    server.send_signal(signal.SIGUSR2)
    server.wait_for_log("SIGUSR2: no connection is recorded, because --record is not set")
    with Client(str(processes.folder / "app.sock")) as client:
        assert client.get("/").status == 200
    assert server.stop() == 0


@pytest.mark.process
def test_a_signal_ends_no_server_that_imports_its_app(processes: ProcessGroup) -> None:
    fifo = processes.folder / "go"
    os.mkfifo(fifo)
    code = f"print(open({str(fifo)!r}).read(), flush=True)\nfrom apps.echo import app\n"
    (processes.folder / "late.py").write_text(code)
    server = start(processes, "late:app")
    with fifo.open("w") as go:  # It is opened when the app opens it.
        server.send_signal(signal.SIGUSR2)
        go.write("the app goes on")
    server.wait_for_log("the app goes on")
    server.wait_for_log("listening on")
    assert server.stop() == 0


def test_a_child_that_an_app_has_forked_writes_nothing(tmp_path: Path) -> None:
    def forking(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fork":
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
        return respond(start_response, b"")

    with running(forking, record=str(tmp_path), worker="main") as server:
        client = server.connect()
        client.start(1, "/fork")
        client.stdin(1)
        client.answer(1)
        abort(server, client)
        only(tmp_path)
