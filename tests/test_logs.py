from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator

import pytest

from vsgi_fcgi.cli.logs import configure_logging


@contextlib.contextmanager
def fresh_loggers() -> Iterator[tuple[logging.Logger, logging.Logger]]:
    """The root logger and ours as a fresh interpreter has them; put back afterwards.

    No fixture, as pytest gives the root logger handlers of its own once all fixtures are set up.
    """
    pair = logging.getLogger(), logging.getLogger("vsgi_fcgi")
    kept = [(item.handlers[:], item.level, item.propagate, item.disabled) for item in pair]
    for item in pair:
        item.handlers[:], item.propagate, item.disabled = [], True, False
        item.setLevel(logging.NOTSET)
    try:
        yield pair
    finally:
        for item, (handlers, level, item.propagate, item.disabled) in zip(pair, kept, strict=True):
            item.handlers[:] = handlers
            item.setLevel(level)


def test_the_log_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_loggers() as (_, ours):
        configure_logging("info")
        ours.info("listening on %s", "fcgi://127.0.0.1:9000/")
        ours.debug("not asked for")
        output = capsys.readouterr()
        assert output.out == ""
        stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
        line = rf"{stamp} {os.getpid()} INFO listening on fcgi://127\.0\.0\.1:9000/\n"
        assert re.fullmatch(line, output.err)


def test_configuring_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_loggers() as (_, ours):
        configure_logging("info")
        configure_logging("info")
        ours.warning("once")
        assert capsys.readouterr().err.count("once") == 1


class Keeper(logging.Handler):
    """A handler of an app."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_an_apps_own_handlers_get_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_loggers() as (root, ours):
        handler = Keeper()
        root.addHandler(handler)
        configure_logging("info")
        ours.info("to the app")
        assert handler.lines == ["to the app"]
        assert (root.handlers, root.level) == ([handler], logging.NOTSET)
        assert ours.handlers == []
        assert capsys.readouterr().err == ""


def test_a_level_that_the_app_has_set_stands() -> None:
    with fresh_loggers() as (_, ours):
        ours.setLevel(logging.ERROR)
        configure_logging("debug")
        assert ours.level == logging.ERROR


def test_loggers_that_dict_config_has_disabled_speak_again() -> None:
    with fresh_loggers() as (_, ours):
        child = logging.getLogger("vsgi_fcgi.app")
        stranger = logging.getLogger("vsgi_fcgi_stranger")
        for logger in (ours, child, stranger):
            logger.disabled = True
        configure_logging("info")
        assert not ours.disabled
        assert not child.disabled
        assert stranger.disabled
