"""Test that the mailbox delivers calls in order or refuses them, and loses none."""

from __future__ import annotations

import threading
from typing import Any

import gevent

from vsgi_fcgi.server.mailbox import GreenletLatch, Mailbox


class Owner:
    """A main context in small: drains when it is woken, and counts the wake-ups."""

    def __init__(self) -> None:
        self.woken = 0
        self.errors: list[BaseException] = []
        self._event = threading.Event()
        self.mailbox = Mailbox(self._wake, self.errors.append)

    def _wake(self) -> None:
        self.woken += 1
        self._event.set()

    def drain_until(self, done: threading.Event) -> None:
        while not done.is_set():
            if self._event.wait(0.01):
                self._event.clear()
                self.mailbox.drain()


def test_calls_are_made_in_the_order_of_their_posts_and_only_when_drained() -> None:
    owner, got = Owner(), list[int]()
    for number in range(5):
        assert owner.mailbox.post(got.append, number)
    assert got == []
    owner.mailbox.drain()
    assert got == [0, 1, 2, 3, 4]
    assert owner.woken == 1


def test_a_post_after_a_drain_wakes_again() -> None:
    owner, got = Owner(), list[int]()
    for number in range(3):
        owner.mailbox.post(got.append, number)
        owner.mailbox.drain()
    assert owner.woken == 3


def test_what_is_posted_by_a_call_comes_in_the_next_round() -> None:
    owner, got = Owner(), list[int]()

    def post_more(number: int) -> None:
        got.append(number)
        owner.mailbox.post(got.append, number + 1)

    owner.mailbox.post(post_more, 1)
    owner.mailbox.drain()
    assert got == [1]
    assert owner.woken == 2
    owner.mailbox.drain()
    assert got == [1, 2]


def test_a_call_that_raises_does_not_hinder_the_others() -> None:
    owner, got = Owner(), list[int]()

    def fail(error: BaseException) -> None:
        raise error

    errors = [ValueError(), SystemExit(), KeyboardInterrupt()]
    for number, error in enumerate(errors):
        owner.mailbox.post(fail, error)
        owner.mailbox.post(got.append, number)
    owner.mailbox.drain()
    assert got == [0, 1, 2]
    assert owner.errors == errors


def test_quiet_posts_wait_for_the_ring_or_for_the_next_post() -> None:
    owner, got = Owner(), list[int]()
    assert owner.mailbox.post_quietly(got.append, 1)
    assert owner.woken == 0
    owner.mailbox.ring()
    owner.mailbox.ring()
    assert owner.woken == 1
    owner.mailbox.drain()
    owner.mailbox.ring()  # there is nothing to say
    assert owner.woken == 1
    owner.mailbox.post_quietly(got.append, 2)
    owner.mailbox.post(got.append, 3)
    assert owner.woken == 2
    owner.mailbox.drain()
    assert got == [1, 2, 3]


def test_a_post_that_can_wait_for_a_ring_wakes_nobody_if_one_is_due() -> None:
    owner, got = Owner(), list[int]()
    owner.mailbox.due = True
    owner.mailbox.post_soon(got.append, 1)
    assert owner.woken == 0
    owner.mailbox.due = False
    owner.mailbox.ring()
    assert owner.woken == 1
    owner.mailbox.drain()
    owner.mailbox.post_soon(got.append, 2)
    assert owner.woken == 2
    owner.mailbox.drain()
    assert got == [1, 2]
    owner.mailbox.close()
    owner.mailbox.post_soon(got.append, 3)
    assert (got, owner.woken) == ([1, 2], 2)


def test_close_hands_back_what_was_accepted_and_accepts_nothing_more() -> None:
    owner, got = Owner(), list[int]()
    owner.mailbox.post(got.append, 1)
    owner.mailbox.post_quietly(got.append, 2)
    assert owner.mailbox.close() == [(got.append, 1), (got.append, 2)]
    woken = owner.woken
    assert not owner.mailbox.post(got.append, 3)
    assert not owner.mailbox.post_quietly(got.append, 4)
    owner.mailbox.ring()
    owner.mailbox.drain()
    assert owner.mailbox.close() == []
    assert (got, owner.woken) == ([], woken)


def test_many_threads_post_and_nothing_is_lost_or_reordered() -> None:
    owner, got = Owner(), list[tuple[int, int]]()
    count, each = 16, 2000
    accepted: list[tuple[int, int]] = []
    gate = threading.Barrier(count + 1)
    done = threading.Event()

    def post(thread: int) -> None:
        gate.wait(10)
        mine = []
        for number in range(each):
            post = owner.mailbox.post if number % 3 else owner.mailbox.post_quietly
            if post(got.append, (thread, number)):
                mine.append((thread, number))
            if number % 7 == 0:
                owner.mailbox.ring()
        owner.mailbox.ring()
        accepted.extend(mine)

    threads = [threading.Thread(target=post, args=(n,)) for n in range(count)]
    drainer = threading.Thread(target=owner.drain_until, args=(done,))
    for thread in [*threads, drainer]:
        thread.start()
    gate.wait(10)
    for thread in threads:
        thread.join(20)
    done.set()
    drainer.join(20)
    left: list[Any] = [argument for _, argument in owner.mailbox.close()]
    assert len(accepted) == count * each
    assert sorted(got + left) == sorted(accepted)
    for thread_number in range(count):
        numbers = [n for t, n in got + left if t == thread_number]
        assert numbers == sorted(numbers)


def test_closing_while_many_post_loses_nothing_that_was_accepted() -> None:
    for _ in range(50):
        owner, got = Owner(), list[int]()
        accepted: list[int] = []
        gate = threading.Barrier(5)

        def post(
            owner: Owner = owner,
            got: list[int] = got,
            accepted: list[int] = accepted,
            gate: threading.Barrier = gate,
        ) -> None:
            gate.wait(10)
            for number in range(100):
                if owner.mailbox.post(got.append, number):
                    accepted.append(number)

        threads = [threading.Thread(target=post) for _ in range(4)]
        for thread in threads:
            thread.start()
        gate.wait(10)
        owner.mailbox.drain()
        handed_back = owner.mailbox.close()
        for thread in threads:
            thread.join(10)
        assert sorted(accepted) == sorted(got + [argument for _, argument in handed_back])


# Latches of greenlets.


def test_a_greenlet_waits_until_its_latch_opens() -> None:
    latch = GreenletLatch()
    waiting = gevent.spawn(latch.wait, None)
    gevent.sleep(0)
    assert not waiting.ready()
    latch.open()
    latch.open()
    assert waiting.get(timeout=10) is True
    assert latch.wait(None) is True


def test_a_latch_that_stays_closed_lets_its_greenlet_continue() -> None:
    latch = GreenletLatch()
    assert gevent.spawn(latch.wait, 0.001).get(timeout=10) is False
    latch.open()
    assert latch.wait(0.001) is True


def test_a_latch_leaves_a_greenlet_alone_that_no_longer_waits() -> None:
    """A timeout of the app may end its wait after the latch was opened, before it continues."""
    latch = GreenletLatch()
    seen: list[str] = []

    def wait() -> None:
        try:
            latch.wait(None)
        except gevent.Timeout:
            gevent.sleep(0.01)
            seen.append("slept")

    waiting = gevent.spawn(wait)
    gevent.sleep(0)
    gevent.get_hub().loop.run_callback(waiting.throw, gevent.Timeout())
    latch.open()
    waiting.get(timeout=10)
    assert seen == ["slept"]
