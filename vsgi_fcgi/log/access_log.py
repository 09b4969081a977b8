"""Access log with one line for each request, whatever its outcome."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quote
from time import monotonic_ns, time
from typing import Any, Final, Protocol

from vsgi_fcgi.log.access_format import (
    PRESETS,
    AccessCode,
    header,
    parse_format,
    rebuild_target,
    status_of,
)
from vsgi_fcgi.log.background_writer import LineWriter
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.transport.closing import Outcome
from vsgi_fcgi.transport.loop import Loop
from vsgi_fcgi.transport.thread_affinity import main_only


class LoggedRequest(Protocol):
    """A request and its response, as the access log sees them.

    Attributes:
        notes: data that `AccessLog.take_notes` noted.
        head: the header block, if the response was not sent in one piece.
        final: the last piece of the response, after the app has ended.
        more: bytes that follow ``final``.
        broken: True if the response is incomplete.
        run_began: time in nanoseconds when a worker took the request; 0 before that.
        run_ended: time in nanoseconds when the worker was done.
        ended: time in nanoseconds when the response was sent.
    """

    notes: tuple[object, ...]
    head: bytes
    final: bytes
    more: bytes
    broken: bool
    run_began: int
    run_ended: int
    ended: int

    @property
    def params(self) -> dict[str, str]:
        """Return the params, or an empty dict if they have not all arrived."""

    @property
    def submitted(self) -> bool:
        """Return True if the request was submitted to the workers."""

    def count_sent(self) -> int:
        """Return the number of bytes of STDOUT that were sent, with the last piece."""


# The text of the time of day is computed once a second.

# strftime is not used for the month, because its names depend on the locale of the process.
_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"

Second = tuple[float, float, str, str, str]


def second_of(moment: float) -> Second:
    """Return the second that contains a moment, with its texts.

    Args:
        moment: seconds since 1970.

    Returns:
        The beginning of the second and of the next one, in seconds since 1970; the time in
        Apache's format, such as ``[10/Oct/2000:13:55:36 -0700]``; the time in ISO 8601 format,
        up to the point before the milliseconds; and the offset from UTC, which follows the
        milliseconds.
    """
    return _second(int(moment))


@lru_cache(maxsize=2)
def _second(since: int) -> Second:
    local = datetime.fromtimestamp(since).astimezone()
    date = f"{local.day:02d}/{_MONTHS[3 * local.month - 3 : 3 * local.month]}/{local.year}"
    zone = f"{local:%z}"
    return (
        # A float like `moment`, because comparing an int with a float costs ten times as much.
        float(since),
        since + 1.0,
        f"[{date}:{local:%H:%M:%S} {zone}]",
        f"{local:%Y-%m-%dT%H:%M:%S}.",
        f"{zone[:3]}:{zone[3:5]}",
    )


_MAX_PLAIN: Final = 8192
"""Maximum length of a line, in characters, that is not checked for texts to truncate."""

_MAX_TEXT: Final = 4096
"""Maximum length of a text in characters; longer texts are truncated."""

_DISTRUST: Final = bytes(
    code if 32 <= code < 127 and chr(code) not in '"\\' else 0 for code in range(256)
)
"""Table for `bytes.translate` that maps each byte that may need an escape to 0."""

_ESCAPES: Final = {
    code: f"\\x{code:02x}" for code in range(256) if not (code < 128 and chr(code).isprintable())
} | {
    ord(character): "\\" + letter
    for character, letter in zip('\b\n\r\t\v\\"', 'bnrtv\\"', strict=True)
}
"""Escapes that Apache writes for characters that are not safe in a log."""


class AccessFormat:
    """Access log format, compiled to functions.

    Args:
        text: one of `PRESETS`, or a format string. A format that begins with ``{`` is JSON. Its
            values are escaped as in JSON, and absent numbers become null.
        ended: exchanges that have ended and have no lines yet.
        batch: number of these exchanges at which `make_lines` is called.
        make_lines: function that makes their lines.

    Raises:
        UsageError: the format cannot be used; the message says why.

    Attributes:
        note: function that notes data that is not available at the end:
            ``note(exchange, params, submitted)``.
        take_notes: function that does so when a request is submitted: ``take_notes(exchange)``.
        line: function that makes one line:
            ``line(notes, head, sent, outcome, run_began, run_ended, now)``.
        times_ends: True if the format uses the end of a request.
        times_runs: True if the format uses the beginning or end of the app's work.
    """

    note: Callable[..., tuple[object, ...]]
    take_notes: Callable[[LoggedRequest], None]
    line: Callable[..., str]
    _lines: Callable[[Sequence[LoggedRequest]], list[str]]

    def __init__(
        self,
        text: str,
        ended: deque[LoggedRequest],
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
            "batch": batch,
            "broken": Outcome.BROKEN.value,
            "clock": monotonic_ns,
            "complete": Outcome.COMPLETE.value,
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
            "roles": {int(role): role.name.lower() for role in Role},
            "second_of": second_of,
            "status_of": status_of,
            "wall_clock": time,
            "statuses": {b"%d" % status: str(status) for status in range(100, 1000)}
            | {b"": missing},
        }
        # It contains nothing of a client: only constants, and the format's texts as `repr` does.
        source = code.source()
        exec(source, names)  # nosec B102 # see above
        for name in ("note", "take_notes", "line", "_lines"):
            setattr(self, name, names[name])
        fixed = encoded("".join(part for part in parts if isinstance(part, str)) + "\n")
        special = [code for code in fixed if not _DISTRUST[code]]
        self._special = bytes(set(special))
        self._special_count = len(special)

    def lines(self, exchanges: Sequence[LoggedRequest]) -> bytes:
        """Return the lines of requests that were answered.

        The lines are made without escapes and checked together, because few lines need an
        escape. Only if the check fails is each line checked alone.
        """
        lines = self._lines(exchanges)
        data = self._trusted(lines)
        if data is not None:
            return data
        pieces = []
        for exchange, line in zip(exchanges, lines, strict=True):
            data = self._trusted([line])
            pieces.append(encoded(self._careful_line(exchange)) if data is None else data)
        return b"".join(pieces)

    def _trusted(self, lines: list[str]) -> bytes | None:
        """Return the lines as bytes, or None if a text in them must be escaped or truncated."""
        if max(map(len, lines)) > _MAX_PLAIN:
            return None
        data = encoded("".join(lines))
        # translate deletes the special characters that the format itself contains. If a text
        # contains one of them too, more bytes are deleted than the format accounts for. This is
        # one pass, because it reads every byte of the log.
        rest = data.translate(_DISTRUST, self._special)
        trusted = len(data) - len(rest) == self._special_count * len(lines) and 0 not in rest
        return data if trusted else None

    def _careful_line(self, exchange: LoggedRequest) -> str:
        outcome = Outcome.BROKEN if exchange.broken else Outcome.COMPLETE
        ended = exchange.ended if self.times_ends else 0
        return self.line_of(exchange, exchange.count_sent(), outcome, ended)

    def line_of(self, exchange: LoggedRequest, sent: int, outcome: Outcome, now: int) -> str:
        """Return the line of one request that was handed to a worker.

        Args:
            exchange: its exchange.
            sent: number of bytes of STDOUT that were sent.
            outcome: outcome of the request.
            now: end of the request in nanoseconds, if the format uses it.
        """
        runs = (exchange.run_began, exchange.run_ended) if self.times_runs else (0, 0)
        head = exchange.head or exchange.final
        return self.line(exchange.notes, head, sent, outcome.value, *runs, now)


def encoded(text: str) -> bytes:
    """Encode a line as UTF-8; lone surrogates become backslash escapes."""
    return text.encode("utf-8", "backslashreplace")


def escape_text(text: str) -> str:
    r"""Escape a text as Apache does: ``\"``, ``\\``, ``\n``, ``\xhh`` for each non-ASCII byte."""
    return _cut(text).translate(_ESCAPES)


def escape_json(text: str) -> str:
    """Escape a text as JSON does, without the quotes; UTF-8 bytes become characters."""
    text = _cut(text)
    if not text.isascii():
        # A PEP 3333 string has one character per byte. Characters outside latin-1 become "?".
        text = text.encode("latin-1", "replace").decode("utf-8", "backslashreplace")
    # JSON does not require DEL to be escaped, but DEL is a control character.
    return _quote(text)[1:-1].replace("\x7f", "\\u007f")


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


_INTERVAL: Final = 0.1
"""Maximum delay of a line in seconds. Waking a thread for each line costs more than the line."""

_BATCH: Final = 64
"""Number of responses whose lines are made together.

Lines that are made one at a time between other work cost twice as much, because their code is no
longer in the processor's caches.
"""


class AccessLog:
    """Access log, whose lines are made in the main context and written by a thread.

    The thread does not make the lines. While it made a thousand of them, it would hold the
    interpreter lock and the connections would wait. Besides, only text of a known size is queued
    for a slow disk.

    Args:
        format: value of the setting ``access_log_format``.
        writer: writer of the lines.
        loop: event loop of the main context.

    Attributes:
        take_notes: function that notes data of a request that is submitted, while it still has
            its params.
        completed: function that records a `LoggedRequest` that is about to be sent completely,
            or to be aborted.
        due: True if a call of `make_lines` is scheduled; otherwise, call `make_lines_soon`.
        times_runs: True if workers must note when the app began and ended.
    """

    __slots__ = (
        "_ended",
        "_format",
        "_timer",
        "_writer",
        "completed",
        "due",
        "take_notes",
        "times_runs",
    )

    completed: Callable[[Any], object]
    take_notes: Callable[[Any], object]

    def __init__(self, format: str, writer: LineWriter, loop: Loop) -> None:
        self._writer = writer
        self._ended: deque[LoggedRequest] = deque()
        # The writer accepts or drops a batch as a whole, so a batch must fit into its queue.
        batch = min(_BATCH, writer.max_lines)
        self._format = AccessFormat(format, self._ended, batch, self._make_lines)
        self.take_notes = self._format.take_notes
        self.completed = self._complete if self._format.times_ends else self._ended.append
        self.times_runs = self._format.times_runs
        self.due = False
        self._timer = loop.timer(_INTERVAL, _INTERVAL)

    @main_only
    def _complete(self, exchange: LoggedRequest) -> None:
        exchange.ended = monotonic_ns()
        self._ended.append(exchange)

    @main_only
    def make_lines_soon(self) -> None:
        """Schedule the making and writing of lines, `_INTERVAL` seconds from now."""
        self.due = True
        self._timer.again(self._ring, update=True)

    def _ring(self) -> None:
        self.due = False
        self._timer.stop()
        self._make_lines()
        self._writer.ring()

    def _make_lines(self) -> None:
        ended = self._ended
        exchanges: list[LoggedRequest] = []
        # In `cut_off`, two threads may run this at once. Each takes what the other has left.
        with suppress(IndexError):
            for _ in range(len(ended)):
                exchanges.append(ended.popleft())
        if exchanges:
            self._writer.put(self._format.lines(exchanges), len(exchanges))

    @main_only
    def refused(self, exchange: LoggedRequest, response: bytes, outcome: Outcome) -> None:
        """Log a request that the server answers without the app.

        Args:
            exchange: the exchange.
            response: the response.
            outcome: reason of the refusal.
        """
        self._add(self._early_line(exchange, response, outcome))

    @main_only
    def answered_instead(self, exchange: LoggedRequest, response: bytes, outcome: Outcome) -> None:
        """Log a submitted request that the server answers instead of its worker.

        Args:
            exchange: the exchange, whose format has noted when it ran.
            response: the response.
            outcome: reason of this.
        """
        times = exchange.run_began, exchange.run_ended, monotonic_ns()
        line = self._format.line
        self._add(line(exchange.notes, response, len(response), outcome.value, *times))

    @main_only
    def given_up(self, exchange: LoggedRequest, outcome: Outcome) -> None:
        """Log a request that ends without a complete response.

        Args:
            exchange: the exchange.
            outcome: reason of the end.
        """
        self._add(self._line_of(exchange, outcome))

    def _line_of(self, exchange: LoggedRequest, outcome: Outcome) -> str:
        if not exchange.submitted:
            return self._early_line(exchange, b"", outcome)
        # The worker's last piece was not sent.
        sent = exchange.count_sent() - len(exchange.final) - len(exchange.more)
        return self._format.line_of(exchange, sent, outcome, monotonic_ns())

    def _early_line(self, exchange: LoggedRequest, response: bytes, outcome: Outcome) -> str:
        """Return the line of a request that was not submitted to the workers."""
        notes = self._format.note(exchange, exchange.params, False)
        times = 0, 0, monotonic_ns()
        return self._format.line(notes, response, len(response), outcome.value, *times)

    def _add(self, line: str) -> None:
        # Requests that ended earlier come first.
        self._make_lines()
        self._writer.put(encoded(line), 1)
        if not self.due:
            self.make_lines_soon()

    def forked(self) -> None:
        """Discard ended exchanges in a forked child, because the parent logs them."""
        self._timer.stop()
        self._ended.clear()

    @main_only
    def close(self) -> None:
        """Stop the timer and pass all lines to the writer."""
        self.due = True
        self._timer.stop()
        self._timer.close()
        self._make_lines()

    def cut_off(self, exchanges: Iterable[LoggedRequest], timeout: float) -> None:
        """Log the requests that are lost because the process ends now, and write all lines.

        Called in the thread that ends the process. The main context may be blocked.

        Args:
            exchanges: the exchanges that have not ended.
            timeout: maximum number of seconds for writing.
        """
        # This thread must not use the event loop.
        self.due = True
        self._make_lines()
        for exchange in exchanges:
            self._writer.put(encoded(self._line_of(exchange, Outcome.STOPPED)), 1)
        self._writer.flush(timeout)
