"""Test that no timeout depends on the time of day, which an administrator or NTP may move.

Each test runs in a process of its own, whose clock alone is moved.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.clock import Clock
from support.server import run_script

pytestmark = pytest.mark.process

SETUP = """
import os, threading, time
from pathlib import Path
from support.clock import move_clock
from support.server import echo, hello, respond, running, wait_until

HOUR = 3600

# libfaketime 0.9.10 breaks the system call that time.sleep makes.
time.sleep = threading.Event().wait

def move(seconds):
    before = time.time()
    move_clock(Path(os.environ["FAKETIME_TIMESTAMP_FILE"]), seconds)
    wait_until(lambda: abs(time.time() - before) > HOUR / 2, lambda: "the clock to move")
"""


def run(tmp_path: Path, script: str) -> None:
    clock = Clock(tmp_path / "offset")
    printed = run_script(f"{SETUP}{script}\nprint('fine')\n", seconds=40, **clock.environ)
    assert printed == "fine\n"


INCOMPLETE = """
def some_looks():
    # An early response, after which the server waits for the rest of the body for a second. The
    # loop of the server notices within half a second that the clock was moved.
    with server.connect() as late:
        late.start(1, length=10, keep_conn=False)
        late.stdin(1, b"x", end=False)
        assert late.answer(1).status == 413
        wait_until(lambda: len(server.context.connections) == 1)

settings = dict(receive_timeout=RECEIVE_TIMEOUT, linger_timeout=1, max_body_bytes=9)
with running(echo, **settings) as server, server.connect() as client:
    client.start(1, length=4)
    client.stdin(1, b"ab", end=False)
    some_looks()
"""


def test_an_incomplete_request_may_continue_though_the_clock_jumps(tmp_path: Path) -> None:
    script = """
    move(HOUR)
    some_looks()
    client.stdin(1, b"cd")
    assert client.answer(1).body == b"abcd"
"""
    run(tmp_path, INCOMPLETE.replace("RECEIVE_TIMEOUT", "600") + script)


def test_an_incomplete_request_ends_in_time_though_the_clock_goes_back(tmp_path: Path) -> None:
    script = """
    move(-HOUR)
    assert client.answer(1).status == 408
"""
    run(tmp_path, INCOMPLETE.replace("RECEIVE_TIMEOUT", "4") + script)


def test_a_held_request_ends_in_time_though_the_clock_was_at_1970(tmp_path: Path) -> None:
    """A small computer without a battery for its clock starts like this."""
    script = """
def app(environ, start_response):
    environ["vsgi_fcgi.request"].hold("news", mode="response", timeout=1)
    return respond(start_response, b"nothing")

now = int(time.time())
move(-now)
with running(app, push=True) as server, server.connect() as client:
    client.ask(1)
    wait_until(lambda: server.context.services.held)
    move(0)
    assert client.answer(1).body == b"nothing"
"""
    run(tmp_path, script)


def test_a_client_waits_as_long_as_it_says_though_the_clock_goes_back(tmp_path: Path) -> None:
    script = """
import gevent
from support.asking import asking, uri_of
from vsgi_fcgi.exceptions import UpstreamTimeout

gevent.get_hub()
began, free = threading.Event(), threading.Event()

def app(environ, start_response):
    began.set()
    free.wait(30)
    return respond(start_response, b"late")

with running(app) as server:
    with asking(uri_of(server), response_timeout=2) as client:
        asked = gevent.spawn(client.request, "GET", "/")
        while not began.is_set():
            gevent.sleep(0.01)
        move(-HOUR)
        try:
            with gevent.Timeout(20):
                asked.get()
        except UpstreamTimeout:
            pass
        else:
            raise AssertionError("there was an answer")
    free.set()
"""
    run(tmp_path, script)
