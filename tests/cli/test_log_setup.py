from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import complaint, run_command, serve

from vsgi_fcgi.build import COMPILED
from vsgi_fcgi.cli.log_setup import configure_logging
from vsgi_fcgi.cli.settings.options import Options

pytestmark = pytest.mark.process


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
        configure_logging(Options())
        ours.info("listening on %s", "fcgi://127.0.0.1:9000/")
        ours.debug("not asked for")
        output = capsys.readouterr()
        assert output.out == ""
        stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
        line = rf"{stamp} {os.getpid()} INFO listening on fcgi://127\.0\.0\.1:9000/\n"
        assert re.fullmatch(line, output.err)


def test_configuring_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_loggers() as (_, ours):
        configure_logging(Options())
        configure_logging(Options())
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
        configure_logging(Options())
        ours.info("to the app")
        assert handler.lines == ["to the app"]
        assert (root.handlers, root.level) == ([handler], logging.NOTSET)
        assert ours.handlers == []
        assert capsys.readouterr().err == ""


def test_a_level_that_the_app_has_set_stands() -> None:
    with fresh_loggers() as (_, ours):
        ours.setLevel(logging.ERROR)
        configure_logging(Options(log_level="debug"))
        assert ours.level == logging.ERROR


def test_loggers_that_dict_config_has_disabled_speak_again() -> None:
    with fresh_loggers() as (_, ours):
        child = logging.getLogger("vsgi_fcgi.app")
        stranger = logging.getLogger("vsgi_fcgi_stranger")
        for logger in (ours, child, stranger):
            logger.disabled = True
        configure_logging(Options())
        assert not ours.disabled
        assert not child.disabled
        assert stranger.disabled


@pytest.mark.parametrize(
    "options",
    [Options(log_format="json"), Options(log_writer="standard-streams")],
    ids=["json", ""],
)
def test_what_is_asked_for_has_precedence_over_the_apps_handlers(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh_loggers() as (root, ours):
        handler = Keeper()
        root.addHandler(handler)
        ours.addHandler(handler)
        for _ in range(2):
            configure_logging(options)
        ours.warning("as asked")
        assert handler.lines == []
        assert root.handlers == [handler]
        assert capsys.readouterr().err.count("as asked") == 1


# The streams of a real process


APP = r"""
import logging.config
import threading

def app(environ, start_response):
    if environ["PATH_INFO"] == "/fails":
        raise LookupError("two\nlines")
    if environ["PATH_INFO"] == "/configures":
        logging.config.dictConfig({"version": 1})
    environ["wsgi.errors"].write("written by the app: \u00e4\udc80\n")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def test_by_default_all_goes_to_stderr(folder: Path) -> None:
    output = serve(folder, "app", paths=("/", "/fails"))
    assert (output.status, output.out) == (0, "")
    for text in ("INFO listening", "ERROR written by the app", "LookupError: two\n\tlines\n"):
        assert text in output.err


def test_standard_streams(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    output = serve(folder, "app", "--log-writer", "standard-streams")
    assert re.findall(r" (INFO|ERROR) (listening|stopped|written)", output.out) == [
        *(("INFO", "listening"), ("INFO", "stopped"))
    ]
    assert re.findall(r" (INFO|ERROR) (.*)", output.err) == [
        ("ERROR", r"written by the app: \xe4\udc80")
    ]


def test_what_stdout_cannot_encode_is_escaped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    path = folder / "s\u00f6cket"
    output = serve(folder, "app", "-s", str(path), "--log-writer", "standard-streams")
    assert rf"listening on fcgi+unix://{folder}/s\xf6cket" in output.out
    assert output.err.count("\n") == 1


def test_lines_of_json(folder: Path) -> None:
    output = serve(folder, "app", "--log-format", "json", paths=("/", "/fails"))
    lines = [json.loads(line) for line in output.err.splitlines()]
    assert output.err.isascii()
    assert [(line["level"], line["logger"]) for line in lines] == [
        *[("INFO", "vsgi_fcgi")] * 2,
        ("ERROR", "vsgi_fcgi.app"),
        *[("ERROR", "vsgi_fcgi")] * (len(lines) - 5),
        *[("INFO", "vsgi_fcgi")] * 2,
    ]
    assert lines[2]["message"] == "written by the app: \u00e4\udc80"
    (failure,) = [line for line in lines if "exception" in line]
    assert failure["exception"].endswith("LookupError: two\nlines")
    assert len({line["process"] for line in lines}) == 1


def test_a_format_string(folder: Path) -> None:
    form = "%(levelname).1s %(threadName)s %(filename)s %(funcName)s %(message)s"
    output = serve(folder, "app", "--threads", "1", "--log-format", form)
    lines = output.err.splitlines()
    assert re.fullmatch(r"I MainThread server.py _serve vsgi_fcgi .*", lines[0])
    assert re.fullmatch(r"I MainThread server.py _announce listening on .*", lines[1])
    # It is the thread that had something to say, and not the one that writes it.
    # A compiled function has no frame, so that the place is the app's.
    place = "app.py app" if COMPILED else "exchange.py write_error"
    assert re.fullmatch(rf"E vsgi-fcgi-\S+ {place} written by the app: .*", lines[2])


@pytest.mark.parametrize("worker", ["thread", "main"])
def test_a_late_dict_config_silences_nothing(folder: Path, worker: str) -> None:
    output = serve(folder, "app", "--worker", worker, paths=("/", "/configures", "/", "/fails"))
    assert output.err.count("written by the app") == 3
    for text in ("listening on", "LookupError: two", "INFO stopped"):
        assert text in output.err


@pytest.mark.parametrize("action", ["--check-config", "--any"])
def test_a_format_string_that_cannot_be_used_is_found_at_the_start(
    folder: Path, action: str
) -> None:
    assert complaint(
        folder, "app", action, "-p", "0", "--log-format", "%(levelnam)s %(message)s"
    ) == (
        "--log-format '%(levelnam)s %(message)s': a record has no attribute levelnam;"
        " did you mean levelname?"
    )


def test_checking_the_configuration_with_a_log(folder: Path) -> None:
    output = run_command(folder, "app", "--check-config", "--log-format", "json")
    assert (output.status, output.err) == (0, "")
