"""Run the output of ``vsgi-fcgi config`` with the server command that it names."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
from support.fcgi.peer import Client
from support.front_ends.hosts import replaced
from support.front_ends.printed import PARTS, PROGRAMS, Printed, print_config
from support.front_ends.servers import EXAMPLES, find, program_version
from support.http import request
from support.processes import ProcessGroup, wait_until
from support.systemd import activate

PATHS = [
    ("/", "/"),
    ("/b/c?d=e", "/b/c"),
    ("/a%20b/%C3%A9", "/a b/\xc3\xa9"),
    ("/folder/", "/folder/"),
]
MOUNTS = ("", "/a.pp")
AUTHORIZATION = {"Authorization": "Basic YTpi"}


@pytest.fixture(
    scope="module",
    params=[(program, mount) for program in PROGRAMS for mount in MOUNTS],
    ids=lambda param: param[0] + param[1].replace("/", "-"),
)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Printed, str]]:
    program, mount = request.param
    words = ["--script-name", mount] if mount else []
    with ProcessGroup(tmp_path_factory.mktemp("site")) as group:
        yield Printed(group, program, *words), mount


def _path(web: Printed, target: str) -> tuple[str, str]:
    answer = request(web.port, target)
    assert answer.status == 200, web.error_log()
    seen = answer.json()
    assert seen["REQUEST_URI"] == target
    return seen["SCRIPT_NAME"], seen["PATH_INFO"]


def test_paths(site: tuple[Printed, str]) -> None:
    web, mount = site
    for target, path in PATHS:
        assert _path(web, mount + target) == (mount, path)
    if mount:
        assert _path(web, mount) == (mount, "")
        # The first character of the mount point, written in another way.
        assert _path(web, f"/%61{mount[2:]}/b") == (mount, "/b")
        for target in (f"{mount}ing", f"{mount}ing/b", mount.replace(".", "x"), "/"):
            assert request(web.port, target).status in (403, 404)


def test_bodies_and_passwords_arrive(site: tuple[Printed, str]) -> None:
    web, mount = site
    data = bytes(range(256)) * 8192
    answer = request(web.port, f"{mount}/upload", method="POST", body=data, headers=AUTHORIZATION)
    seen = answer.json()
    assert (seen["size"], seen["digest"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert seen["HTTP_AUTHORIZATION"] == AUTHORIZATION["Authorization"]
    assert seen["REQUEST_METHOD"] == "POST"


def test_an_answer_comes_as_it_is_made(site: tuple[Printed, str], tmp_path: Path) -> None:
    web, mount = site
    connection = HTTPConnection("127.0.0.1", web.port, timeout=5)
    connection.request("GET", f"{mount}/pieces?{tmp_path}/")
    response = connection.getresponse()
    assert response.read1() == b"first"
    (tmp_path / "second").touch()
    assert response.read1() == b"second"
    (tmp_path / "third").touch()
    assert response.read() == b"third"
    connection.close()


def test_what_the_app_complains_of_harms_nobody(site: tuple[Printed, str]) -> None:
    web, mount = site
    for _ in range(3):
        assert request(web.port, f"{mount}/complain").body == b"ok"
    wait_until(lambda: web.server_log().count("this app complains") >= 3, "the server's log")


def test_connections_are_kept_where_they_can_be(site: tuple[Printed, str]) -> None:
    web, mount = site
    seen = [request(web.port, f"{mount}/stats").json()["accepted"] for _ in range(12)]
    if web.program in ("nginx", "apache", "haproxy"):
        # Each process of Apache has connections of its own.
        assert seen[-1] - seen[0] <= 4
    else:
        assert seen[-1] - seen[0] == 11


@pytest.mark.parametrize("shares_since", ["2.4", "3.2", "9.0"])
def test_haproxy_shares_a_connection(
    processes: ProcessGroup, tmp_path: Path, shares_since: str
) -> None:
    """From a version on; the printed one is 3.2."""

    def since(text: str) -> str:
        return replaced(text, "version_atleast(3.2)", f"version_atleast({shares_since})")

    web = Printed(processes, "haproxy", "--threads", "20", change=since)
    version = program_version(find("haproxy"), "-v")
    shares = version >= tuple(map(int, shares_since.split(".")))
    before = request(web.port, "/stats").json()["accepted"]
    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(request, web.port, f"/wait?{tmp_path / 'go'}") for _ in range(10)]
        wait_until(lambda: request(web.port, "/stats").json()["in_flight"] > 10, "ten requests")
        (tmp_path / "go").touch()
        assert [item.result().body for item in asked] == [b"done"] * 10
    connections = request(web.port, "/stats").json()["accepted"] - before
    assert connections <= 2 if shares else connections >= 9


@pytest.mark.parametrize("program", PARTS)
def test_a_part_of_what_the_web_server_has(program: str, processes: ProcessGroup) -> None:
    words = ["--script-name", "/app", "--server-name", "shop.test", "--threads", "3"]
    if program != "lighttpd":
        words += ["--socket", str(processes.folder / "app.sock")]
        words += ["--socket-group", str(os.getegid())]
    # What a shell would take for its own.
    words += ["--log-format", "%(message)s$HOME;'x'"]
    web = Printed(processes, program, *words, standalone=False)
    wait_until(lambda: "listening on fcgi" in web.server_log(), "the server")
    wait_until(lambda: "$HOME;'x'\n" in web.server_log(), "a line of its log")
    host = f"shop.test:{web.port}"
    seen = request(web.port, "/app/b", headers={"Host": host}).json()
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/app", "/b")
    assert (seen["HTTP_HOST"], seen["SERVER_NAME"]) == (host, "shop.test")


@pytest.mark.usefixtures("root")
def test_haproxy_finds_the_socket_behind_its_chroot(processes: ProcessGroup) -> None:
    """Where Debian's HAProxy is put, with an address that is said nowhere."""
    web = Printed(processes, "haproxy", standalone=False, chroot=True)
    assert (processes.folder / "apps.sock").group() == "haproxy"
    assert request(web.port, "/b").json()["PATH_INFO"] == "/b"


