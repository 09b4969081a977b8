"""Test held requests: long polls and streams in which no worker waits."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from support.fcgi.peer import Client
from support.server import WORKERS, Messages, Running, logged, respond, running, wait_until
from werkzeug.middleware.lint import LintMiddleware

from vsgi_fcgi.push.held import HeldRequests
from vsgi_fcgi.push.items import Item, ResponsePart, StreamPart
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import App, StartResponse

PLAIN = ("Content-Type", "text/plain")
STREAM = [PLAIN, ("Grip-Hold", "stream"), ("Grip-Channel", "news")]
POLL = [PLAIN, ("Content-Length", "6"), ("X-Mine", "yes"), ("Grip-Hold", "response")]


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Hold what is named by the path, and answer everything else."""
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", STREAM)
        return [b"begun\n"]
    if path == "/poll":
        start_response("200 OK", [*POLL, ("Grip-Channel", environ["QUERY_STRING"] or "news")])
        return [b"silent"]
    return respond(start_response, environ.get("HTTP_GRIP_SIG", "no signature").encode())


def holder(server: Running) -> HeldRequests:
    """The held requests of a server."""
    held = server.context.services.held
    assert held is not None
    return held


def wait_for_held(server: Running, count: int) -> None:
    wait_until(lambda: len(holder(server)) == count, lambda: f"{len(holder(server))} are held")


def wait_for_delivery(server: Running) -> None:
    """Wait until each item was passed to all streams, which cannot be seen from outside."""
    held = holder(server)
    wait_until(lambda: not held._waiting and not held._pumping)


def text(content: bytes, channel: str = "news", **more: Any) -> Item:
    """An item for streams and long polls."""
    return Item(channel, stream=StreamPart(content), response=ResponsePart(body=content), **more)


CLOSE = Item("news", stream=StreamPart(action="close"))


@pytest.mark.parametrize("worker", WORKERS)
def test_a_stream_continues_with_what_is_published_until_it_is_closed(worker: str) -> None:
    with running(app, worker=worker, push=True) as server, server.connect() as client:
        client.ask(1, "/stream")
        client.collect_until(lambda: 1 in client.answers and client.answers[1].body == b"begun\n")
        assert not [name for name in client.answers[1].headers if name.startswith("grip-")]
        for number in range(3):
            assert holder(server).deliver([text(b"%d\n" % number), text(b"other\n", "other")])
        holder(server).deliver([CLOSE])
        answer = client.answer(1)
        assert (answer.status, answer.body) == (200, b"begun\n0\n1\n2\n")
        assert (answer.app_status, answer.protocol_status) == (0, 0)
        wait_for_held(server, 0)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_long_poll_is_answered_with_the_first_item(worker: str) -> None:
    with running(app, worker=worker, push=True) as server, server.connect() as client:
        client.ask(1, "/poll")
        wait_for_held(server, 1)
        holder(server).deliver([text(b"something"), text(b"more")])
        answer = client.answer(1)
        assert answer.body == b"something"
        assert answer.headers["x-mine"] == "yes"
        assert answer.headers["content-length"] == "9"
        wait_for_held(server, 0)


