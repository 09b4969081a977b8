"""Everything that the command can be told: the settings of the server, and those of a process.

The fields of `Options`, those of `Config` among them, are the one place where an option has its
name, its type, its default and its help. The command line, the environment variables, the
configuration file, ``--print-config``, the manual page and the reference are made from them.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from vsgi_fcgi.addresses import Address, addresses_from_options
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.settings import Octal, setting

GROUPS = {
    "listening": "where to listen (options may be repeated and mixed)",
    "server": "server",
    "process": "process",
    "logging": "logging",
    "development": "development (never in production)",
    "timeouts": "timeouts",
    "limits": "limits",
}
"""The headings of ``--help``, in its order."""

LISTENING = ("address", "port", "socket", "file_descriptor", "bind")
"""The options that name addresses: who says one of them says all."""

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_WRITERS = ("default", "standard-streams", "journald")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Config):
    """What the command is told.

    Raises:
        UsageError: a value is out of its bounds; the message begins with the field's name.
    """

    app: str | None = setting(
        None,
        "MODULE:NAME, MODULE:FACTORY() or PATH/FILE.py:NAME; without a NAME it is application,"
        " else app",
        group="app",
        metavar="APP",
    )

    address: tuple[str, ...] = setting(
        (),
        "a TCP address; a HOST alone is combined with every --port",
        group="listening",
        metavar="HOST[:PORT]",
        aliases=("-a",),
    )
    port: tuple[int, ...] = setting(
        (),
        "a port on loopback, IPv4 and IPv6; 0 is random",
        group="listening",
        metavar="PORT",
        aliases=("-p",),
    )
    socket: tuple[str, ...] = setting(
        (), "a UNIX socket", group="listening", metavar="PATH", aliases=("-s",)
    )
    file_descriptor: tuple[int, ...] = setting(
        (),
        "a listening socket that the process was started with",
        group="listening",
        metavar="FD",
        aliases=("-f",),
    )
    bind: tuple[str, ...] = setting(
        (),
        "HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME (abstract), fd://N, or systemd:NAME for"
        " sockets that systemd passes (systemd: for all of them)",
        group="listening",
        metavar="ADDRESS",
        aliases=("-b",),
    )
    any: bool = setting(
        False,
        "open --port on every interface and not on loopback alone",
        group="listening",
        aliases=("-A",),
    )
    ipv4_only: bool = setting(False, "leave IPv6 alone", group="listening", aliases=("-4",))
    ipv6_only: bool = setting(False, "leave IPv4 alone", group="listening", aliases=("-6",))

    chdir: str | None = setting(
        None,
        "work in this folder, from which the app is imported",
        group="process",
        metavar="DIR",
    )
    user: str | None = setting(
        None,
        "become this user, by name or number, once the sockets are open; needs root",
        group="process",
        metavar="USER",
    )
    group: str | None = setting(
        None,
        "become this group, by name or number",
        group="process",
        metavar="GROUP",
        default_text="the user's own",
    )
    umask: Octal | None = setting(
        None,
        "permissions that files made by the app do not get, in octal",
        group="process",
        least=0,
        most=0o777,
        metavar="MODE",
    )
    pid_file: str | None = setting(
        None,
        "file that holds the process id while the server runs; one of a live process is refused",
        group="process",
        metavar="FILE",
    )
    proc_name: str | None = setting(
        None,
        "name of the process in ps and top; needs the extra proc-name",
        group="process",
        metavar="NAME",
    )

    log_level: str = setting(
        "info", "the least severe messages that are logged", group="logging", choices=LOG_LEVELS
    )
    log_format: str = setting(
        "text",
        "text, json (one object a line), or a format string of Python's logging",
        group="logging",
        metavar="FORMAT",
    )
    log_writer: str = setting(
        "default",
        "where the log goes: stderr; debug and info to stdout, the rest to stderr; or systemd's"
        " journal, with its own fields (needs the extra journald)",
        group="logging",
        choices=LOG_WRITERS,
    )
    log_config: str | None = setting(
        None,
        "file for logging.config.dictConfig, TOML or JSON; it replaces the other options of the"
        " log",
        group="logging",
        metavar="FILE",
    )

    reload: bool = setting(
        False,
        "restart the app when a file that it has imported changes; needs the extra reload",
        group="development",
        aliases=("--live-reload",),
    )
    reload_extra: tuple[str, ...] = setting(
        (),
        "a file or folder whose changes restart the app too, such as templates",
        group="development",
        metavar="PATH",
    )
    debug: bool = setting(
        False,
        "show errors in werkzeug's debugger, which lets whoever sees it run code; needs the extra"
        " debug",
        group="development",
    )

    @property
    def names_an_address(self) -> bool:
        """Whether anything was said of where to listen."""
        return bool(self.address or self.port or self.socket or self.file_descriptor or self.bind)

    def addresses(self) -> list[Address]:
        """Where to listen; descriptor 0 if nothing was said.

        Raises:
            UsageError: something cannot be read, or two options contradict each other.
        """
        return addresses_from_options(
            address=self.address,
            port=self.port,
            socket=self.socket,
            file_descriptor=self.file_descriptor,
            bind=self.bind,
            any=self.any,
            ipv4_only=self.ipv4_only,
            ipv6_only=self.ipv6_only,
        )


_OF_THE_SERVER = {item.name for item in fields(Config)}

OPTIONS: dict[str, Field[Any]] = {
    item.name: item
    for group in ("app", *GROUPS)
    for item in sorted(fields(Options), key=lambda item: item.name in _OF_THE_SERVER)
    if item.metadata["group"] == group
}
"""All fields of `Options` by their names, group by group as ``--help`` has them."""

TYPES: dict[str, Any] = typing.get_type_hints(Options, include_extras=True)
"""The types of the fields."""


def option_name(field_name: str) -> str:
    """The option of the command line for a field."""
    return "APP" if field_name == "app" else f"--{key_name(field_name)}"


def key_name(field_name: str) -> str:
    """The key of the configuration file for a field."""
    return field_name.replace("_", "-")


def variable_name(field_name: str) -> str:
    """The environment variable for a field."""
    return f"VSGI_FCGI_{field_name.upper()}"


def nearest(name: str, names: Iterable[str]) -> str:
    """``; did you mean ...?`` with the known name that is nearest, or nothing."""
    # Above the usual cutoff: what all names begin with (--, VSGI_FCGI_) is no likeness.
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    return f"; did you mean {matches[0]}?" if matches else ""


def make_options(given: Mapping[str, Any], labels: Mapping[str, str]) -> Options:
    """The options with these values, and their defaults for the rest.

    Args:
        given: values by the names of the fields.
        labels: for each of them, what an error message calls it, such as ``--threads``.

    Raises:
        UsageError: a value is out of its bounds.
    """
    try:
        return Options(**given)
    except UsageError as error:
        # The messages of `Config` begin with the field's name.
        name, space, rest = str(error).partition(" ")
        raise UsageError(f"{labels.get(name, name)}{space}{rest}") from error
