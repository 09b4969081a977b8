"""Where the server's log goes, and what it looks like there."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from vsgi_fcgi.cli.arguments import PROGRAM
from vsgi_fcgi.cli.log_config import apply_log_config
from vsgi_fcgi.cli.log_formats import make_formatter
from vsgi_fcgi.cli.options import ProcessOptions

_LOGGER = "vsgi_fcgi"


def configure_logging(options: ProcessOptions) -> None:
    """Set up the server's logger, and nobody else's, unless a file says otherwise.

    As long as neither a writer nor a format is asked for, handlers that the app has given to the
    root logger, or to ours, get the records. A level that the app has set for our logger stands.
    Call it after the app is loaded.

    Args:
        options: `log_level`, `log_format`, `log_writer`, `log_config` and `proc_name` count.

    Raises:
        UsageError: what is asked for cannot be had.
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
    # An app that sets up the root logger only at its first request must not double every line.
    logger.propagate = False


def _enable_loggers() -> None:
    """Let our loggers speak that a dictConfig has disabled, as `vsgi_fcgi.server.log` does later.

    It disables those that it finds and that it is not told of, unless it is told not to.
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
        # Not above: it loads gevent, and a CGI program does without.
        from vsgi_fcgi.cli.journal import JournalHandler

        journal = JournalHandler(options.proc_name or PROGRAM, fallback=stderr)
        # The journal itself knows when, who and how severe.
        journal.setFormatter(make_formatter(options.log_format, plain="%(message)s"))
        return [journal]
    return [stderr]


class _StdoutHandler(logging.StreamHandler[TextIO]):
    """Escapes what stdout cannot encode, as stderr does by itself."""

    def format(self, record: logging.LogRecord) -> str:
        encoding = getattr(self.stream, "encoding", None) or "ascii"
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)
