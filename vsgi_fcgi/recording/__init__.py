"""Recordings of FastCGI connections: their records, their files, replays and pages."""

from typing import Final

# Here, because every server imports them, and the modules only if it records.
IN: Final = "in"
OUT: Final = "out"
NOTE: Final = "note"
"""What an entry of a recording is: bytes in a direction, or a note about something else."""

BLOCKED: Final = "the web server does not read"
UNBLOCKED: Final = "the web server reads again"
INPUT_ENDED: Final = "the web server has closed its direction"
"""The beginnings of notes, two of which a timeline knows."""
