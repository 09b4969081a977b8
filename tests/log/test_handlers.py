from __future__ import annotations

import json
import logging
import re
from datetime import datetime

import pytest

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.log.handlers import make_formatter


def record(message: str, *args: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("vsgi_fcgi", logging.WARNING, "/src/app.py", 7, message, args, None)
    vars(made).update(more)
    return made


def as_json(item: logging.LogRecord) -> dict[str, object]:
    line = make_formatter("json").format(item)
    assert re.fullmatch(r"[ -~]+", line), "one line, in ASCII"
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(found, dict)
    return found


def test_json_has_what_a_record_has() -> None:
    item = record("%s and %d", "one", 2)
    found = as_json(item)
    moment = datetime.fromisoformat(str(found.pop("time")))
    assert moment.utcoffset() is not None
    assert abs(moment.timestamp() - item.created) < 0.001
    assert found == {
        "level": "WARNING",
        "logger": "vsgi_fcgi",
        "message": "one and 2",
        "process": item.process,
        "thread": "MainThread",
    }


@pytest.mark.parametrize(
    "text", ["two\nlines", "\x7f", "\u2028\x85\x0b", "\udc80", '"\\\0\x1b[31m']
)
def test_json_has_one_line_whatever_the_message(text: str) -> None:
    assert as_json(record("%s", text))["message"] == text


def test_json_has_the_traceback() -> None:
    try:
        raise LookupError("it is\nnot there")
    except LookupError as error:
        item = record("failed", exc_info=(LookupError, error, error.__traceback__))
    exception = str(as_json(item)["exception"])
    assert exception.startswith("Traceback (most recent call last):\n")
    assert exception.endswith("LookupError: it is\nnot there")
    # What the server enqueues has only the text of it.
    assert as_json(record("failed", exc_text=exception))["exception"] == exception
    assert as_json(record("failed", stack_info="Stack"))["stack"] == "Stack"


def test_json_has_further_fields_of_any_type() -> None:
    circle: list[object] = []
    circle.append(circle)
    more = {"level": "mine", "size": 3, "share": 0.5, "nothing": None, "yes": True}
    odd = {"infinite": float("inf"), "data": b"x", "pair": {(1, 2): 3}, "circle": circle}
    found = as_json(record("text", **more, **odd))
    assert found["level"] == "WARNING"
    assert found["extra"] == more | {
        **{"infinite": "inf", "data": "b'x'", "pair": "{(1, 2): 3}", "circle": "[[...]]"}
    }


def test_text_begins_with_the_time_in_iso_8601() -> None:
    line = make_formatter("text").format(record("two\nlines"))
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.fullmatch(rf"{stamp} \d+ WARNING two\n\tlines", line)
    assert re.fullmatch(stamp, make_formatter("%(asctime)s").format(record("")))


@pytest.mark.parametrize("format", ["text", "%(message)s"])
def test_text_holds_no_control_character_and_forges_no_record(format: str) -> None:
    """Neither from the message nor from an exception."""
    controls = "".join(map(chr, (*range(32), 127, *range(128, 160), 0x2028)))
    try:
        raise LookupError(f"failed{controls}2026-01-01 INFO forged")
    except LookupError as error:
        item = record("%s", f"x{controls}y", exc_info=(LookupError, error, error.__traceback__))
    first, *others = make_formatter(format).format(item).split("\n")
    assert first.endswith(r"x\x00\x01\x02\x03\x04\x05\x06\x07\x08" + "\t")
    assert all(line.startswith("\t") for line in others)
    assert all(line.replace("\t", "").isprintable() for line in [first, *others])
    assert r"\x1b\x1c" in "".join(others)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("%(levelname)-8s|%(message)s", "WARNING |text"),
        ("%(levelname).1s %(filename)s:%(lineno)03d", "W app.py:007"),
        ("100%% %(name)s", "100% vsgi_fcgi"),
    ],
)
def test_format_strings(text: str, line: str) -> None:
    assert make_formatter(text).format(record("text")) == line


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("%(mesage)s", "a record has no attribute mesage; did you mean message?"),
        (
            "%(remote_ip)s",
            "a record has no attribute remote_ip; see LogRecord attributes",
        ),
        ("jsno", "no attribute of a record is named; did you mean json?"),
        (
            "{message}",
            "no attribute of a record is named; use text, json or",
        ),
        ("", "no attribute of a record is named; use text, json or"),
        ("%s %(message)s", "a % is not followed by (name); write %% for a literal %"),
        ("%(message)s 100 %", "cannot be used: incomplete format"),
        ("%(message)d", "cannot be used: %d format: a real number is required, not str"),
        ("%(message)y", "cannot be used: unsupported format character 'y'"),
        ("%(message", "cannot be used: incomplete format key"),
    ],
)
def test_format_strings_that_cannot_be_used(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_formatter(text)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"--log-format {text!r}")
