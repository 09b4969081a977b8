"""The file of a recording: JSON, one value on each line.

The first line is an object about the recording. Each further line is an array, for a record or for
a note; `docs/reference/replay.md` describes both. Content is text in latin-1, one character for
each byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.recording import NOTE
from vsgi_fcgi.recording.records import NOT_FASTCGI, Record

FORMAT: Final = 1
"""The version of the format."""

MAX_FILE: Final = 67108864
"""Bytes of the largest file that is read: 64 MiB."""

_MAX_TIME: Final = 1e10
"""The latest time, in seconds."""


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
            values += (record.kind, record.id, record.length, record.got)
            values.append(record.content.decode("latin-1"))
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
    first, *lines = data.splitlines() or [b"null"]
    records: list[Record] = []
    number = 1
    try:
        about = _about(json.loads(first))
        for line in lines:
            number += 1
            records.append(_record(json.loads(line)))
    except (ValueError, RecursionError) as error:
        what = str(error) if type(error) is _Malformed else "it is not valid JSON"
        raise UsageError(f"{path} is no recording: line {number}: {what}") from None
    return about, records


class _Malformed(ValueError):
    """A line is not as the format requires; the message describes it."""


_TYPES: Final = {"int": int, "str": str, "list[int]": int, "list[str]": str}


def _about(value: Any) -> About:
    if not isinstance(value, dict) or "vsgi_fcgi_recording" not in value:
        raise _Malformed("vsgi_fcgi_recording is missing")
    if value["vsgi_fcgi_recording"] != FORMAT:
        raise _Malformed("this version of vsgi-fcgi does not know its format")
    for item in fields(About):
        kind, one = str(item.type), value.get(item.name)
        several = one if isinstance(one, list) else [one]
        if isinstance(one, list) != kind.startswith("list") or any(
            type(each) is not _TYPES[kind] for each in several
        ):
            raise _Malformed(f"{item.name} is missing or wrong")
    return About(**{item.name: value[item.name] for item in fields(About)})


def _record(value: Any) -> Record:
    match value:
        case [int() | float() as time, "note", str(text)] if 0 <= time <= _MAX_TIME:
            return Record(time, NOTE, text=text)
        case [
            int() | float() as time,
            "in" | "out" as direction,
            int(kind),
            int(id),
            int(length),
            int(got),
            str(text),
        ] if (
            0 <= time <= _MAX_TIME
            and NOT_FASTCGI <= kind <= 255
            and 0 <= id <= 65535
            and len(text) <= got <= length <= 65535
            and max(text, default="") <= "\xff"
        ):
            return Record(time, direction, kind, id, length, got, text.encode("latin-1"))
    raise _Malformed("it is neither a record nor a note")
