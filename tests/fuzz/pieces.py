"""Cut an input into pieces, always in the same way."""

from __future__ import annotations

import random
import zlib
from itertools import pairwise


def pieces(data: bytes, most: int = 12) -> list[bytes]:
    """Return an input in pieces, some of which are empty or have one byte."""
    chance = random.Random(zlib.crc32(data))
    cuts = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(1, most)))
    # Next to each other, too: what begins in one byte and ends in another one is cut between them.
    cuts = sorted([*cuts, *(min(cut + 1, len(data)) for cut in cuts)])
    return [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]
