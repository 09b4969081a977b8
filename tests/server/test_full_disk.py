"""Test a full disk: uploads are refused, responses wait, and the server continues.

Each test runs in a process of its own, whose files may only grow to a few KiB. As on a full disk,
the first write fails, and not the creation of the file.
"""

from __future__ import annotations

import pytest
from support.server import WORKERS, run_script

pytestmark = pytest.mark.process

SETUP = """
import resource
from support.server import hello, echo, logged, respond, running, wait_until

def fill_the_disk(room):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

def free_the_disk():
    fill_the_disk(resource.RLIM_INFINITY)
"""


@pytest.mark.parametrize("worker", WORKERS)
def test_bodies_get_503_until_there_is_room_again(worker: str) -> None:
    script = f"""
with logged() as log, running(echo, worker={worker!r}, body_memory_bytes=1000) as server:
    client = server.connect()
    body = b"x" * 200_000
    fill_the_disk(10_000)
    for id in (1, 2):
        client.start(id, length=len(body))
        client.stdin(id, body)
        answer = client.answer(id)
        assert answer.status == 503, answer
        assert answer.headers["retry-after"] == "1"
    log.wait_for("cannot write a request body to a temporary file")
    assert client.get("/", b"small").body == b"small"
    services = server.context.services
    wait_until(lambda: services.spool.used == services.memory.used == 0)
    free_the_disk()
    assert client.get("/", body).body == body
print("fine")
"""
    assert run_script(SETUP + script) == "fine\n"


@pytest.mark.parametrize("worker", WORKERS)
def test_answers_wait_for_their_reader_and_lose_nothing(worker: str) -> None:
    script = f"""
import hashlib

def pieces():
    for number in range(300):
        yield hashlib.shake_128(b"%d" % number).digest(10_000)

def app(environ, start_response):
    return respond(start_response, pieces())

settings = dict(output_memory_bytes=20_000, output_wait=0.001)
with logged() as log, running(app, worker={worker!r}, **settings) as server:
    client = server.connect(receive_buffer=4096)
    fill_the_disk(45_000)  # in the middle of a piece
    client.ask(1)
    log.wait_for("cannot write output to a temporary file")
    assert client.answer(1).body == b"".join(pieces())
print("fine")
"""
    assert run_script(SETUP + script) == "fine\n"
