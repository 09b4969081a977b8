"""Fuzz the file of a recording, which may come from another machine."""

from __future__ import annotations

import re

from support.recording_sample import ABOUT, RECORDS

from fuzz.driver import Target
from fuzz.targets.texts import check_sentence, memory_file
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.recording.file import encode, read_recording
from vsgi_fcgi.recording.replay import replay
from vsgi_fcgi.recording.timeline import make_page

_TAG = re.compile("<(/?(a|b|body|h1|head|html|li|meta|p|span|style|t.|t....|title|ul)[ >]|!D)")


def recording(data: bytes) -> object:
    """Read a recording, replay it, and make a page of it.

    - Only UsageError leaves it, with a message in one line. What was read can be written and read.
    - The page is ASCII, and has no elements but those of its template.
    """
    try:
        about, records = read_recording(memory_file("a.recording", data))
    except UsageError as error:
        check_sentence(error)
        return str(error)[-14:]
    text = encode(about, records)
    assert encode(*read_recording(memory_file("a.recording", text.encode()))) == text
    lines = list(replay(about, records))
    page = make_page(about, records)
    assert page.isascii()
    assert page.count("<") == len(_TAG.findall(page)), page
    return len(records), tuple(line[14:40] for line in lines)


_TEXT = encode(ABOUT, RECORDS).encode()
_TOKENS = (b"\\ud800", b"\\u0000", b"<", b"-1", b"65535", b"1e9")
TARGETS = (Target("recording", recording, (_TEXT,), _TOKENS),)
