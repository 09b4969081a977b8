"""The file of a recording: JSON, one value on each line.

The first line is an object about the recording. Each further line is an array, for a record or for
a note; `docs/reference/recordings.md` describes both. Content is text in latin-1, one character for
each byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Final

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.recording.records import IN, NO_HEADER, NOTE, OUT, Record

FORMAT: Final = 1
"""The version of the format."""

MAX_FILE: Final = 67108864
"""Bytes of the largest file that is read: 64 MiB."""


@dataclass(kw_only=True)
class About:
    """The first line of a file.

    Attributes:
        vsgi_fcgi_recording: the version of the format.
        server: the version of the server.
        peer: the connection.
        began: the wall clock at the time 0 of the recording, in ISO format.
        reasons: what went wrong; empty if the recording was asked for.
        dropped: how many earlier reads and writes are missing.
        max_requests: the limit of requests in flight.
        max_params_bytes: the limit of bytes of the params of a request.
        max_params_count: the limit of params of a request.
        roles: the numbers of the roles that are served.
    """

    vsgi_fcgi_recording: int
    server: str
    peer: str
    began: str
    reasons: list[str]
    dropped: int
    max_requests: int
    max_params_bytes: int
    max_params_count: int
    roles: list[int]


def encode(about: About, records: Iterable[Record]) -> str:
    """Return the content of a file."""
    lines = [json.dumps(asdict(about))]
    for record in records:
        values: list[object] = [round(record.time, 6), record.direction]
        if record.direction == NOTE:
            values.append(record.text)
        else:
            values += (record.kind, record.id, record.length, record.padding, record.got)
            values += (round(record.until, 6), record.content.decode("latin-1"))
        lines.append(json.dumps(values))
    return "\n".join(lines) + "\n"


def read_recording(path: str) -> tuple[About, list[Record]]:
    """Read a file.

    Raises:
        UsageError: it cannot be read, or is no recording; the message is one line.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise UsageError(f"{path} is larger than {MAX_FILE} bytes, so it is no recording")
    lines = data.splitlines()
    number = 0
    try:
        about = _about(json.loads(lines[0]) if lines else None)
        records = []
        for line in lines[1:]:
            number += 1
            records.append(_record(json.loads(line)))
    except (ValueError, RecursionError) as error:
        what = str(error) if type(error) is _Malformed else "it is not valid JSON"
        raise UsageError(f"{path} is no recording: line {number + 1}: {what}") from None
    return about, records


class _Malformed(ValueError):
    """A line is not as the format requires; the message describes it."""


def _about(value: Any) -> About:
    if not isinstance(value, dict) or "vsgi_fcgi_recording" not in value:
        raise _Malformed("vsgi_fcgi_recording is missing")
    if value["vsgi_fcgi_recording"] != FORMAT:
        raise _Malformed("this version of vsgi-fcgi does not know its format")
    kinds = {"int": int, "str": str, "list[str]": list, "list[int]": list}
    found: dict[str, Any] = {item.name: value.get(item.name) for item in fields(About)}
    for item in fields(About):
        one = found[item.name]
        inner = str if item.type == "list[str]" else int
        if type(one) is not kinds[str(item.type)] or (
            isinstance(one, list) and any(type(each) is not inner for each in one)
        ):
            raise _Malformed(f"{item.name} is missing or wrong")
    return About(**found)


_LIMITS: Final = (255, 65535, MAX_FILE * 1024, 255, MAX_FILE * 1024)
"""The largest type, id, length, padding and number of bytes that have passed."""


def _record(value: Any) -> Record:
    if not isinstance(value, list) or len(value) not in (3, 9) or not _is_time(value[0]):
        raise _Malformed("it is neither a record nor a note")
    time, direction, *rest = value
    if direction == NOTE and len(rest) == 1 and isinstance(rest[0], str):
        return Record(time, time, NOTE, text=rest[0])
    if direction not in (IN, OUT) or len(rest) != 7:
        raise _Malformed("it is neither a record nor a note")
    *numbers, until, text = rest
    for one, limit in zip(numbers, _LIMITS, strict=True):
        if type(one) is not int or not NO_HEADER <= one <= limit:
            raise _Malformed("a number is out of its range")
    if not _is_time(until) or not isinstance(text, str) or max(text, default="") > "\xff":
        raise _Malformed("the content is not text in latin-1")
    kind, id, length, padding, got = numbers
    content = text.encode("latin-1", "replace")
    if min(id, length, padding, got) < 0 or not len(content) <= got <= length:
        raise _Malformed("a number is out of its range")
    if kind >= 0 and length > 65535:
        raise _Malformed("a number is out of its range")
    return Record(time, until, direction, kind, id, length, padding, got, content)


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)
