"""Test files that the web server sends: files of ``examples/sendfile/``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support.front_ends.servers import EXAMPLES, ROOT, AppServer, WebServer, find
from support.http import request
from support.processes import Process, ProcessGroup

FOLDER = EXAMPLES / "sendfile"
LARGE = bytes(range(256)) * 40_000
NAMES = ["plain.bin", "a b%c;d&e?f#g.bin", "unicode-ä€.bin", "sub/folder/deep.bin"]


def make_files(folder: Path) -> Path:
    """The files that are served, a link out of their folder, and what it leads to."""
    files = folder / "files"
    for name in NAMES:
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_bytes(name.encode() + LARGE)
    (folder / "outside.bin").write_bytes(b"outside")
    (files / "link.bin").symlink_to(folder / "outside.bin")
    return files


class Served(WebServer):
    """A web server that sends the files, and the server that leaves them to it."""

    def __init__(self, group: ProcessGroup, *options: str) -> None:
        self.files = make_files(group.folder)
        self.folder = group.folder
        options = (*options, "--access-log", "-", "--access-log-format", "%(U)s %(sent)s")
        os.environ["FILES"] = str(self.files)
        try:
            self.server = AppServer(group, "app:app", *options, folder=FOLDER)
        finally:
            del os.environ["FILES"]
        self._start(group)

    def sent_by_us(self, path: str) -> int:
        """Bytes of records that our server sent for a path."""
        log = self.server.process.wait_for_log(f"{path} ")
        line = next(line for line in log.splitlines() if line.startswith(f"{path} "))
        return int(line.split()[-1])


class Lighttpd(Served):
    def __init__(self, group: ProcessGroup) -> None:
        self._program = find("lighttpd")
        files = group.folder / "files"
        super().__init__(group, "--sendfile", "x-sendfile", "--sendfile-folder", str(files))

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        env = {
            "PORT": str(self.port),
            "SOCKET": str(self.server.socket),
            "FILES": str(self.files),
        }
        argv = [self._program, "-D", "-f", str(FOLDER / "lighttpd.conf")]
        return group.start(argv, name=name, cwd=ROOT, env=env)


class Nginx(Served):
    def __init__(self, group: ProcessGroup) -> None:
        self._program = find("nginx")
        (group.folder / "nginx.conf").symlink_to(FOLDER / "nginx.conf")
        mapping = f"/internal-files={group.folder / 'files'}"
        super().__init__(group, "--sendfile", "x-accel", "--sendfile-folder", mapping)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        (self.folder / "nginx-port.conf").write_text(f"listen 127.0.0.1:{self.port};\n")
        argv = [self._program, "-p", ".", "-c", str(self.folder / "nginx.conf"), "-e", "stderr"]
        if os.geteuid() == 0:
            # Left alone they become another user, who may not enter a folder of pytest's.
            argv += ["-g", "user root;"]
        return group.start(argv, name=name)


@pytest.fixture(scope="module", params=[Lighttpd, Nginx], ids=["lighttpd", "nginx"])
def web(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with ProcessGroup(tmp_path_factory.mktemp("sendfile")) as group:
        yield request.param(group)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_sent_by_the_web_server(web: Served, name: str) -> None:
    answer = request(web.port, f"/{quote(name)}")
    assert answer.status == 200
    assert answer.body == name.encode() + LARGE
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert "X-Sendfile" not in answer.headers
    assert "X-Accel-Redirect" not in answer.headers
    if name == "plain.bin":
        assert web.sent_by_us("/plain.bin") < 1000


def test_a_part_of_a_file_is_the_web_servers_business(web: Served) -> None:
    answer = request(web.port, "/sub/folder/deep.bin", headers={"Range": "bytes=4-9"})
    assert answer.status == 206
    assert answer.body == b"folder/deep.bin"[:6]


def test_a_file_elsewhere_is_sent_from_here(web: Served) -> None:
    answer = request(web.port, "/link.bin")
    assert (answer.status, answer.body) == (200, b"outside")


def test_head(web: Served) -> None:
    answer = request(web.port, "/plain.bin", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(len("plain.bin") + len(LARGE))


def test_the_internal_location_is_nobodys(web: Served) -> None:
    assert request(web.port, "/internal-files/plain.bin").status == 404
