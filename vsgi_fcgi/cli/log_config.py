"""A file for `logging.config.dictConfig`."""

from __future__ import annotations

import json
import logging.config
import os
import tomllib
from typing import Any

from vsgi_fcgi.exceptions import UsageError


def apply_log_config(path: str) -> None:
    """Set up `logging` as a file says.

    Loggers that the file does not name stay as they are, unless it has
    ``disable_existing_loggers``: when it is read, the app has long made its own.

    Args:
        path: a file in TOML or JSON.

    Raises:
        UsageError: it cannot be read, or does not describe what can be set up.
    """
    settings = {"disable_existing_loggers": False, **_read(path)}
    try:
        logging.config.dictConfig(settings)
    except Exception as error:
        # It raises whatever a class of a handler raises, and stumbles over wrong types.
        raise UsageError(f"the log configuration {path} cannot be used: {_chain(error)}") from error


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise UsageError(f"the log configuration {path} cannot be read: {reason}") from error
    # No table of TOML begins with a brace.
    is_json = path.endswith(".json") or text.lstrip().startswith("{")
    try:
        found = json.loads(text) if is_json else tomllib.loads(text)
    except ValueError as error:
        kind = "JSON" if is_json else "TOML"
        raise UsageError(f"the log configuration {path} is not {kind}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"the log configuration {path} is no object of JSON")
    return found


def _chain(error: BaseException) -> str:
    """What went wrong, and why: dictConfig says which handler, and its cause what is wrong."""
    sentences = []
    cause: BaseException | None = error
    while cause is not None:
        sentences.append(str(cause) or type(cause).__name__)
        cause = cause.__cause__
    return ": ".join(dict.fromkeys(" ".join(sentence.split()) for sentence in sentences))
