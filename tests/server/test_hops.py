"""Test how many files of the package a request passes through, to the app and back.

Each call into another file is a step that a reader of the code must take as well. These tests keep
the number from growing unnoticed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import pytest
from support.build import traces_calls
from support.fcgi.peer import Client
from support.processes import ProcessGroup, wait_until

pytestmark = pytest.mark.process

REQUESTS = 20

SERVER = """
import collections, json, sys, threading
import vsgi_fcgi

FOLDER = vsgi_fcgi.__file__.rpartition("/")[0] + "/"
counts = collections.Counter()

def count(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(FOLDER):
        file = code.co_filename[len(FOLDER):]
        counts[file, code.co_qualname, threading.get_ident()] += 1

def app(environ, start_response):
    environ["wsgi.input"].read()
    body = b"Hello, world!"
    if environ["PATH_INFO"] == "/counts":
        body = json.dumps([[*key, value] for key, value in list(counts.items())]).encode()
        counts.clear()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

threading.setprofile(count)
sys.setprofile(count)
server = vsgi_fcgi.Server(app, worker=sys.argv[1], threads=1)
server.listen("unix:server.sock")
server.run()
"""


@dataclass
class Hops:
    """What every request of a kind passes through."""

    calls: int
    functions: set[str]
    files: set[str]
    threads: int


def hops_of(group: ProcessGroup, worker: str, body: bytes | None) -> Hops:
    group.measured = False  # coverage is a profiler, too
    env = {"VSGI_FCGI_CHECK_CONTRACT": ""}  # as in production: a check is a call, too
    process = group.start([sys.executable, "-c", SERVER, worker], name="server", env=env)
    path = group.folder / "server.sock"

    def listens() -> bool:
        try:
            Client(str(path)).close()
        except OSError:
            assert process.running, process.log()
            return False
        return True

    wait_until(listens, "the socket")
    with Client(str(path)) as client:
        assert client.get("/counts").status == 200
        for _ in range(REQUESTS):
            assert client.get("/hello", body).body == b"Hello, world!"
        counts = json.loads(client.get("/counts").body)
    every = [(file, name, thread, n) for file, name, thread, n in counts if n >= REQUESTS]
    return Hops(
        calls=round(sum(n for *_, n in every) / REQUESTS),
        functions={f"{file}:{name}" for file, name, *_ in every},
        files={file for file, *_ in every},
        threads=len({thread for _, _, thread, _ in every}),
    )


@traces_calls
@pytest.mark.parametrize(("worker", "threads"), [("main", 1), ("thread", 2)])
def test_a_get_passes_through_few_files(processes: ProcessGroup, worker: str, threads: int) -> None:
    hops = hops_of(processes, worker, None)
    assert hops.threads == threads
    assert len(hops.files) <= 12, sorted(hops.files)


@traces_calls
@pytest.mark.parametrize("worker", ["main", "thread"])
def test_an_upload_passes_through_few_files(processes: ProcessGroup, worker: str) -> None:
    hops = hops_of(processes, worker, bytes(8 * 1024 * 1024))
    assert len(hops.files) <= 17, sorted(hops.files)
