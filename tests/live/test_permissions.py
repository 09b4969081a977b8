"""Test nginx, whose workers are www-data, in front of a server that root starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from support.accounts import NOBODY, WEB, PublicPython, public_folder
from support.front_ends.servers import EXAMPLES, AppServer, Nginx
from support.http import request
from support.processes import ProcessGroup


@pytest.fixture
def public_processes() -> Iterator[ProcessGroup]:
    """Processes that work in a folder which all users may enter."""
    with public_folder() as folder, ProcessGroup(folder) as group:
        shutil.copy(EXAMPLES / "hello.py", folder)
        yield group


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], 502),
        (["--socket-mode", "0600", "--socket-group", WEB], 502),
        (["--socket-group", WEB], 200),
        (["--socket-user", WEB, "--socket-mode", "0600"], 200),
        (["--socket-mode", "0666"], 200),
        (["--user", NOBODY], 502),
        (["--user", NOBODY, "--socket-group", WEB], 200),
        (["--user", NOBODY, "--group", WEB], 200),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_who_may_connect(
    public_processes: ProcessGroup, public_python: PublicPython, options: list[str], status: int
) -> None:
    folder = public_processes.folder
    server = AppServer(public_processes, "hello:app", *options, folder=folder, python=public_python)
    nginx = Nginx(public_processes, server, user=WEB)
    assert request(nginx.port, "/").status == status
    # It is the socket's doing, and nothing else's: over TCP everybody gets an answer.
    assert request(nginx.port, "/tcp").status == 200
    refused = "connect() to unix:app.sock failed (13: Permission denied)"
    assert (refused in nginx.error_log()) == (status == 502)
