"""The limit of open files, which is what connections are made of."""

from __future__ import annotations

import resource
from typing import Final

_SPARE: Final = 512
"""Descriptors for everything that is not counted."""


def raise_limit(wanted: int) -> None:
    """Raise the soft limit of open files towards what may be needed, as far as the system allows.

    Args:
        wanted: connections and temporary files at once.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted += _SPARE
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
