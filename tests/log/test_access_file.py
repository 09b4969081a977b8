"""Test the destinations of the access log, and lines that cannot be written."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lines import LogFile
from support.server import Messages, hello, logged, run_script, running, wait_until

from vsgi_fcgi import Server
from vsgi_fcgi.exceptions import UsageError


@pytest.fixture
def log(tmp_path: Path) -> LogFile:
    return LogFile(tmp_path / "access.log")


def logging_to(path: Path | str, **settings: Any) -> dict[str, Any]:
    return {"access_log": str(path), "access_log_format": "%(uri)s", **settings}


# Files.


def test_the_file_is_for_its_owner_and_group(log: LogFile) -> None:
    before = os.umask(0)
    try:
        with running(hello, **logging_to(log.path)) as server:
            server.connect().get("/x")
    finally:
        os.umask(before)
    assert log.only() == "/x"
    assert log.path.stat().st_mode & 0o777 == 0o640


def test_after_logrotate_has_renamed_it_a_new_file_is_made(log: LogFile) -> None:
    with running(hello, **logging_to(log.path)) as server:
        client = server.connect()
        for number in range(3):
            client.get(f"/{number}")
            log.wait_for(1)
            log.path.rename(log.path.with_suffix(f".{number}"))
        client.get("/last")
    assert log.lines() == ["/last"]
    for number in range(3):
        assert log.path.with_suffix(f".{number}").read_text() == f"/{number}\n"


def test_after_logrotate_has_made_a_new_file_it_is_used(log: LogFile) -> None:
    with running(hello, **logging_to(log.path)) as server:
        client = server.connect()
        client.get("/first")
        log.wait_for(1)
        log.path.unlink()
        log.path.touch()
        client.get("/second")
        assert log.wait_for(1) == ["/second"]


def test_a_path_that_fails_later_stops_nothing_and_is_tried_again(log: LogFile) -> None:
    folder = log.path.parent / "logs"
    folder.mkdir()
    inside = LogFile(folder / "access.log")
    with logged() as messages, running(hello, **logging_to(inside.path)) as server:
        client = server.connect()
        client.get("/first")
        inside.wait_for(1)
        away = folder.rename(folder.with_name("away"))
        moved = LogFile(away / "access.log")
        # Nowhere else to go: the old file is better than none.
        for number in range(3):
            client.get(f"/{number}")
            moved.wait_for(2 + number)
        messages.wait_for("cannot be reopened: No such file or directory")
        folder.mkdir()
        client.get("/again")
        assert inside.wait_for(1) == ["/again"]
        messages.wait_for("access log: writing works again; lost lines: 0")
    assert sum("cannot be reopened" in line for line in messages.lines) == 1


def test_a_relative_path_means_the_folder_at_the_start(
    log: LogFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(log.path.parent)
    with running(hello, **logging_to(log.path.name)) as server:
        monkeypatch.chdir("/")
        client = server.connect()
        client.get("/first")
        log.wait_for(1)
        log.path.rename(log.path.with_suffix(".1"))
        client.get("/second")
    assert log.lines() == ["/second"]


@pytest.mark.parametrize(
    ("name", "why"),
    [("no-folder/access.log", "No such file or directory"), ("", "Is a directory")],
)
def test_a_file_that_cannot_be_opened_is_said_at_the_start(
    tmp_path: Path, name: str, why: str
) -> None:
    path = f"{tmp_path}/{name}"
    server = Server(hello, access_log=path)
    server.listen(f"unix:{tmp_path}/socket")
    with pytest.raises(
        UsageError, match=f"access log {tmp_path / name}: the file cannot be opened: {why}"
    ):
        server.start()
    server.close()


def test_a_named_pipe_without_a_reader_is_said_at_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    server = Server(hello, access_log=str(tmp_path / "pipe"))
    server.listen(f"unix:{tmp_path}/socket")
    with pytest.raises(UsageError, match="cannot be opened: No such device or address"):
        server.start()
    server.close()


@pytest.mark.process
def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    script = """
import os, resource, tempfile
from support.server import hello, logged, running, wait_until

def fill_the_disk(room):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

with tempfile.TemporaryDirectory() as folder:
    path = folder + "/access.log"
    settings = dict(access_log=path, access_log_format="%(uri)s")
    with logged() as log, running(hello, **settings) as server:
        client = server.connect()
        fill_the_disk(105)  # in the middle of the eleventh line
        for number in range(1000, 1030):
            assert client.get(f"/{number}....").status == 200
        log.wait_for("access log: the file cannot be written: File too large")
        wait_until(lambda: os.path.getsize(path) == 105)
        # Until the thread has failed with all of them.
        writer = server.context.access_log._writer
        wait_until(lambda: writer._put == writer._written == 30)
        fill_the_disk(resource.RLIM_INFINITY)
        assert client.get("/after").status == 200
        log.wait_for("access log: writing works again; lost lines: 19")
    assert sum("cannot be written" in line for line in log.lines) == 1
    with open(path) as lines:
        wanted = [f"/{number}....\\n" for number in range(1000, 1011)] + ["/after\\n"]
        assert lines.readlines() == wanted
