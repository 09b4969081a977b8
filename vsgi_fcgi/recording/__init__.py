"""Recordings of FastCGI connections: their records, their files, replays and pages."""

from typing import Final

# Here, because every server imports them, and the modules only if it records.
BLOCKED: Final = "the web server does not read"
UNBLOCKED: Final = "the web server reads again"
INPUT_ENDED: Final = "the web server has closed its direction"
"""The beginnings of notes, two of which a timeline knows."""
