"""Reading record by record: what a connection needs that moves to another process."""

from __future__ import annotations

import pytest
from support.fcgi import records
from support.fcgi.peer import whole_request

from vsgi_fcgi.protocol import ServerProtocol
from vsgi_fcgi.protocol.server import Limits

PADDED = records.record(records.STDIN, 3, b"x" * 10, padding=b"12345")
VALUES = records.record(records.GET_VALUES, 0, b"", padding=b"1234567")
DATA = (
    whole_request(1, "/", b"x" * 70_000)
    + VALUES
    + records.begin(3)
    + records.params(3)
    + PADDED
    + records.stdin(3)
    + whole_request(2)
)


def test_reads_of_the_missing_size_end_between_records() -> None:
    protocol = ServerProtocol(Limits(), {})
    at, ends = 0, []
    while at < len(DATA):
        size = protocol.missing
        assert 0 < size <= len(DATA) - at
        protocol.receive_data(DATA[at : at + size])
        at += size
        if not protocol.mid_record:
            assert protocol.unparsed == b""
            ends.append(at)
    expected = []
    at = 0
    while at < len(DATA):
        at += 8 + int.from_bytes(DATA[at + 4 : at + 6], "big") + DATA[at + 6]
        expected.append(at)
    assert ends == expected


@pytest.mark.parametrize("cut", range(1, 16))
def test_the_start_of_a_record_is_unparsed(cut: int) -> None:
    protocol = ServerProtocol(Limits(), {})
    begin = records.begin(1)
    protocol.receive_data(begin[:cut])
    assert protocol.unparsed == begin[:cut]
    assert protocol.missing == (8 if cut < 8 else 16) - cut


def test_a_stream_record_of_which_a_part_was_processed_cannot_move() -> None:
    protocol = ServerProtocol(Limits(), {})
    protocol.receive_data(whole_request(1, "/", b"x" * 100)[:-20])
    assert protocol.mid_record
    assert protocol.unparsed is None
