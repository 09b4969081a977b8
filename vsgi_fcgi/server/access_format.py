"""A format of the access log at work: from requests to lines."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii as _quote
from time import monotonic_ns
from typing import Any, Final

from vsgi_fcgi.server.access_atoms import header, rebuild_target, status_of
from vsgi_fcgi.server.access_code import AccessCode
from vsgi_fcgi.server.access_seconds import second_of
from vsgi_fcgi.server.access_syntax import PRESETS, parse_format
from vsgi_fcgi.server.endings import Ending
from vsgi_fcgi.server.logged_reply import LoggedReply
from vsgi_fcgi.server.roles import ROLE_NAMES

_MAX_PLAIN: Final = 8192
"""Characters of a line up to which no text in it is cut."""

_MAX_TEXT: Final = 4096
"""Characters that are left of a text that is cut."""

_DISTRUST: Final = bytes(
    code if 32 <= code < 127 and chr(code) not in '"\\' else 0 for code in range(256)
)
"""For `bytes.translate`: what may have to be escaped becomes 0."""

_ESCAPES: Final = {
    code: f"\\x{code:02x}" for code in range(256) if not (code < 128 and chr(code).isprintable())
} | {
    ord(character): "\\" + letter
    for character, letter in zip('\b\n\r\t\v\\"', 'bnrtv\\"', strict=True)
}
"""What Apache writes instead of a character that is not to be trusted in a log."""


class AccessFormat:
    """A format, made into functions.

    Args:
        text: one of `PRESETS`, or a format string. One that begins with ``{`` is JSON: values
            are escaped as JSON wants it, and numbers that do not exist are null.
        ended: replies that wait for their lines.
        batch: how many of them are enough.
        make_lines: called when there are so many.

    Raises:
        UsageError: it cannot be used; the message says why.

    Attributes:
        note: takes what will be gone at the end: ``note(channel, request, params, body,
            handed_over)``.
        make_reply: makes a `LoggedReply` with its notes: ``make_reply(channel, request, body)``.
        line: makes one line: ``line(notes, head, sent, ending, run_began, run_ended, now)``.
        times_ends: whether it tells when requests ended.
        times_runs: whether it tells when apps began and ended.
    """

    note: Callable[..., tuple[object, ...]]
    make_reply: Callable[..., LoggedReply]
    line: Callable[..., str]
    _lines: Callable[[Sequence[LoggedReply]], list[str]]

    def __init__(
        self,
        text: str,
        ended: deque[LoggedReply],
        batch: int,
        make_lines: Callable[[], object],
    ) -> None:
        parts = parse_format(text)
        code = AccessCode(parts)
        self.times_ends = code.uses("now")
        self.times_runs = code.uses("run_began")
        is_json = PRESETS.get(text, text).startswith("{")
        missing = "null" if is_json else "-"
        names: dict[str, Any] = {
            "LoggedReply": LoggedReply,
            "batch": batch,
            "broken": Ending.BROKEN.value,
            "clock": monotonic_ns,
            "complete": Ending.COMPLETE.value,
            "ended": ended,
            "escape": escape_json if is_json else escape_text,
            "header": header,
            "make_lines": make_lines,
            "milliseconds": [f"{number:03d}" for number in range(1000)],
            "missing": missing,
            "none": "" if is_json else "-",
            "pid": str(os.getpid()),
            "pid_of_gunicorn": f"<{os.getpid()}>",
            "rebuild_target": rebuild_target,
            "roles": {role: name.lower() for role, name in ROLE_NAMES.items()},
            "second_of": second_of,
            "status_of": status_of,
            "statuses": {b"%d" % status: str(status) for status in range(100, 1000)}
            | {b"": missing},
        }
        exec(code.source(), names)
        for name in ("note", "make_reply", "line", "_lines"):
            setattr(self, name, names[name])
        fixed = encoded("".join(part for part in parts if isinstance(part, str)) + "\n")
        special = [code for code in fixed if not _DISTRUST[code]]
        self._special = bytes(set(special))
        self._special_count = len(special)

    def lines(self, replies: Sequence[LoggedReply]) -> bytes:
        """Make the lines of requests that were answered.

        Nothing is escaped at first, and all lines are looked at together: as a rule, there is
        nothing to escape in any of them.
        """
        lines = self._lines(replies)
        data = self._trusted(lines)
        if data is not None:
            return data
        pieces = []
        for reply, line in zip(replies, lines, strict=True):
            data = self._trusted([line])
            pieces.append(encoded(self._careful_line(reply)) if data is None else data)
        return b"".join(pieces)

    def _trusted(self, lines: list[str]) -> bytes | None:
        """The lines as bytes; None if something in them has to be escaped or cut."""
        if max(map(len, lines)) > _MAX_PLAIN:
            return None
        data = encoded("".join(lines))
        # What the format itself has of quotes and the like goes, and so would any that is too
        # many. One pass: this looks at each byte that is written.
        rest = data.translate(_DISTRUST, self._special)
        trusted = len(data) - len(rest) == self._special_count * len(lines) and 0 not in rest
        return data if trusted else None

    def _careful_line(self, reply: LoggedReply) -> str:
        ending = Ending.BROKEN if reply.broken else Ending.COMPLETE
        ended = reply.ended if self.times_ends else 0
        return self.line_of(reply, reply.sent_in_all(), ending, ended)

    def line_of(self, reply: LoggedReply, sent: int, ending: Ending, now: int) -> str:
        """Make the line of one request that was handed over.

        Args:
            reply: its reply.
            sent: bytes of STDOUT that have left.
            ending: how it ended.
            now: the time of its end, if the format tells it, in nanoseconds.
        """
        runs = (reply.run_began, reply.run_ended) if self.times_runs else (0, 0)
        return self.line(reply.notes, reply.head or reply.final, sent, ending.value, *runs, now)


def encoded(text: str) -> bytes:
    """A line as it is written; what cannot be text, such as half a surrogate, has a backslash."""
    return text.encode("utf-8", "backslashreplace")


def escape_text(text: str) -> str:
    r"""Write a text as Apache does: ``\"``, ``\\``, ``\n``, ``\xhh`` for each byte not ASCII."""
    return _cut(text).translate(_ESCAPES)


def escape_json(text: str) -> str:
    """Write a text as JSON does, without the quotes; bytes that are UTF-8 become characters."""
    text = _cut(text)
    if not text.isascii():
        # One character a byte, as PEP 3333 has them. What is no latin-1 was never a byte.
        text = text.encode("latin-1", "replace").decode("utf-8", "backslashreplace")
    return _quote(text)[1:-1]


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
