"""Name-value pairs (FastCGI 1.0, section 3.4)."""

from __future__ import annotations

from collections.abc import Iterable

from vsgi_fcgi.exceptions import ParamsError

Repeated = tuple[tuple[str, str], ...]


def decode_pairs(block: bytes | bytearray, max_count: int) -> tuple[dict[str, str], Repeated]:
    """Decode the content of a whole PARAMS or GET_VALUES stream.

    Text is latin-1, one character a byte, as PEP 3333 wants native strings.

    Args:
        block: the joined content of the stream's records.
        max_count: how many pairs it may hold.

    Returns:
        The pairs by name (of a repeated name, the first value), and the further pairs of
        repeated names in their order.

    Raises:
        ParamsError: a length points past the end (400), or there are too many pairs (431).
    """
    # Decoded once and sliced; the lengths are read from the bytes. A length past the end makes a
    # short slice and then `at != size`, so no comparison is needed pair by pair. Python's numbers
    # have no 32 bits to overflow.
    text = block.decode("latin-1")
    pairs: dict[str, str] = {}
    at, size, count = 0, len(block), 0
    try:
        while at < size:
            name_length = block[at]
            at += 1
            if name_length > 127:
                name_length = (
                    (name_length & 127) << 24 | block[at] << 16 | block[at + 1] << 8 | block[at + 2]
                )
                at += 3
            value_length = block[at]
            at += 1
            if value_length > 127:
                value_length = (
                    (value_length & 127) << 24
                    | block[at] << 16
                    | block[at + 1] << 8
                    | block[at + 2]
                )
                at += 3
            middle = at + name_length
            name = text[at:middle]
            at = middle + value_length
            pairs[name] = text[middle:at]
            count += 1
    except IndexError:
        raise ParamsError("the params end in the middle of a length", 400) from None
    if at != size:
        raise ParamsError(f"a length in the params points {at - size} bytes past their end", 400)
    if count > max_count:
        raise ParamsError(f"{count} params, {max_count} are allowed", 431)
    if count != len(pairs):
        return split_repeated(iter_pairs(block, text))
    return pairs, ()


def iter_pairs(block: bytes | bytearray, text: str) -> Iterable[tuple[str, str]]:
    """Yield the pairs of a block that is known to be well formed, in their order."""
    at, size = 0, len(block)
    while at < size:
        lengths = []
        for _ in range(2):
            length = block[at]
            width = 4 if length > 127 else 1
            if width == 4:
                length = int.from_bytes(block[at : at + 4], "big") & 0x7FFFFFFF
            lengths.append(length)
            at += width
        middle = at + lengths[0]
        end = middle + lengths[1]
        yield text[at:middle], text[middle:end]
        at = end


def split_repeated(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], Repeated]:
    """Part the first pair of each name from the later ones."""
    first: dict[str, str] = {}
    later = []
    for name, value in pairs:
        if name in first:
            later.append((name, value))
        else:
            first[name] = value
    return first, tuple(later)


def encode_length(length: int) -> bytes:
    """Encode a name's or a value's length: one byte below 128, else four (section 3.4)."""
    return bytes((length,)) if length < 128 else (length | 1 << 31).to_bytes(4, "big")


def encode_pairs(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Encode pairs of latin-1 text.

    Raises:
        UnicodeEncodeError: a character is not latin-1.
    """
    out: list[bytes] = []
    for name, value in pairs:
        raw_name, raw_value = name.encode("latin-1"), value.encode("latin-1")
        out += (encode_length(len(raw_name)), encode_length(len(raw_value)), raw_name, raw_value)
    return b"".join(out)
