"""The command line that starts a server as a configuration says, from any folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Container
from typing import Any

from vsgi_fcgi.addresses import UnixAddress, parse_bind
from vsgi_fcgi.cli.arguments import PROGRAM
from vsgi_fcgi.cli.command import option_name, variable_name
from vsgi_fcgi.cli.configuration import DEFAULT, Configuration
from vsgi_fcgi.cli.options import SERVE


def program_words() -> list[str]:
    """What starts the command that runs now, from any folder."""
    started_as = sys.argv[0]
    if os.path.basename(started_as) == PROGRAM and os.path.isfile(started_as):
        return [os.path.abspath(started_as)]
    beside = os.path.join(os.path.dirname(sys.executable), PROGRAM)
    if os.path.isfile(beside):
        return [beside]
    return [sys.executable, "-m", "vsgi_fcgi"]


def command_words(
    configuration: Configuration, folder: str, without: Container[str] = ()
) -> list[str]:
    """The words behind the program's name.

    What the command line and the environment say becomes options. A file that says something is
    named: it may be one that was found where the server is not to work.

    Args:
        configuration: all settings.
        folder: where the server works.
        without: fields that are left out.
    """
    said = {DEFAULT, *map(option_name, SERVE.fields), *map(variable_name, SERVE.fields)}
    files = {origin for name, origin in configuration.origins.items() if name in SERVE.fields}
    words = [word for file in files - said for word in ("--config", os.path.abspath(file))]
    words += ["--chdir", folder]
    for name in SERVE.fields:
        if name not in ("app", "chdir") and name not in without and is_said(configuration, name):
            value = getattr(configuration.options, name)
            for item in value if isinstance(value, tuple) else [value]:
                words += _option(name, item, folder)
    return [*words, configuration.options.app] if is_said(configuration, "app") else words


def is_said(configuration: Configuration, name: str) -> bool:
    """Whether the command line or the environment says it, and no file does."""
    return configuration.origins[name] in (option_name(name), variable_name(name))


def _option(name: str, value: Any, folder: str) -> list[str]:
    option = option_name(name)
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    text = _text(name, value, folder)
    # What begins with a dash is taken for an option, but for a dash alone.
    return [f"{option}={text}"] if text.startswith("-") and text != "-" else [option, text]


def _text(name: str, value: Any, folder: str) -> str:
    if isinstance(value, float):
        return f"{value:.15g}"
    if SERVE.kind(name).metavar == "MODE":
        return f"{value:04o}"
    if name == "socket" and not value.startswith("@"):
        return os.path.join(folder, value)
    if name == "bind":
        address = parse_bind(value)
        if isinstance(address, UnixAddress):
            return f"unix:{os.path.join(folder, address.path)}"
    if name == "script_name":
        # An empty word is lost in places where words are parted at blanks.
        return value or "/"
    return str(value)
