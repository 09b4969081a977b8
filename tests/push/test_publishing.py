"""Test `publish` in a process, and the outlets to other processes."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from threading import Event

import pytest

from vsgi_fcgi.exceptions import PublishError
from vsgi_fcgi.push import publish
from vsgi_fcgi.push.items import Item, make_item
from vsgi_fcgi.push.publishing import PROCESS, Outlet, Publishing

IN_CHILD = """
import os
from vsgi_fcgi.push import publish
from vsgi_fcgi.push.publishing import PROCESS
PROCESS.open(lambda items: True, 1000)
publish("news", http_stream=b"parent")
if os.fork() == 0:
    try:
        publish("news", http_stream=b"child")
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""

BODY = b'{"items": [{"channel": "news", "formats": {"http-stream": {"content": ""}}}]}'


class Target:
    """Delivers to a list."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.full = False

    def deliver(self, items: list[Item]) -> bool:
        if not self.full:
            self.items += items
        return not self.full


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    PROCESS.open(target.deliver, 1000)
    yield target
    PROCESS.close(target.deliver)


def test_an_item_is_delivered_in_this_process(target: Target) -> None:
    publish("news", http_stream=b"data: hi\n\n", id="2", prev_id="1")
    (item,) = target.items
    assert (item.channel, item.id, item.prev_id) == ("news", "2", "1")
    assert item.stream is not None
    assert item.stream.content == b"data: hi\n\n"


def test_without_a_server_the_error_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"start the server with --push, or .* \(GRIP_URL\)"):
        publish("news", http_stream=b"x")


@pytest.mark.process
def test_after_a_fork_the_error_says_where_to_publish() -> None:
    output = subprocess.run(
        [sys.executable, "-c", IN_CHILD], capture_output=True, text=True, timeout=20
    )
    assert output.stdout.startswith("this process was forked by the app and holds no requests;")
    assert output.stderr == ""


def test_a_full_queue_is_an_error(target: Target) -> None:
    target.full = True
    with pytest.raises(PublishError, match="max_items_queued"):
        publish("news", http_stream=b"x")


def test_an_item_that_is_too_large_is_an_error(target: Target) -> None:
    publish("news", http_stream=b"x" * 1000)
    with pytest.raises(PublishError, match=r"'news' has \d+ bytes.* max_item_bytes \(1000\)"):
        publish("news", http_stream=b"x" * 1001)
    assert len(target.items) == 1


def test_outlets_get_what_is_published_and_not_what_arrives() -> None:
    publishing, target = Publishing(), Target()
    publishing.open(target.deliver, 1000)
    sent: list[bytes] = []
    publishing.add_outlet(Outlet("a list", sent.append, 10))
    publishing.publish([make_item("news", http_stream=b"mine", id="1")])
    publishing.receive(BODY)
    publishing.close_outlets(10)
    assert len(target.items) == 2
    (body,) = sent
    other = Publishing()
    other.open(target.deliver, 1000)
    other.receive(body)
    assert target.items[2] == target.items[0]


def test_what_arrives_waits_for_room_in_the_queue() -> None:
    publishing, target = Publishing(), Target()
    tries = 0

    def deliver(items: list[Item]) -> bool:
        nonlocal tries
        tries += 1
        return tries > 2 and target.deliver(items)

    publishing.open(deliver, 1000)
    publishing.open(target.deliver, 1000)
    publishing.receive(BODY)
    assert tries == 3
    # Once for each server.
    assert len(target.items) == 2


def test_what_arrives_broken_is_logged_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    publishing, target = Publishing(), Target()
    publishing.open(target.deliver, 1000)
    publishing.receive(b"{")
    assert "a message of another process or host was dropped" in caplog.text
    target.full = True
    publishing.receive(BODY)
    assert "published items of other processes or hosts not delivered: 1" in caplog.text
    assert not target.items


def test_an_outlet_is_bounded_and_counts_what_it_drops(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sent: list[bytes] = []
    begun, free = Event(), Event()

    def send(body: bytes) -> None:
        begun.set()
        assert free.wait(20)
        sent.append(body)

    outlet = Outlet("a slow place", send, 3)
    outlet.start()
    outlet.offer(b"0")
    assert begun.wait(20)
    for number in range(1, 6):
        outlet.offer(str(number).encode())
    free.set()
    outlet.close(20)
    # One is being sent, and two wait.
    assert sent == [b"0", b"1", b"2"]
    assert "published messages not sent to a slow place, which is too slow: 3" in caplog.text


def test_an_outlet_says_at_its_end_what_it_has_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    free = Event()
    outlet = Outlet("a slow place", lambda body: free.wait(20), 3)
    outlet.start()
    outlet.offer(b"0")
    outlet.offer(b"1")
    outlet.close(0)
    assert "published messages not sent to a slow place before the end: 2" in caplog.text
    free.set()
