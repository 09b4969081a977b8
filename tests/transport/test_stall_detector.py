"""Test what counts as progress between two checks."""

from __future__ import annotations

from vsgi_fcgi.transport.timeouts import StallDetector


def test_a_count_that_does_not_change_is_stuck_after_the_timeout() -> None:
    stalls: StallDetector[str] = StallDetector()
    found = []
    for now, count in ((0.0, 5), (1.0, 5), (2.0, 6), (3.0, 6), (4.0, 6)):
        stalls.begin_look(now)
        found.append(stalls.is_stuck("upload", count, 2.0))
    assert found == [False, False, False, False, True]


def test_a_thing_that_a_look_did_not_ask_for_starts_again() -> None:
    """A connection that was not blocked in between has the whole timeout again."""
    stalls: StallDetector[str] = StallDetector()
    stalls.begin_look(0.0)
    assert not stalls.is_stuck("connection", 5, 2.0)
    stalls.begin_look(1.0)
    stalls.begin_look(10.0)
    assert not stalls.is_stuck("connection", 5, 2.0)
    stalls.begin_look(12.0)
    assert stalls.is_stuck("connection", 5, 2.0)