def test_a_long_poll_gets_the_response_of_its_app_at_the_timeout() -> None:
    def patient(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["vsgi_fcgi.request"].hold("news", mode="response", timeout=1)
        return respond(start_response, b"nothing", "404 Not Found")

    with running(patient, push=True) as server, server.connect() as client:
        answer = client.get()
        assert (answer.status, answer.body) == (404, b"nothing")
        wait_for_held(server, 0)


def test_a_stream_in_pauses_gets_a_keep_alive() -> None:
    def beating(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["vsgi_fcgi.request"].hold("news", keep_alive=b":\n", keep_alive_timeout=1)
        return respond(start_response, iter([b"begun\n"]))

    with running(beating, push=True) as server, server.connect() as client:
        client.ask(1)
        client.collect_until(
            lambda: 1 in client.answers and client.answers[1].body == b"begun\n:\n:\n"
        )


def test_one_thread_holds_many_requests_and_serves_others() -> None:
    class Kept:
        """Part of an environ."""

    kept: list[weakref.ref[Kept]] = []

    def keeping(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["kept"] = one = Kept()
        kept.append(weakref.ref(one))
        return app(environ, start_response)

    with running(keeping, threads=1, push=True) as server, server.connect() as client:
        for id in range(1, 101):
            client.ask(id, "/stream" if id % 2 else "/poll")
        wait_for_held(server, 100)
        assert client.get("/", id=101).status == 200
        gc.collect()
        assert not [each for each in kept if each() is not None]
        holder(server).deliver([text(b"x"), CLOSE])
        assert {client.answer(id).body for id in range(1, 101)} == {b"begun\nx", b"x"}


@pytest.mark.parametrize("path", ["/stream", "/poll"])
@pytest.mark.parametrize("leave", [lambda client: client.abort(1), lambda client: client.close()])
def test_a_request_whose_client_has_gone_is_forgotten(
    path: str, leave: Callable[[Client], None]
) -> None:
    with running(app, push=True) as server, server.connect() as client:
        client.ask(1, path)
        wait_for_held(server, 1)
        leave(client)
        wait_for_held(server, 0)
        holder(server).deliver([text(b"x")])
        assert server.connect().get().status == 200


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"max_held": 2}, "max_held is 2"),
        ({"max_held_per_channel": 2}, "max_held_per_channel is 2"),
    ],
)
def test_beyond_a_limit_requests_are_not_held(settings: dict[str, Any], name: str) -> None:
    with logged() as log, running(app, push=True, **settings) as server, server.connect() as client:
        client.ask(1, "/stream")
        client.ask(2, "/poll")
        wait_for_held(server, 2)
        for path in ("/poll", "/stream"):
            answer = client.get(path, id=3)
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
        log.wait_for(name)
        client.abort(1)
        wait_for_held(server, 1)
        client.ask(3, "/poll")
        wait_for_held(server, 2)


