"""Test `wsgi.errors`: lines are passed on at once, and no text raises an exception."""

from __future__ import annotations

from typing import Any

import pytest
from support.sinks import FakeSink

from vsgi_fcgi.wsgi.environ import ErrorStream


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def stream(sink: FakeSink) -> ErrorStream:
    return ErrorStream(sink)


def test_a_line_goes_on_as_soon_as_it_is_complete(sink: FakeSink, stream: ErrorStream) -> None:
    assert stream.write("one") == 3
    assert sink.errors == []
    assert stream.write(" line\nand") == 9
    assert sink.errors == ["one line\n"]
    assert stream.write("\n") == 1
    assert sink.errors == ["one line\n", "and\n"]


def test_lines_that_are_written_together_go_on_together(
    sink: FakeSink, stream: ErrorStream
) -> None:
    stream.write("a\nb\n\nc")
    assert sink.errors == ["a\nb\n\n"]


def test_flush_sends_the_rest_on_once(sink: FakeSink, stream: ErrorStream) -> None:
    stream.flush()
    stream.write("rest")
    stream.flush()
    stream.flush()
    assert sink.errors == ["rest"]
    stream.write("next\n")
    assert sink.errors == ["rest", "next\n"]


def test_writing_nothing_sends_nothing(sink: FakeSink, stream: ErrorStream) -> None:
    assert stream.write("") == 0
    assert sink.errors == []


def test_writelines_adds_no_line_ends(sink: FakeSink, stream: ErrorStream) -> None:
    stream.writelines(line for line in ["a", "b\n", "c\n", "d"])
    stream.flush()
    assert sink.errors == ["ab\n", "c\n", "d"]


def test_print_and_tracebacks_can_use_it(sink: FakeSink, stream: ErrorStream) -> None:
    print("one", 2, file=stream)
    assert "".join(sink.errors) == "one 2\n"


@pytest.mark.parametrize("text", ["\ud800", "€", "\0", "\udcff\n", "\U0010ffff", "\r", "\x1b[31m"])
def test_no_text_makes_it_raise(text: str, sink: FakeSink, stream: ErrorStream) -> None:
    assert stream.write(text) == len(text)
    stream.flush()
    assert sink.errors == [text]


def test_its_encoding_takes_any_text(stream: ErrorStream) -> None:
    assert "\ud800".encode(stream.encoding, stream.errors) == b"\\ud800"


@pytest.mark.parametrize("data", [b"bytes", None, 1, ["a"]])
def test_only_str_can_be_written(data: Any, sink: FakeSink, stream: ErrorStream) -> None:
    with pytest.raises(TypeError, match=f"str, not {type(data).__name__}"):
        stream.write(data)
    stream.flush()
    assert sink.errors == []


def test_a_line_without_end_is_not_kept(sink: FakeSink, stream: ErrorStream) -> None:
    for _ in range(10_000):
        stream.write("x" * 10)
    assert 80_000 < len("".join(sink.errors)) <= 100_000
    stream.flush()
    assert "".join(sink.errors) == "x" * 100_000


def test_it_is_a_text_stream_to_be_written(stream: ErrorStream) -> None:
    assert stream.writable()
    assert not stream.isatty()