def test_caddy_knows_abstract_sockets(processes: ProcessGroup) -> None:
    web = Printed(processes, "caddy", "--bind", f"unix:@{processes.folder}")
    assert request(web.port, "/b").json()["PATH_INFO"] == "/b"


@pytest.mark.parametrize(
    ("program", "sendfile", "url"),
    [("lighttpd", "x-sendfile", ""), ("nginx", "x-accel", "/internal-files=")],
)
def test_files_that_the_web_server_sends(
    program: str, sendfile: str, url: str, processes: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = processes.folder / "files"
    folder.mkdir()
    (folder / "a file").write_bytes(b"what is in it" * 9000)
    (processes.folder / "outside").write_text("not for sending")
    monkeypatch.setenv("FILES", str(folder))
    words = ["--sendfile", sendfile, "--sendfile-folder", f"{url}{folder}"]
    words += ["--chdir", str(EXAMPLES / "sendfile")]
    web = Printed(processes, program, *words, app="app:app")
    answer = request(web.port, "/a%20file", headers={"Range": "bytes=0-3"})
    # Parts of files are what the app itself knows nothing of.
    assert (answer.status, answer.body) == (206, b"what")
    assert request(web.port, "/internal-files/a%20file").status == 404


@pytest.mark.parametrize("mount", MOUNTS)
@pytest.mark.parametrize("standalone", [True, False])
@pytest.mark.parametrize("program", ["lighttpd", "nginx"])
def test_files_that_the_app_has_nothing_to_do_with(
    program: str, standalone: bool, mount: str, processes: ProcessGroup
) -> None:
    """Static files and uploads, of which only those below their folders are sent."""
    folders = {"static": processes.folder / "st.atic", "media": processes.folder / "uploads"}
    for folder in folders.values():
        folder.mkdir()
        (folder / "a file.css").write_text(f"in {folder.name}")
    (processes.folder / "outside.css").write_text("not for sending")
    words = ["--script-name", mount] if mount else []
    if program != "lighttpd":
        words += ["--socket", str(processes.folder / "app.sock")]
        words += ["--socket-group", str(os.getegid())]
    for name, folder in folders.items():
        words += ["--static", f"{mount}/{name}={folder}"]
    web = Printed(processes, program, *words, standalone=standalone)
    for name, folder in folders.items():
        answer = request(web.port, f"{mount}/{name}/a%20file.css", headers={"Range": "bytes=0-4"})
        assert (answer.status, answer.body) == (206, f"in {folder.name}".encode()[:5])
        if standalone:
            assert answer.headers["Content-Type"].startswith("text/css")
        assert request(web.port, f"{mount}/{name}/missing.css").status == 404
        for target in ("../outside.css", "%2e%2e/outside.css", "..%2foutside.css"):
            assert b"not for sending" not in request(web.port, f"{mount}/{name}/{target}").body
            assert b"not for sending" not in request(web.port, f"{mount}/{name}{target}").body
        # A path that only begins with the same letters is the app's.
        assert _path(web, f"{mount}/{name}s/b") == (mount, f"/{name}s/b")
    assert _path(web, f"{mount}/b") == (mount, "/b")


def test_what_systemd_is_told_to_start(processes: ProcessGroup) -> None:
    path = processes.folder / "app.sock"
    text = print_config("systemd", "--socket", str(path), "--script-name", "/app")
    (start,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    (name,) = re.findall(r"^FileDescriptorName=(.*)$", text, re.MULTILINE)
    (stream,) = re.findall(r"^ListenStream=(.*)$", text, re.MULTILINE)
    activate(processes, shlex.split(start), stream, names=name)
    with Client(str(path)) as client:
        seen = json.loads(client.get("/app/b").body)
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/app", "/b")
