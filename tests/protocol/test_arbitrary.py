"""Test random cuts, interleavings and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from support.fcgi import records
from support.fcgi.server_protocols import ALL_ROLES, Said, receive, said, sent, server_protocol

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol import Event, Limits

TEXT = st.text(st.characters(max_codepoint=255), max_size=150)


@dataclass
class Sent:
    """One request as a web server may send it."""

    id: int
    records: list[bytes]
    said: list[Said]


@st.composite
def stream_records(draw: st.DrawFn, kind: int, id: int, content: bytes) -> list[bytes]:
    """A stream cut into records anywhere, padded with anything, and its end."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(content) - 1)), max_size=4)))
    bounds = [0, *(cut for cut in cuts if cut < len(content)), len(content)]
    parts = [content[start:end] for start, end in pairwise(bounds)]
    return [
        records.record(
            kind,
            id,
            part,
            padding=draw(st.binary(max_size=9) | st.just(b"\x01" * 255)),
            reserved=draw(st.integers(0, 255)),
        )
        for part in [*filter(None, parts), b""]
    ]


@st.composite
def requests(draw: st.DrawFn, id: int) -> Sent:
    role = draw(st.sampled_from([records.RESPONDER, records.AUTHORIZER, records.FILTER]))
    # Repeated names need the order of the first and the later values: here names are unique.
    params = draw(st.dictionaries(TEXT, TEXT, max_size=4))
    found = [records.begin(id, role)]
    found += draw(stream_records(records.PARAMS, id, records.pairs(params)))
    expected: list[Said] = [("RequestStarted", id, list(params.items()))]
    streams = [(records.STDIN, "Stdin"), (records.DATA, "Data")]
    for kind, name in streams[: {1: 1, 2: 0, 3: 2}[role]]:
        content = draw(st.binary(max_size=60) | st.just(bytes(20000)))
        found += draw(stream_records(kind, id, content))
        if content:
            expected.append((f"{name}Received", id, content))
        expected.append((f"{name}Ended", id, None))
    return Sent(id, found, expected)


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[list[Sent], bytes]:
    """Some requests of different ids, and their records in any order that keeps each one's."""
    ids = draw(st.lists(st.integers(1, 65535), min_size=1, max_size=4, unique=True))
    sent = [draw(requests(id)) for id in ids]
    turns = draw(st.permutations([each for each in sent for _ in each.records]))
    left = {each.id: iter(each.records) for each in sent}
    return sent, b"".join(next(left[each.id]) for each in turns)


def chunks(data: st.DataObject, received: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(received)), max_size=25)))
    bounds = [0, *cuts, len(received)]
    return [received[start:end] for start, end in pairwise(bounds)]


@settings(max_examples=70, deadline=None)
@given(interleaved(), st.data())
def test_any_interleaving_in_any_chunks_gives_the_same_requests(
    stream: tuple[list[Sent], bytes], data: st.DataObject
) -> None:
    expected, received = stream
    connection = server_protocol(roles=ALL_ROLES)
    events: list[Event] = []
    for chunk in chunks(data, received):
        events += receive(connection, chunk)
    for each in expected:
        assert said(event for event in events if event.request.id == each.id) == each.said
    assert connection.params_held == 0
    assert not connection.unsent_size
    for request in list(connection.requests.values()):
        connection.respond(request, str(request.id).encode())
    answers = records.read_answers(sent(connection))
    assert {answer.id: answer.stdout for answer in answers} == {
        each.id: str(each.id).encode() for each in expected
    }


@dataclass
class Outcome:
    """Return the events and the output for some bytes, and whether they were an error."""

    said: list[Said]
    sent: bytes
    failed: bool


def outcome(data: list[bytes]) -> Outcome:
    connection = server_protocol(roles=ALL_ROLES, limits=Limits(requests=3, params_bytes=60))
    events: list[Event] = []
    failed = False
    try:
        for chunk in data:
            events += receive(connection, chunk)
    except RemoteProtocolError:
        failed = True
    return Outcome(said(events), sent(connection), failed)


def check_that_cuts_make_no_difference(received: bytes, data: st.DataObject) -> None:
    whole, cut = outcome([received]), outcome(chunks(data, received))
    assert (cut.sent, cut.failed) == (whole.sent, whole.failed)
    # Events of the same read as an error are not reported.
    assert whole.failed or cut.said == whole.said


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(b"\x01".__add__), st.data())
def test_random_bytes_are_records_or_an_error(junk: bytes, data: st.DataObject) -> None:
    check_that_cuts_make_no_difference(junk, data)


@settings(max_examples=70, deadline=None)
@given(interleaved(), st.data())
def test_a_stream_with_wrong_bytes_in_it_is_records_or_an_error(
    stream: tuple[list[Sent], bytes], data: st.DataObject
) -> None:
    received = bytearray(stream[1])
    for _ in range(data.draw(st.integers(1, 5))):
        received[data.draw(st.integers(0, len(received) - 1))] = data.draw(st.integers(0, 255))
    check_that_cuts_make_no_difference(bytes(received), data)
