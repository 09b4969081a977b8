"""Test ``vsgi-fcgi doctor``: its arguments, its errors, and its answers."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import complaints, run_command
from support.doctor import DoctorServer, codes
from support.fcgi import records
from support.fcgi.peer import Client, request_params
from support.fcgi.records import AUTHORIZER, FILTER, RESPONDER
from support.flup import connects
from support.front_ends.servers import command
from support.processes import ProcessGroup, wait_until

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def doctor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoctorServer]:
    with ProcessGroup(tmp_path_factory.mktemp("doctor")) as group:
        yield DoctorServer(group)


@pytest.fixture
def client(doctor: DoctorServer) -> Iterator[Client]:
    with Client(str(doctor.socket)) as client:
        yield client


JSON = {"HTTP_ACCEPT": "application/json"}


def report(client: Client, id: int = 1, **params: str) -> Any:
    client.ask(id, more={**JSON, **params})
    return json.loads(client.answer(id).body)


# What it refuses.


def test_one_sentence_says_what_is_refused(tmp_path: Path) -> None:
    cases = [
        ("--bind 0.0.0.0:0", "other machines can reach this address"),
        ("--bind [::]:0", "other machines can reach this address"),
        ("--port 0 --any --ipv4-only", "other machines can reach this address"),
        ("--socket ./d --socket-mode 0666", "/d: every local user may connect"),
        ("--bind unix:./d --bind 0.0.0.0:0", "other machines can reach this address"),
        ("--bind unix:./d --http 127.0.0.1:0", "--http: the doctor diagnoses a web server"),
        ("", "fd 0 is not a listening socket"),
        ("--bind unix:./d --script-name x", "must be empty or begin with a slash"),
        (
            "--bind unix:./d --threds 3",
            "--threds: there is no such option; did you mean --threads?",
        ),
    ]
    lines = [["doctor", "site:app", *words.split()] for words, _ in cases]
    for (words, sentence), said in zip(cases, complaints(tmp_path, lines), strict=True):
        assert sentence in said, words
    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_it_was_started_with_is_looked_at_too(processes: ProcessGroup) -> None:
    path = processes.folder / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o666)
        process = processes.start([str(command(processes)), "doctor"], name="d", stdin=listener)
        assert process.wait() == 2
        assert "SocketMode= of systemd" in process.log()
        path.chmod(0o660)
        process = processes.start([str(command(processes)), "doctor"], name="e", stdin=listener)
        process.wait_for_log("listening on fcgi+fd://0/")


# What it takes.


def test_it_takes_the_command_line_and_the_settings_of_the_app(processes: ProcessGroup) -> None:
    """The app is not loaded; its threads, its pid file and its socket's mode are used."""
    folder = processes.folder
    folder.joinpath("site.py").write_text("raise SystemExit('the app was loaded')")
    settings = folder / "settings.toml"
    settings.write_text('app = "site:app"\nscript-name = "/shop"\nsocket-mode = 0o600\n')
    words = ["site:app", "--chdir", str(folder), "--config", str(settings), "--bind", "unix:./d"]
    words += ["--threads", "2", "--reload", "--debug", "--authorizer", "site:auth"]
    words += ["--pid-file", "pid", "--log-level", "error"]
    process = processes.start([str(command(processes)), "doctor", *words], name="doctor")
    log = process.wait_for_log("THIS IS THE DOCTOR, NOT THE APP")
    wait_until(lambda: connects(folder / "d"), "the socket")
    assert stat.S_IMODE(os.stat(folder / "d").st_mode) == 0o600
    assert (folder / "pid").read_text() == f"{process.pid}\n"
    with Client(str(folder / "d")) as client:
        found = report(client, PATH_INFO="/shop/a", REQUEST_URI="/shop/a")
    assert (found["facts"]["SCRIPT_NAME"], found["facts"]["PATH_INFO"]) == ("/shop", "/a")
    # A web server would look for ./d elsewhere.
    assert found["facts"]["Listener"] == f"unix:{folder}/d"
    assert process.stop() == 0
    assert "loaded" not in process.log()
    assert log.count("\n") == 1
    assert not (folder / "d").exists()