print("fine")
"""
    assert run_script(script) == "fine\n"


# Pipes.


class Pipe:
    """A named pipe that is read only when the test says so."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self._fd, True)
        self.data = b""

    def read_on(self) -> None:
        """Read until its writer has closed it, in a thread."""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._fd, 65536):
            self.data += data

    def lines(self) -> list[str]:
        """All lines, once the writer has closed it."""
        self._thread.join(20)
        return self.data.decode().splitlines()

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "pipe")
    yield pipe
    pipe.close()


def test_who_reads_too_slowly_loses_lines_and_delays_no_answer(pipe: Pipe) -> None:
    path = "/" + "x" * 7000
    with (
        logged() as messages,
        running(hello, **logging_to(pipe.path, max_log_records=10)) as server,
    ):
        client = server.connect()
        access_log = server.context.access_log
        assert access_log is not None
        # How many lines wait is no public figure.
        writer = access_log._writer
        # The pipe takes 64 KiB: soon the thread is stuck in the middle of a line.
        for count in range(100):
            assert client.get(f"{path}{count:03d}").status == 200
            if count % 25 == 0:
                wait_until(lambda: not access_log.due)
        assert writer._put - writer._written == 10
        pipe.read_on()
    lines = pipe.lines()
    assert 10 <= len(lines) < 50
    assert all(len(line) == len(path) + 3 for line in lines)
    dropped = [int(line.split()[-1]) for line in messages.lines if "lines dropped" in line]
    assert sum(dropped) == 100 - len(lines)
    # Said when it begins and at the end, and not with every line.
    assert len(dropped) <= 2


def test_bytes_of_lines_that_wait_are_bounded(pipe: Pipe) -> None:
    path = "/" + "x" * 7000
    settings = logging_to(pipe.path, max_log_bytes=65536)
    with logged() as messages, running(hello, **settings) as server:
        client = server.connect()
        for count in range(100):
            assert client.get(f"{path}{count:03d}").status == 200
            if count % 5 == 0:
                wait_until(lambda: not access_log_is_due(server))
        pipe.read_on()
    lines = pipe.lines()
    dropped = [int(line.split()[-1]) for line in messages.lines if "lines dropped" in line]
    # The pipe takes 64 KiB, and as much may wait.
    assert len(lines) < 30
    assert sum(dropped) == 100 - len(lines)


def test_a_reader_who_goes_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    with logged() as messages, running(hello, **logging_to(pipe.path)) as server:
        client = server.connect()
        client.get("/read")
        # The reading end of the pipe of the tests.
        spare = os.dup(pipe._fd)
        assert os.read(spare, 100) == b"/read\n"
        os.close(spare)
        # The same: its reader goes away.
        os.close(pipe._fd)
        client.get("/1")
        messages.wait_for("access log: the file cannot be written: Broken pipe")
        client.get("/2")
        # A pipe is not rotated, but one who reads it may come back.
        pipe._fd = os.open(pipe.path, os.O_RDONLY | os.O_NONBLOCK)
        # The same.
        os.set_blocking(pipe._fd, True)
        wait_until(lambda: not access_log_is_due(server))
        client.get("/3")
        messages.wait_for("access log: writing works again")
        pipe.read_on()
    assert pipe.lines()[-1] == "/3"


def access_log_is_due(server: Any) -> bool:
    return bool(server.context.access_log.due)


# Loggers.


@pytest.fixture
def records() -> Iterator[Messages]:
    messages = Messages()
    logger = logging.getLogger("vsgi_fcgi.access")
    logger.addHandler(messages)
    yield messages
    logger.removeHandler(messages)
    logger.setLevel(logging.NOTSET)


def test_a_logger_gets_a_record_for_each_line(records: Messages) -> None:
    server_level = logging.getLogger("vsgi_fcgi").level
    logging.getLogger("vsgi_fcgi").setLevel(logging.ERROR)
    try:
        with running(hello, **logging_to("logger")) as server:
            client = server.connect()
            for path in ("/1", "/100%s", "/3"):
                client.get(path)
        assert records.lines == ["/1", "/100%s", "/3"]
    finally:
        logging.getLogger("vsgi_fcgi").setLevel(server_level)


def test_a_loggers_own_level_stands(records: Messages) -> None:
    logging.getLogger("vsgi_fcgi.access").setLevel(logging.WARNING)
    with running(hello, **logging_to("logger")) as server:
        server.connect().get("/x")
    assert records.lines == []


def test_a_handler_that_raises_ends_nothing() -> None:
    class Raising(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            if "/1" in record.getMessage():
                raise ValueError("broken handler")
            return super().handle(record)

        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    seen: list[str] = []
    handler = Raising()
    logger = logging.getLogger("vsgi_fcgi.access")
    logger.addHandler(handler)
    try:
        with logged() as messages, running(hello, **logging_to("logger")) as server:
            client = server.connect()
            client.get("/1")
            messages.wait_for("access log: a handler raised ValueError")
            client.get("/2")
            wait_until(lambda: seen)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert seen == ["/2"]
