"""Test apps that follow PEP 3333, each with and without the validator."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Any

import pytest
from support.sinks import FakeSink, run, run_validated

from vsgi_fcgi.exceptions import ResponseError

Runner = Callable[..., FakeSink]

TEXT = [("Content-Type", "text/plain")]


@pytest.fixture(params=[run, run_validated], ids=["bare", "validated"])
def runner(request: pytest.FixtureRequest) -> Runner:
    """Behind the validator an app never returns a list: both ways through the runner are gone."""
    chosen: Runner = request.param
    return chosen


class Closing:
    """An iterable whose ``close()`` is counted."""

    def __init__(self, items: Iterable[bytes]) -> None:
        self.items = iter(items)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self.items

    def close(self) -> None:
        self.closed += 1


def responding(
    body: Iterable[bytes], status: str = "200 OK", headers: list[tuple[str, str]] = TEXT
) -> Any:
    """An app with this response."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response(status, list(headers))
        return body

    return app


def test_a_response(runner: Runner) -> None:
    sink = runner(responding([b"hello"], "201 Made", [*TEXT, ("X-A", "b")]))
    assert sink.status == "201 Made"
    assert sink.headers == {"Content-Type": "text/plain", "X-A": "b"}
    assert sink.body == b"hello"
    assert (sink.ended, sink.app_status, sink.reports) == ("finished", 0, [])


@pytest.mark.parametrize("kind", [list, tuple, iter, Closing])
def test_any_kind_of_iterable(kind: Any, runner: Runner) -> None:
    sink = runner(responding(kind([b"a", b"", b"b", b"c"])))
    assert (sink.status, sink.body, sink.ended) == ("200 OK", b"abc", "finished")


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_small_list_is_sent_in_one_piece(kind: Any) -> None:
    sink = run(responding(kind([b"a", b"", b"b"])))
    assert len(sink.writes) == 1


def test_a_large_list_is_not_joined() -> None:
    block = bytes(65536)
    sink = run(responding([block, b"", block, b"end"]))
    assert sink.body == block * 2 + b"end"
    assert sink.ended == "finished"
    assert b"" not in sink.writes
    assert len(sink.writes) == 4


def test_a_list_of_very_many_pieces(runner: Runner) -> None:
    assert runner(responding([b"ab"] * 100_000)).body == b"ab" * 100_000


@pytest.mark.parametrize("body", [[], (), iter(()), [b""], [b"", b""], iter([b"", b""])])
def test_a_response_without_a_body(body: Any, runner: Runner) -> None:
    sink = runner(responding(body))
    assert (sink.status, sink.body, sink.ended, sink.reports) == ("200 OK", b"", "finished", [])