def test_it_listens_where_the_app_does(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('bind = ["unix:./d"]\n[doctor]\nthreads = 3\n')
    output = run_command(tmp_path, "doctor", "--config", str(settings), "--check-config")
    assert output.status == 0, output.err
    assert 'bind = ["unix:./d"]' in output.out
    assert "threads = 3" in output.out
    assert output.out.endswith("\nThe settings are valid.\n")
    printed = run_command(tmp_path, "doctor", "--config", str(settings), "--print-config")
    assert 'bind = ["unix:./d"]' in printed.out


def test_an_app_of_this_name_can_still_be_named(tmp_path: Path) -> None:
    (tmp_path / "doctor.py").write_text("def app(environ, start):\n    return []\n")
    checked = run_command(tmp_path, "doctor:app", "--check-config")
    assert "The app was loaded" in checked.out


# What it sees on the line.


def test_params_are_shown_in_their_order(client: Client) -> None:
    pairs = [*request_params("/a").items(), ("HTTP_ACCEPT", "application/json")]
    pairs += [("B", "1"), ("A", "2"), ("B", "3"), ("B", "1")]
    client.send(records.begin(1) + records.params(1, pairs) + records.stdin(1))
    found = json.loads(client.answer(1).body)
    assert found["params"] == [[name, value or '""'] for name, value in pairs]
    assert found["environ"]["B"] == "1"


def test_connections_and_requests_are_counted(doctor: DoctorServer, client: Client) -> None:
    first = report(client)["facts"]
    assert first["Connection"].endswith("request 1 on it, to keep open")
    assert first["GET_VALUES"] == "not sent"
    client.send(records.get_values("FCGI_MPXS_CONNS"))
    second = report(client, id=7)["facts"]
    assert second["Connection"].endswith("request 2 on it, to keep open")
    assert second["Connection"].split(",")[0] == first["Connection"].split(",")[0]
    assert (second["Request id"], second["GET_VALUES"]) == (
        "7, alone on its connection",
        "sent",
    )
    assert second["Listener"] == f"unix:{doctor.socket}"
    with Client(("127.0.0.1", doctor.port)) as other:
        third = report(other)["facts"]
    assert third["Connection"].split(",")[0] != first["Connection"].split(",")[0]
    assert third["Listener"] == f"127.0.0.1:{doctor.port}"


def test_connections_that_are_not_kept_are_counted(processes: ProcessGroup) -> None:
    """Until one is used again."""
    doctor = DoctorServer(processes)

    def ask(times: int) -> Any:
        with Client(str(doctor.socket)) as client:
            return [codes(report(client)) for _ in range(times)]

    for _ in range(5):
        ask(1)
    assert ask(2) == [["connections-dropped"], []]
    assert ask(1) == [[]]


def test_a_neighbour_is_seen(client: Client) -> None:
    client.start(1)
    assert report(client, id=3)["facts"]["Request id"] == "3, shares its connection with 1 request"


def test_a_request_without_params_is_told_what_is_missing(client: Client) -> None:
    report(client)
    client.send(records.request(1, JSON))
    assert codes(json.loads(client.answer(1).body)) == ["method-missing"]


def test_params_that_are_none_are_refused(client: Client) -> None:
    report(client)
    client.send(records.begin(1) + records.params(1, b"\x05\x05a") + records.stdin(1))
    assert client.answer(1).status == 400
    assert report(client, id=2)["findings"] == []


@pytest.mark.parametrize(("role", "status"), [(RESPONDER, 200), (AUTHORIZER, 403), (FILTER, 200)])
def test_each_role_is_answered(client: Client, role: int, status: int) -> None:
    streams = records.params(1, request_params("/", more=JSON))
    streams += b"" if role == AUTHORIZER else records.stdin(1)
    streams += records.data(1, b"a secret file") if role == FILTER else b""
    client.send(records.begin(1, role) + streams)
    answer = client.answer(1)
    assert answer.status == status
    assert b"a secret file" not in answer.body
    assert bool(json.loads(answer.body)["role"]) == (role != RESPONDER)


def test_each_request_is_a_line_in_the_log(doctor: DoctorServer, client: Client) -> None:
    # The other tests have left kept connections.
    report(client)
    report(client, REQUEST_URI="/one-line", SERVER_SOFTWARE="nginx/1", HTTP_CONTENT_TYPE="a/b")
    log = doctor.process.wait_for_log("GET /one-line")
    (line,) = [line for line in log.splitlines() if "/one-line" in line]
    assert line.endswith(
        "GET /one-line from nginx (nginx/1): The client sent a Content-Type, but there is no"
        " CONTENT_TYPE"
    )
