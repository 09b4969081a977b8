"""``vsgi-fcgi replay`` and ``timeline``: what a recording of ``--record`` shows."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from vsgi_fcgi.cli.settings.command_line import CommandLine
from vsgi_fcgi.cli.settings.resolve import resolve
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.log.handlers import escape_controls
from vsgi_fcgi.recording.file import About, read_recording
from vsgi_fcgi.recording.records import Record
from vsgi_fcgi.settings import setting


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Options of both commands."""

    recording: str | None = setting(None, "file of a recording", group="app", metavar="FILE")


def replay(line: CommandLine) -> int:
    """Print the records of a recording, and the events that they cause."""
    from vsgi_fcgi.recording.replay import replay

    about, records = _read(line)
    heads = [
        f"{about.peer}, recorded by {about.server}; time 0 is {about.began}",
        *(f"reason: {reason}" for reason in about.reasons or ["asked for"]),
    ]
    if about.dropped:
        heads.append(f"earlier reads and writes that were not kept: {about.dropped}")
    for text in (*heads, *replay(about, records)):
        sys.stdout.write(escape_controls(text).encode("ascii", "backslashreplace").decode() + "\n")
    return 0


def timeline(line: CommandLine) -> int:
    """Print a page about a recording."""
    from vsgi_fcgi.recording.timeline import make_page

    sys.stdout.write(make_page(*_read(line)))
    return 0


def _read(line: CommandLine) -> tuple[About, list[Record]]:
    options: ReplayOptions = resolve(line, os.environ).options
    if options.recording is None:
        raise UsageError("FILE is missing; name a file in the folder of --record")
    return read_recording(options.recording)
