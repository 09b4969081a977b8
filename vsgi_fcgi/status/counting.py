"""How requests are counted: by the class of their status, and their durations in buckets.

Every server imports this module, and `vsgi_fcgi.status.scoreboard` only if the status is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
"""Classes of the status of a response. The first one is for requests without a response."""

BUCKETS: Final = 22
"""Number of buckets of a histogram of durations. Each one is twice as wide as the one before."""

SHIFT: Final = 16
"""The first bucket ends at 2 to the power of this, in nanoseconds."""


def bucket_ends() -> list[float]:
    """Return the ends of the buckets in seconds. The last bucket has no end."""
    return [(1 << (SHIFT + number)) / 1e9 for number in range(BUCKETS - 1)]


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Return a duration in seconds that this share of the durations does not exceed.

    It is interpolated within its bucket. None if there are no durations.

    Args:
        counts: the number of durations in each bucket.
        share: the share, from 0 to 1.
    """
    rank = share * sum(counts)
    if not rank:
        return None
    ends = [0.0, *bucket_ends(), bucket_ends()[-1] * 2]
    for number, count in enumerate(counts):
        if count and rank <= count:
            return ends[number] + (ends[number + 1] - ends[number]) * rank / count
        rank -= count
    return ends[-1]
