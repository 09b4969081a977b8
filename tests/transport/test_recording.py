"""Test what a recording keeps of a connection: the right records, within its limits."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fcgi import records
from support.fcgi.server_protocols import server_protocol

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.recording import IN, OUT
from vsgi_fcgi.recording.records import cut
from vsgi_fcgi.transport.recording import SMALL_ROOM, UNKNOWN, Recording

Plain = tuple[int, int, int]
"""The type, the id and the length of the content of a record."""


class Room:
    """What a recorder is for a recording: it has some rooms."""

    def __init__(self, room: int = 1 << 30, rooms: int = 1, keep: int = 1024) -> None:
        self.room = room
        self.rooms = rooms
        self.keep = keep
        self.settled: list[Recording] = []

    def settle(self, recording: Recording) -> None:
        self.settled.append(recording)


def recording(room: Room | None = None) -> Recording:
    return Recording(room or Room(), server_protocol(), "a peer")


def held(kept: Recording) -> int:
    """The bytes that a recording holds."""
    pieces = [[what] if isinstance(what, bytes) else what for _, _, what, _ in kept.entries()]
    return sum(len(piece) for each in pieces for piece in each if isinstance(piece, bytes))


def receive(kept: Recording, data: bytes, cuts: Iterator[int], *, views: bool = False) -> None:
    """Give data to the recording and to its protocol, as a connection does."""
    at = 0
    while at < len(data):
        size = next(cuts)
        piece: bytes | memoryview = data[at : at + size]
        if views and kept.protocol.left:
            piece = memoryview(bytearray(piece))
        kept.received(piece)
        kept.protocol.receive_data(piece)
        at += size


def plain(kept: Recording, direction: str) -> list[Plain]:
    return [
        (each.kind, each.id, each.length)
        for each in cut(kept.entries())
        if each.direction == direction
    ]


def requests(draw: random.Random, largest: int) -> bytes:
    """Requests of all sizes, with padding, one after the other.

    Args:
        draw: the source of randomness.
        largest: the largest read. Many thousand reads of a few bytes show no more than a few
            thousand do, so then no body is much longer than a record.
    """
    sizes = (0, 1, 5000, 70000, 200000) if largest > 1000 else (0, 1, 5000, 35000)
    parts = []
    for id in range(1, draw.randrange(2, 6)):
        params = {"REQUEST_METHOD": "POST", "X": "x" * draw.choice((0, 200, 9000))}
        body = bytes(draw.choice(sizes))
        padding = bytes(draw.choice((0, 1, 7, 255)))
        parts += [records.begin(id), records.params(id, params)]
        for at in range(0, len(body), 32768):
            content = body[at : at + 32768]
            parts.append(records.record(records.STDIN, id, content, padding=padding))
        parts.append(records.record(records.STDIN, id, b"", padding=padding))
    parts.append(records.record(77, 0, bytes(6000)))
    return b"".join(parts)


def records_of(data: bytes) -> list[Plain]:
    found = []
    at = 0
    while at < len(data):
        kind, id = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        length, padding = int.from_bytes(data[at + 4 : at + 6], "big"), data[at + 6]
        found.append((kind, id, length))
        at += 8 + length + padding
    return found


@given(seed=st.integers(0, 1 << 32), views=st.booleans())
def test_reads_that_are_cut_anywhere_have_the_records_that_were_sent(
    seed: int, views: bool
) -> None:
    draw = random.Random(seed)
    largest = draw.choice((10, 300, 5000, 65536, 262144))
    data = requests(draw, largest)
    kept = recording(Room(keep=draw.choice((0, 100))))
    receive(kept, data, iter(lambda: draw.randrange(1, largest), 0), views=views)
    assert plain(kept, IN) == records_of(data)
    assert all(each.got == each.length for each in cut(kept.entries()))


@given(seed=st.integers(0, 1 << 32))
def test_a_recording_that_begins_anywhere_has_the_last_records(seed: int) -> None:
    draw = random.Random(seed)
    largest = draw.choice((10, 300, 5000, 65536))
    data = requests(draw, largest)
    kept = recording(Room(draw.choice((8192, 16384, 32768))))
    receive(kept, data, iter(lambda: draw.randrange(1, largest), 0))
    found = plain(kept, IN)
    assert found == records_of(data)[len(records_of(data)) - len(found) :]


@given(sizes=st.lists(st.integers(0, 100000), max_size=8), keep=st.sampled_from((50, 1024)))
def test_writes_of_any_size_have_the_records_that_were_sent(sizes: list[int], keep: int) -> None:
    kept = recording(Room(keep=keep))
    protocol = kept.protocol
    protocol.receive_data(records.begin(1) + records.params(1, {"REQUEST_METHOD": "GET"}))
    request = protocol.requests[1]
    head = b"Status: 200 OK\r\nX: y\r\n\r\n"
    protocol.send_stdout(request, head)
    everything: list[Buffer] = []
    for number, size in enumerate(sizes):
        protocol.send_stdout(request, memoryview(bytes(size)) if number % 2 else bytes(size))
        if number % 3:
            buffers = protocol.data_to_send()
            everything += buffers
            kept.sent(buffers)
    protocol.respond(request, b"the end")
    buffers = protocol.data_to_send()
    everything += buffers
    kept.sent(buffers)
    assert plain(kept, OUT) == records_of(b"".join(everything))
    first = next(each for each in cut(kept.entries()) if each.direction == OUT)
    assert first.content.startswith(head)


def test_a_recording_keeps_within_its_limit_and_the_rooms_are_few() -> None:
    room = Room(40000)
    many, few = recording(room), recording(room)
    request = records.request(1, {"REQUEST_METHOD": "GET"}, b"")
    for kept in [many, few] * 1000:
        kept.received(request)
        kept.sent([b"x" * 300])
    assert room.rooms == 0
    assert SMALL_ROOM // 4 < held(few) <= SMALL_ROOM
    assert 10000 < held(many) <= 40000
    assert few.dropped > many.dropped > 0
    few.close()
    many.close()
    assert room.rooms == 1


@given(seed=st.integers(0, 1 << 32), views=st.booleans())
def test_no_peer_makes_a_recording_hold_more_than_its_limit(seed: int, views: bool) -> None:
    draw = random.Random(seed)
    kept = recording(Room(16384, keep=draw.choice((0, 100))))
    # A record of 60000 bytes that the protocol keeps until it is complete.
    data = requests(draw, 65536) + records.record(77, 0, bytes(60000))
    receive(kept, data, iter(lambda: draw.choice((1, 10, 5000, 65536)), 0), views=views)
    assert held(kept) <= 16384
    assert len(kept.entries()) <= 16384 // 128


def test_one_read_that_exceeds_the_limit_is_not_kept() -> None:
    kept = recording(Room(rooms=0))
    params = records.params(1, {"X": "x" * 60000})
    receive(kept, records.begin(1) + params, iter([65536]))
    assert kept.entries() == []
    kept.received(records.stdin(1, b""))
    assert plain(kept, IN) == [(records.STDIN, 1, 0)]


def test_bytes_that_are_not_fastcgi_are_not_kept() -> None:
    kept = recording()
    data = b"GET /secret HTTP/1.1\r\nCookie: " + b"secret" * 2000
    kept.received(data)
    with pytest.raises(RemoteProtocolError):
        kept.protocol.receive_data(data)
    (record,) = cut(kept.entries())
    assert (record.name, record.content, record.length) == ("not FastCGI", data[:8], 8)
    assert b"secret" not in repr(kept.entries()).encode()


def test_a_read_in_the_middle_of_a_header_is_not_the_first_of_a_recording() -> None:
    kept = recording(Room(rooms=0))
    first = records.record(77, 0, bytes(3000))
    receive(kept, first + first[:3], iter([3011]))
    receive(kept, first[3:], iter([3005]))
    receive(kept, first, iter([3008]))
    assert [skip for _, _, _, skip in kept.entries()] == [UNKNOWN, 0]
    assert plain(kept, IN) == records_of(first)


def test_an_incomplete_header_is_a_note() -> None:
    kept = recording()
    receive(kept, records.begin(1) + b"\1\4\0", iter([19]))
    assert [each.text for each in cut(kept.entries())] == ["", "3 bytes of an incomplete header"]


def test_a_bad_end_is_reported_once_until_it_is_written() -> None:
    room = Room()
    kept = recording(room)
    for number in range(100):
        kept.end_badly(f"reason {number}")
    assert room.settled == [kept]
    assert kept.reasons == tuple(f"reason {number}" for number in range(16))
