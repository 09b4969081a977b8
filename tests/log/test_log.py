"""Test that the log is bounded, and that the main context does not wait for it."""

from __future__ import annotations

import logging
import logging.handlers
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from support.server import WORKERS, Messages, logged, respond, running, wait_until

from vsgi_fcgi.log.handlers import reopen_files
from vsgi_fcgi.log.log import Log
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

LOST = "log records lost, because writing is too slow or a handler failed: "


def make_log(max_records: int = 10_000, max_bytes: int = 1_000_000) -> Log:
    return Log(max_records, max_bytes)


class Stuck(Messages):
    """A handler that blocks until the test releases it."""

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
    log = make_log(max_records=10)
    log.start()
    try:
        log.warning("first")
        assert stuck.hangs.wait(10)
        for number in range(100):
            log.warning("%d", number)
        stuck.free.set()
        assert log.flush(10)
        wait_until(lambda: len(stuck.lines) == 12)
        assert stuck.lines.count(f"{LOST}90") == 1
        kept = [line for line in stuck.lines if LOST not in line]
        assert kept == ["first", *map(str, range(10))]
    finally:
        log.stop(10)


def test_bytes_that_wait_are_bounded(stuck: Stuck) -> None:
    log = make_log(max_bytes=10_000)
    log.start()
    try:
        for _ in range(2):
            stuck.hangs.clear()
            stuck.free.clear()
            stuck.lines.clear()
            log.warning("%s", "first")
            assert stuck.hangs.wait(10)
            log.app_error("x" * 10_001)
            for number in range(10):
                log.app_error(f"{number}" * 3000)
            log.warning("%s", "small")
            stuck.free.set()
            assert log.flush(10)
            assert [line for line in stuck.lines if line[0] != "x"] == [
                *("first", f"{LOST}8"),
                *("0" * 3000, "1" * 3000, "2" * 3000, "small"),
            ]
    finally:
        log.stop(10)


def test_what_was_lost_is_a_warning(stuck: Stuck) -> None:
    log = make_log(max_records=1)
    log.start()
    try:
        log.logger.setLevel(logging.ERROR)
        for _ in range(3):
            log.error("said")
        stuck.free.set()
        assert log.flush(10)
        log.error("said")
        assert log.flush(10)
        log.logger.setLevel(logging.NOTSET)
        log.error("last")
        assert log.flush(10)
        *before, lost, last = stuck.lines
        assert set(before) == {"said"}
        assert lost.startswith(LOST)
        assert last == "last"
    finally:
        log.logger.setLevel(logging.NOTSET)
        log.stop(10)


def test_a_record_says_where_it_was_made_and_by_which_thread() -> None:
    seen: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    def speak() -> None:
        log.warning("here")

    log, handler = make_log(), Keeper()
    log.logger.addHandler(handler)
    log.start()
    try:
        thread = threading.Thread(target=speak, name="speaker")
        thread.start()
        thread.join(10)
        log.stop(10)
    finally:
        log.logger.removeHandler(handler)
    (record,) = seen
    assert (record.pathname, record.funcName) == (__file__, "speak")
    assert record.lineno == speak.__code__.co_firstlineno + 1
    assert record.threadName == "speaker"


def test_a_late_dict_config_silences_nothing() -> None:
    log = make_log()
    log.start()
    with logged() as messages:
        try:
            log.warning("before")
            assert log.flush(10)
            for logger in (log.logger, logging.getLogger("vsgi_fcgi.app")):
                logger.disabled = True
            assert log.enabled(logging.WARNING)
            log.logger.disabled = True
            log.warning("after")
            log.app_error("and the app")
        finally:
            log.stop(10)
    assert messages.lines == ["before", "after", "and the app"]


def test_order_is_kept_and_stop_writes_all() -> None:
    log = make_log()
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
    log = make_log()
    log.logger.addHandler(handler)
    log.warning("lost, without a thread")
    log.start()
    try:
        for _ in range(3):
            log.warning("lost")
        assert log.flush(10)
    finally:
        log.logger.removeHandler(handler)
    with logged() as messages:
        log.warning("written")
        log.stop(10)
    assert messages.lines == [f"{LOST}3", "written"]


def test_stop_waits_for_a_handler_that_hangs_no_longer_than_told(stuck: Stuck) -> None:
    log = make_log()
    log.start()
    log.warning("hangs")
    assert stuck.hangs.wait(10)
    started = time.monotonic()
    log.stop(0.1)
    assert time.monotonic() - started < 10


def test_a_level_that_nobody_sees_costs_no_record() -> None:
    log = make_log()
    with logged() as messages:
        log.logger.setLevel(logging.ERROR)
        log.info("unseen")
        log.error("seen")
    assert messages.lines == ["seen"]


def test_an_errors_traceback_is_written_and_the_error_is_not_kept() -> None:
    log = make_log()
    with logged() as messages:
        try:
            raise LookupError("in the app")
        except LookupError as error:
            log.error("it failed", error=error)
    (line,) = messages.lines
    assert line.startswith("it failed\nTraceback")
    assert line.endswith("LookupError: in the app")


def test_files_that_were_renamed_are_opened_again(tmp_path: Path) -> None:
    """Those behind another handler too; one in its place is not, or mode ``w`` would empty it."""
    renamed, stays = tmp_path / "renamed.log", tmp_path / "stays.log"
    behind = logging.FileHandler(renamed)
    memory = logging.handlers.MemoryHandler(1, target=behind)
    kept = logging.FileHandler(stays, mode="w")
    record = logging.makeLogRecord({"msg": "a line", "levelno": logging.ERROR})
    try:
        for handler in (memory, kept):
            handler.handle(record)
        renamed.rename(tmp_path / "old.log")
        assert reopen_files() == []
        assert renamed.read_text() == ""
        memory.handle(record)
        assert renamed.read_text() == (tmp_path / "old.log").read_text() == "a line\n"
        assert stays.read_text() == "a line\n"
    finally:
        for handler in (memory, behind, kept):
            handler.close()


def test_a_file_that_cannot_be_opened_again_stays_in_use(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.log"
    path.parent.mkdir()
    handler = logging.FileHandler(path)
    try:
        path.parent.rename(tmp_path / "moved")
        assert reopen_files() == [f"{path} cannot be reopened: No such file or directory"]
        handler.handle(logging.makeLogRecord({"msg": "a line"}))
        assert (tmp_path / "moved" / "a.log").read_text() == "a line\n"
    finally:
        handler.close()