def test_only_items_are_dropped_for_a_slow_client() -> None:
    def slow(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/stream":
            return app(environ, start_response)
        return respond(start_response, iter([bytes(65536)] * 100))

    with running(slow, push=True, max_items_waiting=2) as server:
        client = server.connect(receive_buffer=4096)
        client.ask(1)
        # No item may fit into the buffers of the kernel.
        server.full_connection()
        client.ask(2, "/stream")
        wait_for_held(server, 1)
        holder(server).deliver([text(b"%d\n" % number) for number in range(5)])
        # Before all of them were passed on, the client must not read.
        wait_for_delivery(server)
        holder(server).deliver([CLOSE])
        assert client.answer(2).body == b"begun\n3\n4\n"


def test_responses_of_held_requests_have_a_limit_in_all() -> None:
    def large(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["vsgi_fcgi.request"].hold("news", mode="response")
        return respond(start_response, bytes(40000))

    with running(large, push=True, max_held_bytes=65536) as server, server.connect() as client:
        client.ask(1)
        client.ask(2)
        wait_for_held(server, 2)
        assert client.get(id=3).status == 503
        client.abort(1)
        wait_for_held(server, 1)
        client.ask(3)
        wait_for_held(server, 2)


def test_the_body_of_a_held_response_has_a_limit() -> None:
    def large(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", STREAM)
        return iter([bytes(1024)] * 2)

    with logged() as log, running(large, push=True, max_item_bytes=2047) as server:
        assert server.connect().get("/large").status == 502
        log.wait_for("GET /large: the body of a held response is over 2047 bytes")


@pytest.mark.parametrize("overflow", ["drop", "end"])
def test_a_client_that_reads_nothing_loses_items_or_its_stream(overflow: str) -> None:
    settings: dict[str, Any] = {"push_overflow": overflow, "max_items_waiting": 10}
    with running(app, push=True, **settings) as server, server.connect() as client:
        client.ask(1, "/stream")
        wait_for_held(server, 1)
        holder(server).deliver([text(b"%02d" % number * 50_000) for number in range(60)])
        # This one is delivered after the others.
        other = server.connect()
        other.ask(1, "/poll?other")
        wait_until(lambda: holder(server).polls == 1)
        holder(server).deliver([text(b"x", "other")])
        other.answer(1)
        if overflow == "drop":
            holder(server).deliver([CLOSE])
        body = client.answer(1).body
        numbers = [int(body[at : at + 2]) for at in range(len(b"begun\n"), len(body), 100_000)]
        assert 10 <= len(numbers) < 60
        if overflow == "drop":
            assert numbers == sorted(numbers)
            assert numbers[-1] == 59
        else:
            assert numbers == list(range(len(numbers)))
        wait_for_held(server, 0)


def test_published_items_wait_in_a_queue_with_a_limit() -> None:
    with running(app, push=True, max_items_queued=2) as server:
        assert not holder(server).deliver([text(b"x")] * 3)
        assert holder(server).deliver([text(b"x")] * 2)


@pytest.mark.parametrize("worker", WORKERS)
def test_at_a_stop_held_requests_end_as_at_their_timeout(worker: str) -> None:
    with running(app, worker=worker, push=True, push_stop_spread=0.2) as server:
        client = server.connect()
        client.ask(1, "/stream")
        client.ask(2, "/poll")
        wait_for_held(server, 2)
        assert server.server.stop()
        assert client.answer(1).body == b"begun\n"
        answer = client.answer(2)
        assert (answer.body, answer.headers["x-mine"]) == (b"silent", "yes")


def test_without_the_setting_instructions_pass_through() -> None:
    with running(app) as server:
        answer = server.connect().get("/stream")
        assert answer.headers["grip-hold"] == "stream"
        assert server.connect().get("/").body == b"no signature"


def test_hold_without_the_setting_says_which_one_is_missing() -> None:
    def holding(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with pytest.raises(RuntimeError, match="--push"):
            environ["vsgi_fcgi.request"].hold("news")
        return respond(start_response, b"refused")

    with running(holding) as server:
        assert server.connect().get().body == b"refused"


def test_what_a_client_sends_as_grip_does_not_reach_the_app() -> None:
    def show(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen = sorted(name for name in environ if "GRIP" in name.upper())
        assert environ["HTTP_GRIP_SIG"] != "forged"
        return respond(start_response, ",".join(seen).encode())

    with running(show, push=True) as server, server.connect() as client:
        client.ask(1, more={"HTTP_GRIP_SIG": "forged", "HTTP_GRIP_LAST": "news; last-id=1"})
        assert client.answer(1).body == b"HTTP_GRIP_FEATURE,HTTP_GRIP_SIG"


def test_a_head_request_is_not_held_as_a_stream() -> None:
    with running(app, push=True) as server, server.connect() as client:
        client.ask(1, "/stream", method="HEAD")
        answer = client.answer(1)
        assert (answer.status, answer.body) == (200, b"")
        client.ask(2, "/poll", method="HEAD")
        wait_for_held(server, 1)
        holder(server).deliver([text(b"x")])
        assert client.answer(2).body == b""


def generating(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Call ``start_response`` when the body is read."""
    start_response("200 OK", STREAM)
    yield b"be"
    yield b"gun\n"


def writing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Use the callable that ``start_response`` returns."""
    start_response("200 OK", STREAM)(b"beg")
    return [b"un\n"]


def changing_its_mind(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Begin with another response."""
    start_response("500 Oh", [PLAIN])
    try:
        raise ValueError
    except ValueError as error:
        start_response("200 OK", STREAM, (ValueError, error, error.__traceback__))
    return [b"begun\n"]


@pytest.mark.parametrize(
    "app",
    [generating, writing, changing_its_mind, validator(generating), LintMiddleware(generating)],
    ids=["generator", "write", "exc_info", "validator", "lint"],
)
def test_an_app_may_give_its_instruction_in_any_way(app: App) -> None:
    with running(app, push=True) as server, server.connect() as client:
        client.ask(1)
        wait_for_held(server, 1)
        holder(server).deliver([text(b"x"), CLOSE])
        assert client.answer(1).body == b"begun\nx"


def test_an_app_that_fails_after_its_instruction_is_answered_500() -> None:
    def failing(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", STREAM)
        yield b"begun\n"
        raise ValueError("oops")

    with logged() as log, running(failing, push=True) as server:
        assert server.connect().get().status == 500
        log.wait_for("ValueError: oops")
        assert not len(holder(server))


def test_a_wrong_instruction_is_answered_502() -> None:
    def wrong(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [PLAIN, ("Grip-Hold", "sideways")])
        return [b"x"]

    log: Messages
    with logged() as log, running(wrong, push=True) as server:
        assert server.connect().get("/wrong").status == 502
        log.wait_for("GET /wrong")


# An app that is asked again.


class Feed:
    """An app with numbered events. A stream links to what follows the events that it has sent."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.asked: list[str] = []
        self.grip_last: list[str | None] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.asked.append(f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']}")
        self.grip_last.append(environ.get("HTTP_GRIP_LAST"))
        assert environ["HTTP_GRIP_SIG"]
        since = int(environ["QUERY_STRING"] or 0)
        body = b"".join(b"%d\n" % number for number in range(since + 1, self.last + 1))
        headers = [PLAIN]
        if environ["PATH_INFO"] == "/feed":
            headers += [
                ("Grip-Hold", "stream"),
                ("Grip-Channel", f"news; prev-id={self.last}"),
                ("Grip-Link", f"</feed?{self.last}>; rel=next"),
            ]
        elif not body:
            headers += [("Grip-Hold", "response"), ("Grip-Channel", f"news; prev-id={self.last}")]
        start_response("200 OK", headers)
        return [body]


def event(number: int) -> Item:
    return text(b"%d\n" % number, id=str(number), prev_id=str(number - 1))


@pytest.mark.parametrize("worker", WORKERS)
def test_a_stream_that_misses_items_is_continued_by_the_app(worker: str) -> None:
    feed = Feed(2)
    with running(feed, worker=worker, push=True) as server, server.connect() as client:
        client.ask(1, "/feed")
        wait_for_held(server, 1)
        holder(server).deliver([event(3)])
        client.collect_until(lambda: 1 in client.answers and client.answers[1].body == b"1\n2\n3\n")
        # The item 4 is lost, and one comes twice.
        feed.last = 5
        holder(server).deliver([event(3), event(5)])
        client.collect_until(lambda: client.answers[1].body.endswith(b"5\n"))
        wait_until(lambda: feed.asked == ["GET /feed", "GET /feed?2"])
        holder(server).deliver([event(6), CLOSE])
        assert client.answer(1).body == b"1\n2\n3\n3\n4\n5\n6\n"


@pytest.mark.parametrize("worker", WORKERS)
def test_a_long_poll_that_misses_items_is_answered_by_the_app(worker: str) -> None:
    feed = Feed(2)
    with running(feed, worker=worker, push=True) as server, server.connect() as client:
        client.ask(1, "/poll?2")
        wait_for_held(server, 1)
        feed.last = 4
        holder(server).deliver([event(4)])
        assert client.answer(1).body == b"3\n4\n"
        assert feed.asked == ["GET /poll?2"] * 2
        assert feed.grip_last == [None, "news; last-id=2"]


def test_items_that_come_before_the_request_is_held_are_not_missed() -> None:
    feed = Feed(2)

    def late(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = feed(environ, start_response)
        # An event happens when the app has looked for events, and before the request is held.
        feed.last = 3
        holder(server).deliver([event(3)])
        return body

    with running(late, push=True) as server:
        assert server.connect().get("/poll?2").body == b"3\n"
        assert len(feed.asked) == 2


def test_an_app_that_is_ahead_of_the_items_is_asked_once() -> None:
    feed = Feed(2)
    with running(feed, push=True) as server, server.connect() as client:
        client.ask(1, "/feed")
        wait_for_held(server, 1)
        # The app knows nine events. Of these, only the fourth has arrived.
        feed.last = 9
        holder(server).deliver([event(4)])
        client.collect_until(
            lambda: 1 in client.answers and client.answers[1].body.endswith(b"9\n")
        )
        holder(server).deliver([event(10), CLOSE])
        assert client.answer(1).body == b"".join(b"%d\n" % number for number in range(1, 11))
        assert feed.asked == ["GET /feed", "GET /feed?2"]


def test_a_channel_without_prev_id_has_no_order() -> None:
    with running(app, push=True) as server, server.connect() as client:
        client.ask(1, "/stream")
        wait_for_held(server, 1)
        items = [event(1), event(1), event(5), text(b"any\n"), event(3)]
        holder(server).deliver([*items, CLOSE])
        assert client.answer(1).body == b"begun\n1\n5\nany\n3\n"


def test_an_item_without_prev_id_may_hide_others() -> None:
    feed = Feed(2)
    with running(feed, push=True) as server, server.connect() as client:
        client.ask(1, "/feed")
        wait_for_held(server, 1)
        feed.last = 4
        holder(server).deliver([text(b"4\n", id="4")])
        client.collect_until(
            lambda: 1 in client.answers and client.answers[1].body.endswith(b"4\n")
        )
        assert client.answers[1].body == b"1\n2\n3\n4\n"


def test_a_long_poll_that_cannot_be_repeated_is_answered_by_its_own_response() -> None:
    with running(app, push=True) as server, server.connect() as client:
        client.ask(1, "/poll")
        wait_for_held(server, 1)
        holder(server).deliver([Item("news", response=ResponsePart(action="hint"))])
        assert client.answer(1).body == b"silent"


def test_an_item_that_comes_late_has_the_app_asked_once() -> None:
    asked: list[str | None] = []

    def serial(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The app knows the items 1 and 2 when it is asked again."""
        asked.append(environ.get("HTTP_GRIP_LAST"))
        first = len(asked) == 1
        prev = f"news; prev-id={0 if first else 2}"
        link = ("Grip-Link", "</more>; rel=next")
        start_response("200 OK", [PLAIN, ("Grip-Hold", "stream"), ("Grip-Channel", prev), link])
        return [b"" if len(asked) > 2 else b"begun\n" if first else b"1\n2\n"]

    with running(serial, push=True) as server, server.connect() as client:
        client.ask(1, "/stream")
        client.collect_until(lambda: 1 in client.answers and client.answers[1].body == b"begun\n")
        # Two processes have published them: the second one has overtaken the first one.
        holder(server).deliver([text(b"2\n", id="2", prev_id="1")])
        client.collect_until(lambda: client.answers[1].body == b"begun\n1\n2\n")
        holder(server).deliver([text(b"1\n", id="1", prev_id="0")])
        wait_until(lambda: len(asked) >= 3, lambda: f"{asked}")
        holder(server).deliver([text(b"3\n", id="3", prev_id="2"), CLOSE])
        assert client.answer(1).body == b"begun\n1\n2\n3\n"
    assert asked == [None, "news; last-id=0", "news; last-id=2"]


@pytest.mark.parametrize("uri", ["http://other.example/more", "http://[/more"])
def test_a_stream_with_a_next_uri_that_is_not_of_the_app_ends(uri: str) -> None:
    def elsewhere(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        link = ("Grip-Link", f"<{uri}>; rel=next")
        channel = ("Grip-Channel", "news; prev-id=0")
        start_response("200 OK", [PLAIN, ("Grip-Hold", "stream"), channel, link])
        return [b"begun\n"]

    with running(elsewhere, push=True) as server, server.connect() as client:
        client.ask(1, "/stream")
        client.collect_until(lambda: 1 in client.answers and client.answers[1].body == b"begun\n")
        # The item before this one is missing, so the app should be asked.
        holder(server).deliver([text(b"2\n", id="2", prev_id="1")])
        assert client.answer(1).body == b"begun\n"


def test_empty_parts_of_a_response_are_not_requested_without_a_pause() -> None:
    asked = 0

    def empty(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal asked
        if environ["PATH_INFO"] == "/plain":
            start_response("200 OK", [PLAIN])
            return [b"plain"]
        asked += environ["PATH_INFO"] == "/next"
        start_response("200 OK", [PLAIN, ("Grip-Link", "</next>; rel=next")])
        return [b""]

    with running(empty, push=True) as server, server.connect() as client:
        client.ask(1, "/begin")
        wait_until(lambda: asked > 0, lambda: "the next part is not requested")
        # Each of these takes as long as a request for the next part.
        for id in range(2, 102):
            client.ask(id, "/plain")
            assert client.answer(id).body == b"plain"
        assert asked < 30


@pytest.mark.parametrize("uri", ["http://other.example/gone", "http://[/gone"])
def test_a_gone_uri_that_is_not_of_the_app_is_not_requested(uri: str) -> None:
    asked = []

    def elsewhere(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        asked.append(environ["PATH_INFO"])
        link = ("Grip-Link", f"<{uri}>; rel=gone")
        start_response("200 OK", [PLAIN, ("Grip-Hold", "stream"), ("Grip-Channel", "news"), link])
        return [b"begun\n"]

    with logged() as log, running(elsewhere, push=True) as server:
        with server.connect() as client:
            client.ask(1, "/stream")
            wait_for_held(server, 1)
        wait_for_held(server, 0)
        with server.connect() as client:
            client.ask(1, "/after")
            wait_for_held(server, 1)
    assert asked == ["/stream", "/after"]
    assert "a bug in the server" not in "\n".join(log.lines)


def test_the_access_log_has_a_line_for_each(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    settings: dict[str, Any] = {
        "access_log": str(log),
        "access_log_format": "%(m)s %(U)s %(s)s %(B)s",
    }
    with running(app, push=True, **settings) as server, server.connect() as client:
        for id, path in enumerate(("/stream", "/poll"), 1):
            client.ask(id, path)
        wait_for_held(server, 2)
        holder(server).deliver([text(b"12345"), CLOSE])
        assert client.answer(1).body == b"begun\n12345"
        assert client.answer(2).body == b"12345"
        client.ask(3, "/stream")
        client.collect_until(lambda: 3 in client.answers and client.answers[3].body == b"begun\n")
        client.abort(3)
        wait_for_held(server, 0)
    lines = sorted(log.read_text().splitlines())
    assert lines == ["GET /poll 200 5", "GET /stream 200 11", "GET /stream 200 6"]
