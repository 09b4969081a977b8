"""Test the records for the journal, received on a socket in its place.

With the real journal: live/test_journald.py.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.commands import complaint
from support.server import Messages, run_script

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.log.handlers import SOCKET, JournalHandler

NUMBER = 5000
"""Entries, more than a socket's buffer holds."""


class Journal:
    """A socket that understands the journal's protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(10)
        self._sock.bind(self.path)

    def entry(self) -> dict[str, bytes]:
        """The fields of the next entry."""
        data, descriptors, _, _ = socket.recv_fds(self._sock, 1 << 20, 1)
        for fd in descriptors:
            with open(fd, "rb") as file:
                file.seek(0)
                data = file.read()
        fields = {}
        while data:
            name, data = data.split(b"\n", 1)
            if b"=" in name:
                name, _, value = name.partition(b"=")
            else:
                (size,) = struct.unpack("<Q", data[:8])
                value, data = data[8 : 8 + size], data[8 + size :]
                assert data[:1] == b"\n"
                data = data[1:]
            fields[name.decode()] = value
        return fields

    def close(self) -> None:
        self._sock.close()
        os.unlink(self.path)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "socket")
    yield journal
    if os.path.exists(journal.path):
        journal.close()


@pytest.fixture
def fallback() -> Messages:
    return Messages()


@pytest.fixture
def handler(journal: Journal, fallback: Messages) -> Iterator[JournalHandler]:
    handler = JournalHandler("my-app", fallback, journal.path)
    yield handler
    # The handler has no close(); its socket would be reported as leaked.
    handler._transport.socket.close()


def record(message: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("vsgi_fcgi", level, "/src/app.py", 7, message, (), None, "view")


def test_the_fields_of_an_entry(journal: Journal, handler: JournalHandler) -> None:
    handler.handle(record("two\nlines, ä"))
    assert journal.entry() == {
        "MESSAGE": "two\nlines, ä".encode(),
        "PRIORITY": b"4",
        "SYSLOG_IDENTIFIER": b"my-app",
        "LOGGER": b"vsgi_fcgi",
        "THREAD_NAME": b"MainThread",
        "CODE_FILE": b"/src/app.py",
        "CODE_LINE": b"7",
        "CODE_FUNC": b"view",
    }


@pytest.mark.parametrize(
    ("level", "priority"),
    [(5, b"7"), (10, b"7"), (20, b"6"), (25, b"6"), (30, b"4"), (40, b"3"), (50, b"2"), (60, b"2")],
)
def test_priorities(journal: Journal, handler: JournalHandler, level: int, priority: bytes) -> None:
    handler.handle(record("text", level))
    assert journal.entry()["PRIORITY"] == priority


@pytest.mark.parametrize("text", ["x" * 2_000_000, "\udc80\0"])
def test_messages_of_any_size_and_kind(
    journal: Journal, handler: JournalHandler, text: str
) -> None:
    handler.handle(record(text))
    assert journal.entry()["MESSAGE"] == text.encode(errors="backslashreplace")


def test_without_a_journal_nothing_is_lost(
    journal: Journal, handler: JournalHandler, fallback: Messages
) -> None:
    journal.close()
    handler.handle(record("while it is away"))
    assert fallback.lines == ["while it is away"]
    again = Journal(Path(journal.path))
    handler.handle(record("when it is back"))
    assert again.entry()["MESSAGE"] == b"when it is back"
    again.close()


def test_a_late_dict_config_closes_no_way_to_the_journal(
    journal: Journal, handler: JournalHandler
) -> None:
    # What dictConfig does with all handlers that it finds.
    handler.close()
    handler.handle(record("still there"))
    assert journal.entry()["MESSAGE"] == b"still there"


def test_a_record_that_cannot_be_formatted_is_an_error_of_the_log(
    journal: Journal, handler: JournalHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = record("%d")
    broken.args = ("no number",)
    handler.handle(broken)
    handler.handle(record("the next"))
    assert journal.entry()["MESSAGE"] == b"the next"
    assert "--- Logging error ---" in capsys.readouterr().err


@pytest.mark.process
def test_a_journal_that_is_slow_is_waited_for_natively(journal: Journal) -> None:
    """A socket that is patched belongs to one thread's hub, and the log has its own thread."""
    script = f"""
from gevent import monkey
monkey.patch_all()
import logging
from vsgi_fcgi.log.handlers import JournalHandler
from vsgi_fcgi.transport.unpatched import SimpleQueue, start_thread

handler = JournalHandler("my-app", logging.StreamHandler(), {journal.path!r})
written = SimpleQueue()
def write():
    for number in range({NUMBER}):
        handler.handle(logging.LogRecord("a", 20, "b", 1, "%d", (number,), None))
    written.put(True)
start_thread(write, "log")
assert written.get(timeout=20)
handler._transport.socket.close()
"""
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(run_script, script)
        for number in range(NUMBER):
            assert journal.entry()["MESSAGE"] == b"%d" % number
        run.result(20)


# Messages at the start


def test_without_a_journal_it_does_not_start(tmp_path: Path, fallback: Messages) -> None:
    with pytest.raises(UsageError) as caught:
        JournalHandler("my-app", fallback, str(tmp_path / "socket"))
    assert str(caught.value) == (
        f"--log-writer journald: no journal listens on {tmp_path}/socket (No such file or"
        " directory); remove the option where systemd does not run"
    )


def test_without_the_package_it_does_not_start(
    journal: Journal, fallback: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "logging_journald", None)
    with pytest.raises(UsageError) as caught:
        JournalHandler("my-app", fallback, journal.path)
    assert "pip install 'vsgi-fcgi[journald]'" in str(caught.value)


@pytest.mark.process
@pytest.mark.skipif(os.path.exists(SOCKET), reason="systemd's journal runs on this machine")
def test_the_command_says_that_there_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("app = print\n")
    said = complaint(tmp_path, "app", "--check-config", "--log-writer", "journald")
    assert said.startswith(f"--log-writer journald: no journal listens on {SOCKET} (No such file")
