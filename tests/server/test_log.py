"""The log: nobody waits for it, and it is bounded."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator

import pytest
from support.server import WORKERS, Messages, logged, respond, running, wait_until

from vsgi_fcgi.server.log import Log
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.runner import StartResponse


class Stuck(Messages):
    """A handler that hangs until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()
        self.free = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.hangs.set()
        assert self.free.wait(30)
        super().emit(record)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    handler = Stuck()
    logger = logging.getLogger("vsgi_fcgi")
    logger.addHandler(handler)
    yield handler
    handler.free.set()
    logger.removeHandler(handler)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_handler_that_hangs_delays_no_answer(worker: str, stuck: Stuck) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"].write("something to say\n")
        return respond(start_response, b"at once")

    with running(app, worker=worker) as server:
        client = server.connect()
        for _ in range(100):
            assert client.get().body == b"at once"
        assert stuck.hangs.wait(10)
        assert stuck.lines == []
        stuck.free.set()
        wait_until(lambda: stuck.lines.count("something to say") == 100)


def test_what_does_not_fit_is_dropped_and_counted(stuck: Stuck) -> None:
    log = Log(max_records=10)
    log.start()
    try:
        log.warning("first")
        assert stuck.hangs.wait(10)
        for number in range(100):
            log.warning("%d", number)
        stuck.free.set()
        assert log.flush(10)
        wait_until(lambda: len(stuck.lines) == 12)
        assert "90 log records were dropped: the log is too slow" in stuck.lines
        kept = [line for line in stuck.lines if "dropped" not in line]
        assert kept == ["first", *map(str, range(10))]
    finally:
        log.stop(10)


def test_order_is_kept_and_stop_writes_all() -> None:
    log = Log(max_records=10_000)
    log.start()
    with logged() as messages:
        for number in range(1000):
            log.info("%d", number)
        log.stop(10)
    assert messages.lines == list(map(str, range(1000)))


def test_a_handler_that_raises_ends_nothing() -> None:
    class Raising(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise ValueError("broken handler")

    handler = Raising()
    log = Log(max_records=100)
    log.start()
    logger = logging.getLogger("vsgi_fcgi")
    logger.addHandler(handler)
    try:
        log.warning("lost")
        assert log.flush(10)
    finally:
        logger.removeHandler(handler)
    with logged() as messages:
        log.warning("written")
        log.stop(10)
    assert messages.has("written")


def test_stop_waits_for_a_handler_that_hangs_no_longer_than_told(stuck: Stuck) -> None:
    log = Log(max_records=100)
    log.start()
    log.warning("hangs")
    assert stuck.hangs.wait(10)
    started = time.monotonic()
    log.stop(0.1)
    assert time.monotonic() - started < 10


def test_a_level_that_nobody_sees_costs_no_record() -> None:
    log = Log(max_records=100)
    with logged() as messages:
        log.logger.setLevel(logging.ERROR)
        log.info("unseen")
        log.error("seen")
    assert messages.lines == ["seen"]


def test_an_errors_traceback_is_written_and_the_error_is_not_kept() -> None:
    log = Log(max_records=100)
    with logged() as messages:
        try:
            raise LookupError("in the app")
        except LookupError as error:
            log.error("it failed", error=error)
    (line,) = messages.lines
    assert line.startswith("it failed\nTraceback")
    assert line.endswith("LookupError: in the app")
