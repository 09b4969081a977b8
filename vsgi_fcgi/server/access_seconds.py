"""The time of day in the access log, worked out once a second."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final

# Not strftime's, which speaks the language of the process's locale.
_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"

Second = tuple[float, float, str, str, str]


def second_of(moment: float) -> Second:
    """The second in which a moment lies.

    Args:
        moment: in seconds since 1970.

    Returns:
        When it began, and when the next one does, in seconds since 1970; the time as Apache writes
        it, such as ``[10/Oct/2000:13:55:36 -0700]``; as ISO 8601 has it, with the point after
        which milliseconds follow; and the offset from UTC that follows them.
    """
    return _second(int(moment))


@lru_cache(maxsize=2)
def _second(since: int) -> Second:
    local = datetime.fromtimestamp(since).astimezone()
    date = f"{local.day:02d}/{_MONTHS[3 * local.month - 3 : 3 * local.month]}/{local.year}"
    zone = f"{local:%z}"
    return (
        # A float, because a moment is: between unequal kinds, comparing costs ten times as much.
        float(since),
        since + 1.0,
        f"[{date}:{local:%H:%M:%S} {zone}]",
        f"{local:%Y-%m-%dT%H:%M:%S}.",
        f"{zone[:3]}:{zone[3:5]}",
    )
