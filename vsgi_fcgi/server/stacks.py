"""The Python stacks of threads, for people to read."""

from __future__ import annotations

import linecache
import os
import sys
import threading
from types import FrameType
from typing import Any, Final

_MAX_PLACES: Final = 64
"""Maximum number of lines of code in a stack; the outer ones are omitted."""

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

Place = tuple[str, int, str]
"""A file, a line number and a function."""


def stack_of(ident: int, greenlet: Any = None) -> list[Place]:
    """Return where a thread is, from its outermost call to its innermost one.

    This reads no file, so the main context may call it. The thread continues meanwhile.

    Args:
        ident: the thread's `threading.get_ident`.
        greenlet: a greenlet of this thread. If it waits, its place is returned.

    Returns:
        The places, without the calls of this package around the app; empty if the thread has ended.
    """
    # None if the greenlet runs, or has ended.
    frame: FrameType | None = getattr(greenlet, "gr_frame", None)
    if frame is None:
        frame = sys._current_frames().get(ident)
    places: list[Place] = []
    while frame is not None and len(places) < _MAX_PLACES:
        code = frame.f_code
        places.append((code.co_filename, frame.f_lineno or 0, code.co_name))
        frame = frame.f_back
    places.reverse()
    for index, (file, _, _) in enumerate(places):
        if file != threading.__file__ and not file.startswith(_PACKAGE):
            return places[index:]
    return places


def stack_text(places: list[Place]) -> str:
    """Return a stack in the format of a traceback. This reads the source files."""
    lines = []
    for file, number, function in places:
        lines.append(f'  File "{file}", line {number}, in {function}')
        if source := linecache.getline(file, number).strip():
            lines.append(f"    {source}")
    return "\n".join(lines)
