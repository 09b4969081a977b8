"""Where the server's log goes when the app says nothing about it: to stderr."""

from __future__ import annotations

import logging
from datetime import datetime

_LOGGER = "vsgi_fcgi"


def configure_logging(level: str) -> None:
    """Set up the server's loggers, and nobody else's.

    If the app has given handlers to the root logger, or to ours, the records go there. Call it
    after the app is loaded.

    Args:
        level: the least severe level that is logged; one that the app has set for our logger
            stands.
    """
    logger = logging.getLogger(_LOGGER)
    # dictConfig disables the loggers that it finds, unless it is told not to (Django passes its
    # LOGGING on as it is). That is meant for the app's loggers: a server must not go mute.
    for name in list(logging.root.manager.loggerDict):
        if name == _LOGGER or name.startswith(f"{_LOGGER}."):
            logging.getLogger(name).disabled = False
    if logger.level == logging.NOTSET:
        logger.setLevel(level.upper())
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    logger.addHandler(handler)
    # An app that sets up the root logger only at its first request must not double every line.
    logger.propagate = False


class _Formatter(logging.Formatter):
    """Writes times as ISO 8601 has them, with milliseconds and the offset from UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """The time of a record; ``datefmt`` has no say."""
        moment = datetime.fromtimestamp(record.created).astimezone()
        return moment.isoformat(timespec="milliseconds")
