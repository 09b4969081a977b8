"""The command line's options: those of VSGI, and one for every field of `Config`."""

from __future__ import annotations

import argparse
import typing
from argparse import Action, ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, NoReturn

from vsgi_fcgi import __version__
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.addresses import Address, addresses_from_options
from vsgi_fcgi.server.config import Config

PROGRAM = "vsgi-fcgi"

_DESCRIPTION = "Serve a WSGI app to a web server that speaks FastCGI."
_APP_HELP = (
    "MODULE:NAME, MODULE:FACTORY() or PATH/FILE.py:NAME; without a NAME it is application, else app"
)
_EPILOG = (
    "Without an option of where to listen, the listening socket is descriptor 0, where a web"
    " server or spawn-fcgi puts it."
)


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line says.

    Attributes:
        app: the app's name, not looked at yet.
        config: the server's settings.
        addresses: where to listen; never empty.
        chdir: the folder to work in; None for the present one.
    """

    app: str
    config: Config
    addresses: list[Address]
    chdir: str | None


def parse(argv: Sequence[str] | None) -> Arguments:
    """Read the command line.

    Args:
        argv: the arguments without the program's name; None for those of the process.

    Raises:
        UsageError: something in it cannot be understood.
        SystemExit: after ``--help`` and ``--version``.
    """
    options = vars(make_parser().parse_args(argv))
    settings = {item.name: options.pop(item.name) for item in fields(Config)}
    app, chdir = options.pop("app"), options.pop("chdir")
    try:
        config = Config(**settings)
    except UsageError as error:
        raise UsageError(_with_option(str(error))) from error
    return Arguments(app, config, addresses_from_options(**options), chdir)


def make_parser() -> argparse.ArgumentParser:
    """The parser; its help is the reference of all options."""
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [OPTIONS] APP",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("app", metavar="APP", help=_APP_HELP)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "--chdir", metavar="DIR", help="work in this folder, from which the app is imported"
    )
    _add_addresses(parser)
    _add_settings(parser)
    return parser


def _add_addresses(parser: argparse.ArgumentParser) -> None:
    """Add VSGI's options by VSGI's names, and ``--bind``."""
    group = parser.add_argument_group("where to listen (options may be repeated and mixed)")

    def repeatable(*names: str, **settings: Any) -> None:
        group.add_argument(*names, action="append", default=[], **settings)

    repeatable(
        "--address",
        "-a",
        metavar="HOST[:PORT]",
        help="a TCP address; a HOST alone is combined with every --port",
    )
    repeatable(
        "--port",
        "-p",
        type=_whole_number,
        metavar="PORT",
        help="a port on loopback, IPv4 and IPv6; 0 is random",
    )
    repeatable("--socket", "-s", metavar="PATH", help="a UNIX socket")
    repeatable(
        "--file-descriptor",
        "-f",
        type=_whole_number,
        metavar="FD",
        help="a listening socket that the process was started with",
    )
    repeatable(
        "--bind",
        "-b",
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME (abstract) or fd://N",
    )
    for names, text in (
        (("--any", "-A"), "open --port on every interface and not on loopback alone"),
        (("--ipv4-only", "-4"), "leave IPv6 alone"),
        (("--ipv6-only", "-6"), "leave IPv4 alone"),
    ):
        group.add_argument(*names, action="store_true", help=text)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field of `Config`, under the heading of its group."""
    types = typing.get_type_hints(Config)
    groups: dict[str, Any] = {}
    for item in fields(Config):
        title = item.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        convert, metavar = _TYPES[types[item.name]]
        choices = item.metadata["choices"]
        groups[title].add_argument(
            option_name(item.name),
            type=convert,
            default=item.default,
            choices=choices or None,
            metavar=None if choices else metavar,
            help=_help(item),
        )


def option_name(field_name: str) -> str:
    """The option for a field of `Config`."""
    return f"--{field_name.replace('_', '-')}"


def _help(item: Field[Any]) -> str:
    text = str(item.metadata["help"]).replace("%", "%%")
    if item.default is None:
        return text
    default = f"{item.default:g}" if isinstance(item.default, float) else item.default
    return f"{text} (default: {default})"


def _with_option(message: str) -> str:
    """`Config` begins its messages with a field's name; people know the option's."""
    name, space, rest = message.partition(" ")
    known = any(item.name == name for item in fields(Config))
    return f"{option_name(name)}{space}{rest}" if known else message


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no number") from None


# For each type of a field in `Config`: what reads it, and what --help calls it.
_TYPES: dict[object, tuple[Callable[[str], Any], str]] = {
    int: (_whole_number, "N"),
    float: (_number, "SECONDS"),
    str: (str, "TEXT"),
    str | None: (str, "TEXT"),
}


class _Parser(argparse.ArgumentParser):
    """Reports what is wrong as every other part does, in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; {PROGRAM} --help lists the options")


class _HelpFormatter(argparse.HelpFormatter):
    """Names the value of an option once: ``--port, -p PORT``."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"
