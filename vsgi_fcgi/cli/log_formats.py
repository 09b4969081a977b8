"""What a line of the log looks like."""

from __future__ import annotations

import json
import logging
import math
import re
from datetime import datetime

from vsgi_fcgi.cli.command import nearest
from vsgi_fcgi.exceptions import UsageError

TEXT = "%(asctime)s %(process)d %(levelname)s %(message)s"
"""What ``--log-format text`` stands for."""

_ATTRIBUTES = {**vars(logging.makeLogRecord({})), "message": "", "asctime": ""}
"""What every record has, and what a format string can name."""


class TextFormatter(logging.Formatter):
    """Writes times as ISO 8601 has them, with milliseconds and the offset from UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """The time of a record; ``datefmt`` has no say."""
        return _time(record)


class JsonFormatter(logging.Formatter):
    """Writes a record as one line: an object of JSON.

    The line is ASCII, so that it survives every encoding of a stream, and no character in it is
    taken for the end of a line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, without its end."""
        found: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            "thread": record.threadName,
        }
        if record.exc_info and not record.exc_text:
            # Kept in the record, as the formatters of `logging` do, for those that come next.
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            found["exception"] = record.exc_text
        if record.stack_info:
            found["stack"] = self.formatStack(record.stack_info)
        extra = {
            name: _plain(value) for name, value in vars(record).items() if name not in _ATTRIBUTES
        }
        if extra:
            found["extra"] = extra
        return json.dumps(found)


def make_formatter(text: str, *, plain: str = TEXT) -> logging.Formatter:
    """The formatter for a value of ``--log-format``.

    Args:
        text: ``text``, ``json``, or a format string.
        plain: what ``text`` stands for.

    Raises:
        UsageError: it is none of them, or no record can be written by it.
    """
    if text == "json":
        return JsonFormatter()
    if text == "text":
        return TextFormatter(plain)
    _check(text)
    return TextFormatter(text)


def _check(text: str) -> None:
    what = f"--log-format {text!r}"
    if "%(" not in text:
        advice = nearest(text, ("json", "text")) or "; write text, json, or such as '%(message)s'"
        raise UsageError(f"{what} names nothing of a record{advice}")
    # What takes a value without naming it would get all of them at once.
    if re.search(r"%[^%(]", text.replace("%%", "")):
        raise UsageError(f"{what} has a % that names nothing; write %% for a % as such")
    try:
        text % _ATTRIBUTES
    except KeyError as error:
        name = str(error.args[0])
        advice = nearest(name, _ATTRIBUTES) or "; Python's logging lists the attributes"
        raise UsageError(f"{what}: a record has no {name}{advice}") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} cannot be used: {error}") from None


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created).astimezone()
    return moment.isoformat(timespec="milliseconds")


def _plain(value: object) -> object:
    """A value that JSON has, or the text of one that it has not."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)