def test_headers_wait_for_the_first_byte_that_is_not_empty(runner: Runner) -> None:
    seen: list[int] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        for data in (b"", b"", b"x", b"", b"y"):
            seen.append(len(sink.writes))
            yield data
        seen.append(len(sink.writes))

    sink = FakeSink()
    run(app, sink=sink)
    assert seen == [0, 0, 0, 1, 1, 2]
    assert sink.writes == [b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\nx", b"y"]
    seen.clear()
    assert runner(app).body == b"xy"


def test_each_piece_is_sent_before_the_next_is_asked_for() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        for number in range(5):
            assert len(sink.writes) == number
            yield b"piece"

    sink = FakeSink()
    run(app, sink=sink)
    assert sink.body == b"piece" * 5


def test_a_large_first_piece_is_not_copied(runner: Runner) -> None:
    data = bytes(200_000)
    sink = runner(responding(iter([data])))
    assert sink.body == data
    assert sink.writes[1] == data


def test_a_generator_may_call_start_response_late(runner: Runner) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("404 Not Found", list(TEXT))
        yield b"late"

    sink = runner(app)
    assert (sink.status, sink.body) == ("404 Not Found", b"late")


def test_write_sends_at_once_and_before_what_is_returned(runner: Runner) -> None:
    lengths = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", list(TEXT))
        for data in (b"", b"one ", b"two "):
            assert write(data) is None
            lengths.append(len(sink.writes))
        return [b"three"]

    sink = FakeSink()
    run(app, sink=sink)
    assert sink.body == b"one two three"
    assert lengths == [0, 1, 2]
    assert runner(app).body == b"one two three"


def test_write_after_the_end_is_an_error(runner: Runner) -> None:
    kept: list[Any] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        kept.append(start_response("200 OK", list(TEXT)))
        return [b"body"]

    sink = runner(app)
    with pytest.raises(ResponseError, match="after the end"):
        kept[0](b"late")
    assert (sink.body, sink.ended) == (b"body", "finished")


def test_write_alone_is_a_response(runner: Runner) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", list(TEXT))(b"all")
        return []

    sink = runner(app)
    assert (sink.body, sink.ended) == (b"all", "finished")


# close().


def test_close_is_called_once_at_the_end(runner: Runner) -> None:
    body = Closing([b"a", b"b"])
    assert runner(responding(body)).body == b"ab"
    assert body.closed == 1


def test_close_is_called_before_the_request_ends() -> None:
    ended: list[str] = []

    class Body(Closing):
        def close(self) -> None:
            ended.append(sink.ended)

    sink = FakeSink()
    run(responding(Body([b"a"])), sink=sink)
    assert ended == [""]


def test_close_of_a_body_that_is_not_wanted(runner: Runner) -> None:
    body = Closing([b"", b"first", b"second"])
    assert runner(responding(body), "HEAD").body == b""
    assert list(body) == [b"second"]
    assert body.closed == 1


# Responses without a body.


@pytest.mark.parametrize("kind", [list, tuple, iter, Closing])
@pytest.mark.parametrize("length", [None, "5", "50"])
def test_head_has_no_body_whatever_the_app_returns(
    kind: Any, length: str | None, runner: Runner
) -> None:
    headers = [*TEXT, *([("Content-Length", length)] if length else [])]
    sink = runner(responding(kind([b"", b"he", b"llo"]), headers=headers), "HEAD")
    assert (sink.status, sink.body) == ("200 OK", b"")
    assert sink.headers.get("Content-Length") == length
    assert (sink.ended, sink.reports) == ("finished", [])


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_status_without_a_body_has_none(status: str, kind: Any, runner: Runner) -> None:
    sink = runner(responding(kind([b"he", b"llo"]), status, [("X", "y")]))
    assert (sink.status, sink.body, sink.headers) == (status, b"", {"X": "y"})
    assert (sink.ended, sink.reports) == ("finished", [])


@pytest.mark.parametrize("kind", [list, iter])
def test_a_reset_has_no_body_and_no_length(kind: Any) -> None:
    headers = [*TEXT, ("Content-Length", "5")]
    sink = run(responding(kind([b"he", b"llo"]), "205 Reset Content", headers))
    assert (sink.status, sink.body, sink.headers) == ("205 Reset Content", b"", dict(TEXT))
    assert (sink.ended, sink.reports) == ("finished", [])


@pytest.mark.parametrize("status", ["100 Continue", "102 Processing"])
def test_an_interim_status_is_an_error(status: str) -> None:
    sink = run(responding([b"hello"], status, TEXT))
    assert sink.status == "500 Internal Server Error"
    assert sink.ended == "finished"
    assert len(sink.reports) == 1


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_write_sends_no_body_where_there_is_none(method: str, runner: Runner) -> None:
    status = "204 No Content" if method == "GET" else "200 OK"

    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response(status, [("X", "y")] if method == "GET" else list(TEXT))
        write(b"one")
        write(b"two")
        return [b"three"]

    sink = runner(app, method)
    assert (sink.status, sink.body, sink.ended) == (status, b"", "finished")


def test_an_app_that_changes_the_method_changes_nothing() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["REQUEST_METHOD"] = "GET"
        start_response("200 OK", list(TEXT))
        return [b"body"]

    assert run(app, "HEAD").body == b""


# Content-Length.


@pytest.mark.parametrize("kind", [list, tuple, iter])
@pytest.mark.parametrize("pieces", [[b"hello"], [b"he", b"", b"llo"], [b"", b"hello"]])
def test_a_content_length_that_is_right(kind: Any, pieces: list[bytes], runner: Runner) -> None:
    sink = runner(responding(kind(pieces), headers=[*TEXT, ("Content-Length", "5")]))
    assert (sink.body, sink.ended, sink.reports) == (b"hello", "finished", [])
    assert sink.headers["Content-Length"] == "5"


@pytest.mark.parametrize("kind", [list, tuple, iter])
@pytest.mark.parametrize(
    "pieces", [[b"hello!"], [b"hel", b"lo!", b"!", b"!"], [b"hello", b"!"], [b"hell", b"o!!!"]]
)
def test_what_exceeds_content_length_is_dropped(
    kind: Any, pieces: list[bytes], runner: Runner
) -> None:
    sink = runner(responding(kind(pieces), headers=[*TEXT, ("Content-Length", "5")]))
    assert (sink.body, sink.ended) == (b"hello", "finished")
    ((message, error),) = sink.reports
    assert "more than its Content-Length of 5 bytes" in message
    assert error is None


def test_an_endless_body_ends_where_content_length_does(runner: Runner) -> None:
    endless = itertools.repeat(b"endless")
    sink = runner(responding(endless, headers=[*TEXT, ("Content-Length", "10")]))
    assert (sink.body, sink.ended) == (b"endlessend", "finished")


@pytest.mark.parametrize("kind", [list, iter])
def test_a_body_where_content_length_says_none(kind: Any, runner: Runner) -> None:
    sink = runner(responding(kind([b"x", b"y"]), headers=[*TEXT, ("Content-Length", "0")]))
    assert (sink.status, sink.body, sink.ended) == ("200 OK", b"", "finished")
    assert len(sink.reports) == 1


@pytest.mark.parametrize("kind", [list, tuple, iter])
@pytest.mark.parametrize("pieces", [[], [b"hell"], [b"h", b"", b"e"]])
def test_a_body_shorter_than_content_length_is_an_error_page_or_broken_off(
    kind: Any, pieces: list[bytes]
) -> None:
    """As long as nothing was sent it is an error page: always, if the app returned a list."""
    sink = run(responding(kind(pieces), headers=[*TEXT, ("Content-Length", "5")]))
    if kind is iter and pieces:
        assert (sink.status, sink.ended) == ("200 OK", "broken off")
        assert sink.body == b"".join(pieces)
    else:
        assert (sink.status, sink.ended) == ("500 Internal Server Error", "finished")
        assert sink.app_status == 1
        assert sink.headers["Content-Length"] == str(len(sink.body))
    missing = 5 - len(b"".join(pieces))
    ((message, _),) = sink.reports
    assert f"{missing} bytes less than its Content-Length of 5" in message


def test_a_large_list_shorter_than_content_length_is_an_error_page() -> None:
    sink = run(responding([bytes(70_000)] * 3, headers=[*TEXT, ("Content-Length", "300000")]))
    assert (sink.status, sink.ended) == ("500 Internal Server Error", "finished")


def test_a_list_shorter_than_content_length_behind_write_is_broken_off() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "9")])(b"one ")
        return [b"two"]

    sink = run(app)
    assert (sink.status, sink.body, sink.ended) == ("200 OK", b"one two", "broken off")


def test_write_counts_too(runner: Runner) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [*TEXT, ("Content-Length", "5")])
        write(b"hel")
        write(b"lo!")
        return [b"?"]

    sink = runner(app)
    assert (sink.body, sink.ended, len(sink.reports)) == (b"hello", "finished", 1)


# wsgi.file_wrapper.


@pytest.mark.parametrize("arguments", [(), (7,), (65536,)])
def test_file_wrapper(arguments: tuple[int, ...], runner: Runner) -> None:
    content = bytes(range(256)) * 300
    file = BytesIO(content)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        return environ["wsgi.file_wrapper"](file, *arguments)

    assert runner(app).body == content
    assert file.closed


def test_file_wrapper_around_what_cannot_be_closed(runner: Runner) -> None:
    class Reader:
        def __init__(self) -> None:
            self.left = [b"a", b"b", b""]

        def read(self, size: int) -> bytes:
            assert size > 0
            return self.left.pop(0)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        return environ["wsgi.file_wrapper"](Reader())

    sink = runner(app)
    assert (sink.body, sink.ended, sink.reports) == (b"ab", "finished", [])
