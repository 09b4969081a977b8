"""Set up `logging` for the server: destination, format and level."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, TextIO

from vsgi_fcgi.cli.settings.command_line import PROGRAM
from vsgi_fcgi.cli.settings.options import ProcessOptions
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.log.handlers import make_formatter

# A file for `logging.config.dictConfig`.


def apply_log_config(path: str) -> None:
    """Set up `logging` from a file.

    Loggers that the file does not name stay enabled unless the file sets
    ``disable_existing_loggers``, because the app has made its loggers before the file is read.

    Args:
        path: a file in TOML or JSON.

    Raises:
        UsageError: the file cannot be read, or `logging.config.dictConfig` refuses it.
    """
    import logging.config  # with pickle, socketserver and more, for this option only

    settings = {"disable_existing_loggers": False, **_read(path)}
    try:
        logging.config.dictConfig(settings)
    except Exception as error:
        # dictConfig lets every exception of a handler class through, and fails on wrong types.
        raise UsageError(f"--log-config {path}: {_chain(error)}; correct the file") from error


def _read(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise UsageError(f"--log-config {path} cannot be read: {reason}") from error
    # A TOML document never begins with a brace.
    is_json = path.endswith(".json") or text.lstrip().startswith("{")
    try:
        found = json.loads(text) if is_json else tomllib.loads(text)
    except ValueError as error:
        kind = "JSON" if is_json else "TOML"
        raise UsageError(f"--log-config {path} is not valid {kind}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--log-config {path} is not a JSON object; begin it with a brace")
    return found


def _chain(error: BaseException) -> str:
    """Return the messages of an error and its causes: which handler failed, and why."""
    sentences = []
    cause: BaseException | None = error
    while cause is not None:
        sentences.append(str(cause) or type(cause).__name__)
        cause = cause.__cause__
    return ": ".join(dict.fromkeys(" ".join(sentence.split()) for sentence in sentences))


_LOGGER = "vsgi_fcgi"


def configure_logging(options: ProcessOptions) -> None:
    """Set up the server's logger, or all loggers if there is a file for that.

    If the app has added handlers to the root logger or to ours, they get the records unless the
    options name a writer or a format. A level that the app set for our logger is kept. Call this
    after the app is loaded.

    Args:
        options: uses `log_level`, `log_format`, `log_writer`, `log_config` and `proc_name`.

    Raises:
        UsageError: the log cannot be set up as the options say.
    """
    if options.log_config is not None:
        apply_log_config(options.log_config)
        _enable_loggers()
        return
    _enable_loggers()
    logger = logging.getLogger(_LOGGER)
    asked = options.log_writer != "default" or options.log_format != "text"
    handlers = _make_handlers(options)
    if logger.level == logging.NOTSET:
        logger.setLevel(options.log_level.upper())
    if logger.hasHandlers() and not asked:
        return
    logger.handlers[:] = handlers
    # Otherwise each line appears twice if the app sets up the root logger at its first request.
    logger.propagate = False


def _enable_loggers() -> None:
    """Enable our loggers, which a dictConfig of the app may have disabled.

    By default dictConfig disables every existing logger that it does not name.
    `vsgi_fcgi.log.log` does the same for its loggers later.
    """
    for name in list(logging.root.manager.loggerDict):
        if name == _LOGGER or name.startswith(f"{_LOGGER}."):
            logging.getLogger(name).disabled = False


def _make_handlers(options: ProcessOptions) -> list[logging.Handler]:
    stderr = logging.StreamHandler()
    stderr.setFormatter(make_formatter(options.log_format))
    if options.log_writer == "standard-streams":
        stdout = _StdoutHandler(sys.stdout)
        stdout.setFormatter(stderr.formatter)
        stdout.addFilter(lambda record: record.levelno < logging.WARNING)
        stderr.setLevel(logging.WARNING)
        return [stdout, stderr]
    if options.log_writer == "journald":
        # Imported here because it loads gevent, which a CGI program does not need.
        from vsgi_fcgi.log.handlers import JournalHandler

        journal = JournalHandler(options.proc_name or PROGRAM, fallback=stderr)
        # The journal has its own fields for time, process and severity.
        journal.setFormatter(make_formatter(options.log_format, plain="%(message)s", whole=True))
        return [journal]
    return [stderr]


class _StdoutHandler(logging.StreamHandler[TextIO]):
    """Escapes characters that stdout cannot encode, as stderr always does."""

    def format(self, record: logging.LogRecord) -> str:
        encoding = getattr(self.stream, "encoding", None) or "ascii"
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)
