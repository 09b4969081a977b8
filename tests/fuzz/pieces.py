"""Two ways to use an input: cut it into pieces, or read it as choices. Both are always the same."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

T = TypeVar("T")


def pieces(data: bytes, most: int = 12) -> list[bytes]:
    """Return an input in pieces, some of which are empty or have one byte."""
    chance = random.Random(zlib.crc32(data))
    cuts = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(1, most)))
    # Next to each other, too: what begins in one byte and ends in another one is cut between them.
    cuts = sorted([*cuts, *(min(cut + 1, len(data)) for cut in cuts)])
    return [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]


class Choices:
    """Reads an input as a sequence of choices, so that each input makes a well-formed document.

    Args:
        data: the input; after its end, the first option is chosen.
    """

    def __init__(self, data: bytes) -> None:
        self._values = iter(data)

    def number(self, end: int) -> int:
        """Return a number from 0 to ``end`` - 1."""
        return next(self._values, 0) % end

    def pick(self, options: Sequence[T]) -> T:
        """Return one of some options."""
        return options[self.number(len(options))]

    def some(self, options: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """Return an object with some of these members, in any order."""
        names = list(options)
        return {(name := self.pick(names)): options[name]() for _ in range(self.number(6))}

    def value(self, levels: int = 3) -> Any:
        """Return a JSON value of any type."""
        kind = self.number(5 if levels else 3)
        if kind < 3:
            return self.pick(_LEAVES)
        size = self.number(4)
        if kind == 3:
            return [self.value(levels - 1) for _ in range(size)]
        return {self.pick(TEXTS): self.value(levels - 1) for _ in range(size)}


TEXTS = (
    "a",
    "b",
    "",
    "\u00e9",
    "a~/",
    "0",
    "-",
    "\ud800",
    "x\ny",
    "AA==",
    "u",
    "%(a)s",
    "?",
    "x" * 90,
)
_LEAVES = (None, 0, True, -1, 200, 1.5, 10**30, float("nan"), *TEXTS)
