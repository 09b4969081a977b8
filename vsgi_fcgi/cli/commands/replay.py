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


@dataclass(frozen=True, kw_only=True)
class TimelineOptions(ReplayOptions):
    """Options of ``timeline``."""

    output: str | None = setting(
        None,
        "file for the page",
        group="server",
        metavar="FILE",
        default_text="standard output",
    )


def replay(words: CommandLine) -> int:
    """Print the records of a recording, and the events that they cause."""
    from vsgi_fcgi.recording.replay import replay

    about, records = _read(resolve(words, os.environ).options)
    lines = [
        f"{about.peer}, recorded by {about.server}; time 0 is {about.began}",
        *(f"reason: {reason}" for reason in about.reasons or ["asked for"]),
    ]
    if about.dropped:
        lines.append(f"earlier reads and writes that were not kept: {about.dropped}")
    for text in (*lines, *replay(about, records)):
        line = escape_controls(text).encode("ascii", "backslashreplace")
        sys.stdout.write(line.decode() + "\n")
    return 0


def timeline(line: CommandLine) -> int:
    """Write a page about a recording."""
    from vsgi_fcgi.recording.timeline import make_page

    options = resolve(line, os.environ).options
    page = make_page(*_read(options))
    if options.output is None:
        sys.stdout.write(page)
        return 0
    try:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(page)
    except OSError as error:
        raise UsageError(f"{options.output} cannot be written: {error.strerror}") from error
    return 0


def _read(options: ReplayOptions) -> tuple[About, list[Record]]:
    if options.recording is None:
        raise UsageError("FILE is missing; name a file in the folder of --record")
    return read_recording(options.recording)
