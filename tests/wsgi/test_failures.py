"""Test apps that fail or break PEP 3333, and web servers that abort requests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from gevent import GreenletExit
from support.sinks import FakeSink, run, run_validated

from vsgi_fcgi.exceptions import ClientDisconnected, ResponseError

TEXT = [("Content-Type", "text/plain")]

ERRORS = [ValueError, OSError, ResponseError, MemoryError, SystemExit, KeyboardInterrupt]
ERRORS += [GreenletExit, GeneratorExit, StopIteration, BaseException, ClientDisconnected]


class Boom(Exception):
    """What the apps here raise."""


class Body:
    """An iterable that fails after some items, and counts ``close()``."""

    def __init__(
        self,
        items: Iterable[bytes],
        error: BaseException | None = None,
        close_error: BaseException | None = None,
    ) -> None:
        self._items = iter(items)
        self._error = error
        self._close_error = close_error
        self.closed = 0
        self.asked = 0

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        self.asked += 1
        try:
            return next(self._items)
        except StopIteration:
            if self._error is None:
                raise
        raise self._error

    def close(self) -> None:
        self.closed += 1
        if self._close_error is not None:
            raise self._close_error


def responding(
    body: Any, status: str = "200 OK", headers: list[tuple[str, str]] = TEXT
) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, list(headers))
        return body

    return app


def check_error_page(sink: FakeSink) -> None:
    assert sink.status == "500 Internal Server Error"
    assert (sink.ended, sink.app_status) == ("finished", 1)
    assert sink.headers["Content-Length"] == str(len(sink.body))
    assert b"Boom" not in sink.output
    assert b"Traceback" not in sink.output
    assert b"secret" not in sink.output


def check_broken(sink: FakeSink, output: bytes) -> None:
    assert sink.ended == "broken off"
    assert sink.body == output
    assert sink.status == "200 OK"


# An app that raises.


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_before_the_response_is_an_error_page(kind: type[BaseException]) -> None:
    error = kind("secret")

    def app(environ: Any, start_response: Any) -> Any:
        raise error

    sink = run(app, REQUEST_URI="/where?a=b")
    check_error_page(sink)
    assert sink.reports == [("the app failed on GET /where?a=b", error)]
    assert error.__traceback__ is not None


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_before_the_first_byte_is_an_error_page(kind: type[BaseException]) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-Secret", "secret")])
        raise kind("secret")

    check_error_page(run(app))


def test_an_error_after_empty_pieces_is_an_error_page() -> None:
    body = Body([b"", b""], Boom("secret"))
    sink = run_validated(responding(body))
    check_error_page(sink)
    assert isinstance(sink.error, Boom)
    assert body.closed == 1


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind is not StopIteration])
def test_an_error_in_the_middle_is_a_broken_answer(kind: type[BaseException]) -> None:
    error = kind("secret")
    body = Body([b"half"], error)
    sink = run_validated(responding(body))
    check_broken(sink, b"half")
    ((message, reported),) = sink.reports
    assert "in the middle of its response to GET /" in message
    assert reported is error
    assert body.closed == 1


def test_an_error_after_write_is_a_broken_answer() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))(b"half")
        raise Boom

    check_broken(run_validated(app), b"half")


def test_an_error_page_for_head_has_no_body() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise Boom

    sink = run(app, "HEAD")
    assert (sink.status, sink.body) == ("500 Internal Server Error", b"")


@pytest.mark.parametrize("kind", ERRORS)
def test_close_that_fails_is_reported_and_changes_nothing(kind: type[BaseException]) -> None:
    error = kind("secret")
    sink = run_validated(responding(Body([b"whole"], close_error=error)))
    assert (sink.body, sink.ended, sink.app_status) == (b"whole", "finished", 0)
    assert sink.reports == [("close() of the response failed", error)]


def test_both_failures_are_reported() -> None:
    first, second = Boom("first"), Boom("second")
    sink = run_validated(responding(Body([b"half"], first, second)))
    check_broken(sink, b"half")
    assert [error for _, error in sink.reports] == [second, first]


# An app that breaks the rules.


@pytest.mark.parametrize("body", [None, 5, object()])
def test_a_body_that_is_no_iterable(body: Any) -> None:
    sink = run(responding(body))
    check_error_page(sink)
    assert isinstance(sink.error, TypeError)


@pytest.mark.parametrize("wrap", [list, tuple, iter, Body])
@pytest.mark.parametrize("item", ["text", "", None, 5, bytearray(b"x"), memoryview(b"x")])
def test_only_bytes_are_a_body(item: Any, wrap: Any) -> None:
    sink = run(responding(wrap([item, b"more"])))
    check_error_page(sink)
    assert isinstance(sink.error, ResponseError)
    assert type(item).__name__ in str(sink.error)


def test_str_after_bytes_in_a_list_is_an_error_page_for_nothing_was_sent() -> None:
    items: list[Any] = [b"bytes", "text"]
    check_error_page(run(responding(items)))


def test_str_after_bytes_was_sent_is_a_broken_answer() -> None:
    items: list[Any] = [b"bytes", "text"]
    check_broken(run(responding(iter(items))), b"bytes")


def test_a_str_for_a_body_is_an_error_page() -> None:
    check_error_page(run(responding("text")))


def test_write_takes_bytes_alone() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", list(TEXT))
        with pytest.raises(ResponseError, match="bytes, not str"):
            write("text")
        return [b"fine"]

    assert run(app).body == b"fine"


@pytest.mark.parametrize("body", [[b"x"], [b""], [], (), iter([b"x"]), iter([])])
def test_an_app_that_never_calls_start_response(body: Any) -> None:
    sink = run(lambda environ, start_response: body)
    check_error_page(sink)
    assert "without calling start_response" in str(sink.error)


def test_a_second_start_response_without_an_error() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        with pytest.raises(ResponseError, match="a second time"):
            start_response("404 Not Found", list(TEXT))
        return [b"first"]

    sink = run_validated(app)
    assert (sink.status, sink.body) == ("200 OK", b"first")


def test_a_bad_header_is_refused_before_a_byte_is_sent() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*TEXT, ("X-Secret", "secret\r\nSet-Cookie: a=b")])
        return [b"body"]

    sink = run(app)
    check_error_page(sink)
    assert b"Set-Cookie" not in sink.output
    assert isinstance(sink.error, ResponseError)


def test_an_app_may_correct_a_header_that_was_refused() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        with pytest.raises(ResponseError):
            start_response("200 OK", [("X", "a\n")])
        start_response("200 OK", list(TEXT))
        return [b"body"]

    assert run(app).body == b"body"


# start_response with exc_info.


def boom() -> Any:
    """What ``sys.exc_info()`` says of an error that was raised."""
    try:
        raise Boom("of the app")
    except Boom:
        return sys.exc_info()


def test_exc_info_replaces_headers_that_were_not_sent() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-Old", "a"), ("Content-Length", "99"), *TEXT])
        start_response("503 Busy", [("X-New", "b"), *TEXT], boom())
        return [b"sorry"]

    sink = run_validated(app)
    assert (sink.status, sink.body, sink.ended) == ("503 Busy", b"sorry", "finished")
    assert sink.headers == {"X-New": "b", "Content-Type": "text/plain"}
    assert sink.reports == []


def test_exc_info_may_come_first() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("503 Busy", list(TEXT), boom())
        return [b"sorry"]

    assert run_validated(app).status == "503 Busy"


def test_exc_info_of_none_is_no_error() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT), None)
        return [b"ok"]

    assert run_validated(app).body == b"ok"


def test_exc_info_replaces_headers_of_empty_pieces() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("204 No Content", [])
        yield b""
        start_response("500 Failed", list(TEXT), boom())
        yield b"sorry"

    sink = run_validated(app)
    assert (sink.status, sink.body) == ("500 Failed", b"sorry")


def test_exc_info_is_raised_when_the_headers_were_sent() -> None:
    info = boom()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        yield b"half"
        start_response("500 Failed", list(TEXT), info)
        yield b"never"

    sink = run_validated(app)
    check_broken(sink, b"half")
    assert sink.error is info[1]


def test_an_app_may_go_on_after_exc_info_was_raised() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        yield b"half"
        with pytest.raises(Boom):
            start_response("500 Failed", list(TEXT), boom())
        yield b" and half"

    sink = run_validated(app)
    assert (sink.status, sink.body, sink.ended) == ("200 OK", b"half and half", "finished")


# The web server gives the request up.


@pytest.mark.parametrize("rest", [[b"x"] * 9, [b""] * 9])
def test_a_request_given_up_is_not_iterated_further_and_closed(rest: list[bytes]) -> None:
    body = Body([b"x", b"x", b"x", *rest])
    sink = FakeSink(cancel_after=3)
    run(responding(body), sink=sink)
    assert len(sink.writes) == 3
    assert body.asked == 4
    assert body.closed == 1
    assert (sink.ended, sink.reports) == ("cancelled", [])


def test_a_request_given_up_while_a_piece_is_written() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", list(TEXT))
        write(b"one")
        with pytest.raises(ClientDisconnected):
            write(b"two")
        write(b"three")
        raise AssertionError("it went on")

    sink = FakeSink(cancel_after=1)
    run(app, sink=sink)
    assert sink.body == b"one"
    assert (sink.ended, sink.reports) == ("cancelled", [])


@pytest.mark.parametrize("wrap", [list, tuple, iter])
def test_a_request_given_up_before_its_app_answers(wrap: Any) -> None:
    sink = FakeSink(cancel_after=0)
    run(responding(wrap([bytes(99999), b"b"])), sink=sink)
    assert (sink.writes, sink.ended, sink.reports) == ([], "cancelled", [])


def test_an_error_of_the_apps_own_is_reported_though_its_client_left() -> None:
    sink = FakeSink(cancel_after=1)
    run(responding(Body([b"x"], Boom("of its own"))), sink=sink)
    assert isinstance(sink.error, Boom)
    assert sink.ended == "cancelled"


def test_a_client_that_left_an_app_of_another_server_is_an_error_like_any_other() -> None:
    """As when an app forwards to another server and lets that one's error out."""
    sink = run(responding(Body([b"x"], ClientDisconnected("of another"))))
    assert isinstance(sink.error, ClientDisconnected)
    assert sink.ended == "broken off"


def test_close_that_fails_after_a_request_was_given_up_is_reported() -> None:
    body = Body([b"x"] * 9, close_error=SystemExit())
    sink = FakeSink(cancel_after=1)
    run(responding(body), sink=sink)
    assert isinstance(sink.error, SystemExit)
    assert sink.ended == "cancelled"


def test_client_disconnected_is_what_apps_expect_of_a_broken_pipe() -> None:
    assert issubclass(ClientDisconnected, OSError)
