"""The command line: an option for every field of `Options`, and what asks for information."""

from __future__ import annotations

import argparse
import sys
from argparse import Action, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass
from typing import Any, NoReturn

from vsgi_fcgi.cli.command import GROUPS, Command, nearest, option_name
from vsgi_fcgi.cli.commands import COMMANDS
from vsgi_fcgi.cli.kinds import Kind
from vsgi_fcgi.cli.options import SERVE
from vsgi_fcgi.exceptions import UsageError

PROGRAM = "vsgi-fcgi"

EXIT_STATUSES = {
    0: "every request was answered",
    1: "requests were cut off: the graceful timeout passed, or a second signal came",
    2: "something has to be mended first, and a sentence on stderr says what",
    130: "Ctrl-C before the server ran",
}
SHELLS = ("bash", "zsh", "tcsh")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the command line says.

    Attributes:
        command: what is to be done.
        given: values by the names of its fields; what was not said is absent.
        config: the configuration file; None if it is not named.
        action: what to do instead of serving: ``check_config``, ``print_config``, or None.
    """

    command: Command
    given: dict[str, Any]
    config: str | None
    action: str | None


def parse(argv: Sequence[str] | None, program: str | None = None) -> CommandLine:
    """Read the command line.

    Args:
        argv: the arguments without the program's name; None for those of the process.
        program: who reads it instead of the command, and has an app to serve.

    Raises:
        UsageError: something in it cannot be understood.
        SystemExit: after what gives information, such as ``--help``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(words[0], SERVE) if words and not program else SERVE
    del words[: 1 if command.name else 0]
    parser = make_parser(command, program)
    found: dict[str, Any] = {}
    if command.subject and words and not words[0].startswith("-"):
        found[command.subject] = words.pop(0)
    namespace, unknown = parser.parse_known_args(words)
    if unknown:
        if command.subject and command.subject not in found:
            subject = option_name(command.subject)
            raise UsageError(f"{subject} stands right behind {command.name}: {parser.usage}")
        _refuse(parser, unknown)
    return command_line(command, {**vars(namespace), **found})


def command_line(command: Command, found: Mapping[str, Any]) -> CommandLine:
    """What a command line says.

    Args:
        command: what is to be done.
        found: what the parser has found, and maybe more; the names of fields matter.
    """
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in found.items()
        if name in command.fields and value is not None
    }
    return CommandLine(command, given, found.get("config"), found.get("action"))


def _refuse(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """Say what is not understood, and what may have been meant.

    Raises:
        UsageError: always.
    """
    for argument in unknown:
        name = argument.partition("=")[0]
        if name.startswith("-"):
            near = nearest(name, parser._option_string_actions)
            advice = near or f"; {PROGRAM} --help lists the options"
            raise UsageError(f"there is no option {name}{advice}")
    one = "; only one APP is served" if parser.prog == PROGRAM else f"; {parser.prog} --help"
    raise UsageError(f"{unknown[0]} is one argument too many{one}")


def make_parser(command: Command = SERVE, program: str | None = None) -> argparse.ArgumentParser:
    """The parser; its help is the reference of all options of a command.

    Args:
        command: the command.
        program: who reads the command line instead, and has what is its argument.
    """
    argument = None if program else command.argument
    subject = f" {option_name(command.subject)}" if command.subject else ""
    program = program or " ".join(filter(None, (PROGRAM, command.name)))
    parser = _Parser(
        prog=program,
        usage=f"{program}{subject} [OPTIONS]{f' {option_name(argument)}' if argument else ''}",
        description=command.description,
        epilog=command.epilog,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    if argument:
        item, kind = command.fields[argument], command.kind(argument)
        name = option_name(item.name)
        parser.add_argument(item.name, metavar=name, nargs="?", help=_help(item, kind))
    _add_information(parser.add_argument_group("information"))
    add_settings(parser, command)
    return parser


def add_settings(parser: argparse.ArgumentParser, command: Command) -> None:
    """Add the options for all settings of a command, group by group.

    Args:
        parser: where to; its ``argument_default`` is to be SUPPRESS.
        command: the command.
    """
    titles = {name: parser.add_argument_group(title) for name, title in GROUPS.items()}
    for item in command.fields.values():
        if item.name not in (command.argument, command.subject):
            _add_setting(titles[item.metadata["group"]], item, command.kind(item.name))


def add_configuration(group: Any) -> None:
    """Add the options that have to do with the configuration as a whole."""
    group.add_argument(
        "--config", "-c", metavar="FILE", help="configuration file in TOML (pyproject.toml)"
    )
    for name, text in (
        ("check_config", "load the app, say what would be used, and leave"),
        ("print_config", "print all settings as a configuration file, and where each comes from"),
    ):
        group.add_argument(
            option_name(name), dest="action", action="store_const", const=name, help=text
        )


def _add_information(group: Any) -> None:
    group.add_argument("--help", "-h", action="help", help="show this and leave")
    group.add_argument(
        "--version", action=_Version, nargs=0, help="show the versions of all that takes part"
    )
    add_configuration(group)
    group.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=SHELLS,
        help="print the completion script for a shell; needs the extra completion",
    )


def _add_setting(group: Any, item: Field[Any], kind: Kind) -> None:
    metadata = item.metadata
    names = (option_name(item.name), *metadata["aliases"])
    text = _help(item, kind)
    if isinstance(item.default, bool):
        group.add_argument(*names, action=BooleanOptionalAction, help=text)
        return
    choices = metadata["choices"] or None
    group.add_argument(
        *names,
        action="append" if kind.many else "store",
        type=_converter(kind),
        choices=choices,
        metavar=None if choices else metadata["metavar"] or kind.metavar,
        help=text,
    )


def _converter(kind: Kind) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return kind.read(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None

    return convert


def _help(item: Field[Any], kind: Kind) -> str:
    text = str(item.metadata["help"]).replace("%", "%%")
    default = default_of(item, kind)
    return f"{text} (default: {default})" if default else text


def default_of(item: Field[Any], kind: Kind) -> str:
    """What a setting is when nothing is said; empty for nothing."""
    if item.metadata["default_text"]:
        return str(item.metadata["default_text"])
    if item.default is None or item.default == () or item.default is False:
        return ""
    return kind.show_all(item.default).strip('"')


def spelled(action: Action) -> str:
    """An option with its names and its value, as the help has it: ``--port, -p PORT``."""
    value = str(action.metavar or "")
    if action.choices:
        value = f"{{{','.join(action.choices)}}}"
    names = [name for name in action.option_strings if not name.startswith("--no-")]
    return " ".join(filter(None, (", ".join(names), value)))


class _Parser(argparse.ArgumentParser):
    """Reports what is wrong as every other part does, in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; {PROGRAM} --help lists the options")


class _HelpFormatter(argparse.HelpFormatter):
    """Names the value of an option once: ``--port, -p PORT``; and no ``--no-`` beside each."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _format_action_invocation(self, action: Action) -> str:
        return spelled(action)


class _Version(Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        from vsgi_fcgi.cli.versions import versions

        sys.stdout.write(f"{versions()}\n")
        parser.exit()


class _PrintCompletion(Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, shell: Any, *rest: object
    ) -> None:
        try:
            import shtab
        except ImportError:
            raise UsageError(
                "--print-completion needs the package shtab: pip install 'vsgi-fcgi[completion]'"
            ) from None
        files = {"FILE": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY}
        for action in parser._actions:
            if action.metavar in files:
                action.complete = files[action.metavar]  # type: ignore[attr-defined]
        sys.stdout.write(f"{shtab.complete(parser, shell)}\n")
        parser.exit()
