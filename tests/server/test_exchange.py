"""Test the states of an exchange: every state has a way to the end, and the end has none."""

from __future__ import annotations

from vsgi_fcgi.server.exchange import TRANSITIONS, State


def after(state: State) -> set[State]:
    """The states that can follow a state."""
    following = (row[state] for row in TRANSITIONS.values())
    return {each for each in following if each is not None}


def test_every_row_has_a_column_for_each_state() -> None:
    assert {len(row) for row in TRANSITIONS.values()} == {len(State)}


def test_nothing_follows_the_end() -> None:
    assert after(State.ENDED) == set()


def test_an_exchange_in_any_state_can_end() -> None:
    for state in set(State) - {State.ENDED}:
        reached = {state}
        while len(reached) < len(found := reached.union(*map(after, reached))):
            reached = found
        assert State.ENDED in reached, state.name


def test_an_exchange_with_a_worker_ends_only_when_the_worker_is_done() -> None:
    with_worker = {State.SUBMITTED, State.CANCELLED}
    for name, row in TRANSITIONS.items():
        left = {state for state in with_worker if row[state] not in {None, *with_worker}}
        assert not left or name == "finish"


def test_every_state_is_reached() -> None:
    assert {State.READING}.union(*map(after, State)) == set(State)
