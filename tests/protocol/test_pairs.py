"""Test name-value pairs: every length, every cut, and lengths that are wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fcgi import records

from vsgi_fcgi.exceptions import ParamsError
from vsgi_fcgi.protocol.records import decode_pairs, encode_length, encode_pairs

TEXT = st.text(st.characters(max_codepoint=255), max_size=200)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=20)
MANY = 10**9


@pytest.mark.parametrize(
    ("length", "encoded"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (127, b"\x7f"),
        (128, b"\x80\x00\x00\x80"),
        (255, b"\x80\x00\x00\xff"),
        (65536, b"\x80\x01\x00\x00"),
        (2**31 - 1, b"\xff\xff\xff\xff"),
    ],
)
def test_lengths_have_one_byte_or_four(length: int, encoded: bytes) -> None:
    assert encode_length(length) == encoded


@pytest.mark.parametrize("name_size", [0, 1, 127, 128, 255, 256, 65536])
@pytest.mark.parametrize("value_size", [0, 1, 127, 128, 255, 256, 65536, 2**24])
def test_pairs_of_every_length(name_size: int, value_size: int) -> None:
    pair = ("\xe9" * name_size, "\xff" * value_size)
    block = records.pairs([pair])
    assert encode_pairs([pair]) == block
    assert decode_pairs(block, 1) == (dict([pair]), ())


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_pairs_survive_the_way(pairs: list[tuple[str, str]]) -> None:
    block = encode_pairs(pairs)
    assert block == records.pairs(pairs)
    first, repeated = decode_pairs(block, MANY)
    seen: dict[str, str] = {}
    later = [(name, value) for name, value in pairs if seen.setdefault(name, value) is not value]
    assert first == seen
    assert len(first) + len(repeated) == len(pairs)
    # One and the same str may stand in two pairs: compare what remains, not who.
    assert [pair for pair in repeated if pair in later] == later


def test_of_a_repeated_name_the_first_value_is_kept_and_the_others_in_their_order() -> None:
    pairs = [("A", "1"), ("B", "x"), ("A", "2"), ("A" * 200, "long"), ("B", "y" * 200), ("A", "3")]
    first, repeated = decode_pairs(records.pairs(pairs), MANY)
    assert first == {"A": "1", "B": "x", "A" * 200: "long"}
    assert list(first) == ["A", "B", "A" * 200]
    assert repeated == (("A", "2"), ("B", "y" * 200), ("A", "3"))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_block_cut_anywhere_else_than_between_pairs_is_refused(data: st.DataObject) -> None:
    pairs = data.draw(PAIRS.filter(bool))
    ends = [len(records.pairs(pairs[:count])) for count in range(len(pairs) + 1)]
    cut = data.draw(st.integers(0, ends[-1]))
    block = records.pairs(pairs)[:cut]
    if cut in ends:
        first, repeated = decode_pairs(block, MANY)
        assert len(first) + len(repeated) == ends.index(cut)
    else:
        with pytest.raises(ParamsError) as raised:
            decode_pairs(block, MANY)
        assert raised.value.status == 400


@pytest.mark.parametrize(
    "block",
    [
        b"\xff\xff\xff\xff\xff\xff\xff\xff",  # the sum has 33 bits
        b"\xff\xff\xff\xff\x00name",
        b"\x00\xff\xff\xff\xffvalue",
        b"\xff\xff\xff\xff\x80\x00\x00\x03abc",  # in 32 bits the sum would be 2, and fit
        b"\x01\x01A",
        b"\x02\x00A",
        b"\x00",
        b"\x80",
        b"\x80\x00\x00\x01",
        b"\x01\x80\x00\x00",
        b"\x01\x01AB\x01",
        b"\x01\x01AB\x01\x01\x01",
    ],
)
def test_claims_past_the_end_are_refused(block: bytes) -> None:
    with pytest.raises(ParamsError) as raised:
        decode_pairs(block, MANY)
    assert raised.value.status == 400


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused(block: bytes) -> None:
    try:
        first, repeated = decode_pairs(block, 50)
    except ParamsError:
        return
    total = [*first.items(), *repeated]
    assert len(total) <= 50
    # Nothing was skipped: two lengths a pair, each of one byte or four.
    content = sum(len(name) + len(value) for name, value in total)
    assert 2 * len(total) <= len(block) - content <= 8 * len(total)


def test_no_pairs() -> None:
    assert decode_pairs(b"", 0) == ({}, ())
    assert encode_pairs([]) == b""


def test_more_pairs_than_allowed_are_refused_with_431_repeated_or_not() -> None:
    for pairs in ([("A", ""), ("B", "")], [("A", ""), ("A", "")]):
        assert decode_pairs(records.pairs(pairs), 2)
        with pytest.raises(ParamsError, match="2 params, but the limit is 1") as raised:
            decode_pairs(records.pairs(pairs), 1)
        assert raised.value.status == 431


def test_text_that_is_not_latin_1_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_pairs([("A", "€")])
