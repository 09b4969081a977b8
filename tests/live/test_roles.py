"""Test an authorizer in front of files and of an app: files of ``examples/roles/``."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator

import pytest
from support.front_ends.hosts import find_module, not_as_root
from support.front_ends.servers import (
    EXAMPLES,
    ROOT,
    AppServer,
    WebServer,
    command,
    find,
    search_path,
)
from support.http import Answer, request
from support.processes import Process, ProcessGroup

ROLES = EXAMPLES / "roles"
MEMBERS = (ROLES / "files" / "members.txt").read_bytes()


class Lighttpd(WebServer):
    """lighttpd in front of one server, which serves both roles."""

    page = b"Who are you?\n"

    def __init__(self, group: ProcessGroup, authorizer: str | None = "app:authorizer") -> None:
        self._program = find("lighttpd")
        options = ["--access-log", "-", "--access-log-format", "%(role)s %(m)s %(U)s %(s)s"]
        if authorizer is not None:
            options += ["--authorizer", authorizer]
        self.server = AppServer(group, "app:app", *options, folder=ROLES)
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        env = {"PORT": str(self.port), "SOCKET": str(self.server.socket)}
        argv = [self._program, "-D", "-f", str(ROLES / "lighttpd.conf")]
        return group.start(argv, name=name, cwd=ROOT, env=env)


class Nginx(WebServer):
    """nginx in front of two servers of responders, one of which it takes for an authorizer."""

    # It takes the status and no more.
    page = b"401 Authorization Required"

    def __init__(self, group: ProcessGroup) -> None:
        self._program = find("nginx")
        self._folder = group.folder
        (self._folder / "files").symlink_to(ROLES / "files")
        (self._folder / "nginx.conf").symlink_to(ROLES / "nginx.conf")
        AppServer(group, "app:app", folder=ROLES)
        argv = [str(command(group)), "--chdir", str(ROLES), "app:authorizer"]
        auth = group.start([*argv, "--socket", f"{group.folder}/auth.sock"], name="auth")
        auth.wait_for_log("listening on")
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        (self._folder / "nginx-port.conf").write_text(f"listen 127.0.0.1:{self.port};\n")
        argv = [self._program, "-p", ".", "-c", str(self._folder / "nginx.conf"), "-e", "stderr"]
        if os.geteuid() == 0:
            # Left alone they become another user, who may not enter a folder of pytest's.
            argv += ["-g", "user root;"]
        return group.start(argv, name=name)


class Apache(WebServer):
    """Apache with mod_fcgid, which starts the servers."""

    # It has a page of its own.
    page = b"<h1>Unauthorized</h1>"

    def __init__(self, group: ProcessGroup) -> None:
        self._program = find("apache2")
        self._folder = group.folder
        find_module("fcgid")
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        env = {"PORT": str(self.port), "STATE": str(group.folder), "EXAMPLES": str(ROLES)}
        env["PATH"] = search_path(group)
        config = str(ROLES / "apache.conf")
        argv = [*not_as_root(), self._program, "-DFOREGROUND", "-f", config]
        return group.start(argv, name=name, env=env)

    def error_log(self) -> str:
        log = self._folder / "error.log"
        return self.process.log() + (log.read_text(errors="replace") if log.exists() else "")


SERVERS: dict[str, Callable[[ProcessGroup], Lighttpd | Nginx | Apache]] = {
    "lighttpd": Lighttpd,
    "nginx": Nginx,
    "apache-fcgid": Apache,
}


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lighttpd | Nginx | Apache]:
    with ProcessGroup(tmp_path_factory.mktemp(request.param)) as group:
        yield SERVERS[request.param](group)


def ask(server: WebServer, path: str, user: str = "", method: str = "GET") -> Answer:
    headers = {}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    body = b"x" * 100_000 if method == "POST" else None
    return request(server.port, path, method=method, body=body, headers=headers)


@pytest.mark.parametrize("user", ["", "kim:", "kim:wrong", "nobody:", "kim:secret\n"])
@pytest.mark.parametrize("path", ["/members.txt", "/none.txt", "/app", "/app/some/path"])
def test_who_is_not_let_through(server: Lighttpd | Nginx | Apache, path: str, user: str) -> None:
    answer = ask(server, path, user)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="examples"'
    assert server.page in answer.body


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_for_who_is_let_through(server: Lighttpd | Nginx | Apache, method: str) -> None:
    answer = ask(server, "/members.txt", "kim:secret", method)
    assert answer.status == 200
    assert answer.body == (MEMBERS if method == "GET" else b"")
    assert int(answer.headers["Content-Length"]) == len(MEMBERS)
    assert "WWW-Authenticate" not in answer.headers
    assert not [name for name in answer.headers if name.lower().startswith("variable-")]
    assert ask(server, "/none.txt", "kim:secret", method).status == 404


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_app_learns_the_variables(server: Lighttpd | Nginx | Apache, method: str) -> None:
    answer = ask(server, "/app/some/path", "kim:secret", method)
    assert answer.status == 200
    assert answer.text == "Hello kim, I am the RESPONDER.\n"
    assert not [name for name in answer.headers if name.lower().startswith("variable-")]
    assert ask(server, "/app/some/path", "kim:wrong", method).status == 401


def test_one_process_served_both_roles(processes: ProcessGroup) -> None:
    server = Lighttpd(processes)
    for user in ("", "kim:secret"):
        ask(server, "/app", user, "POST")
    log = server.server.process.wait_for_log("\nresponder ")
    lines = [line for line in log.splitlines() if " /app " in line]
    expected = ["authorizer POST /app 401", "authorizer POST /app 200", "responder POST /app 200"]
    assert lines == expected


def test_an_authorizer_that_fails_lets_nobody_through(processes: ProcessGroup) -> None:
    broken = processes.folder / "broken.py"
    broken.write_text(
        "def authorizer(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    raise RuntimeError('a secret')\n"
    )
    server = Lighttpd(processes, f"{broken}:authorizer")
    answer = ask(server, "/members.txt", "kim:secret")
    assert answer.status == 500
    assert b"Internal Server Error" in answer.body
    assert MEMBERS not in answer.body
    server.server.process.wait_for_log("RuntimeError: a secret")


def test_without_an_authorizer_nobody_is_let_through(processes: ProcessGroup) -> None:
    """lighttpd takes an empty answer for a 200, even if it ends with UNKNOWN_ROLE."""
    server = Lighttpd(processes, None)
    for path in ("/members.txt", "/app"):
        answer = ask(server, path, "kim:secret")
        assert answer.status == 500
        assert answer.body == b""
