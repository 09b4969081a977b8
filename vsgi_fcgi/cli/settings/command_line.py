"""The command line: its parser, with an option for each setting, and its ``--help``."""

from __future__ import annotations

import argparse
import sys
import textwrap
from argparse import Action, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field
from typing import Any, NamedTuple, NoReturn

from vsgi_fcgi.cli.commands import COMMANDS, SERVE
from vsgi_fcgi.cli.settings.command import GROUPS, Command, Converter, option_name
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.settings import nearest

PROGRAM = "vsgi-fcgi"

EXIT_STATUSES = {
    0: "every request was answered",
    1: "requests were aborted: the graceful timeout passed, or a second signal came",
    2: "the command could not start; a message on stderr says what to fix",
    130: "Ctrl-C before the server ran",
}
SHELLS = ("bash", "zsh", "tcsh")


class CommandLine(NamedTuple):
    """A parsed command line.

    Attributes:
        command: the command to run.
        given: values by the names of the command's fields; only those that were given.
        config: the configuration file; None if none was named.
        action: ``check_config`` or ``print_config`` to do that instead of serving, else None.
    """

    command: Command
    given: dict[str, Any]
    config: str | None
    action: str | None


def parse(argv: Sequence[str] | None, program: str | None = None) -> CommandLine:
    """Parse the command line.

    Args:
        argv: the arguments without the program's name; None for those of the process.
        program: another program that takes the server's options and has an app of its own, such
            as ``flask fcgi``.

    Raises:
        UsageError: the command line is not valid.
        SystemExit: after an option that prints information, such as ``--help``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(words[0], SERVE) if words and not program else SERVE
    del words[: 1 if command.name else 0]
    found: dict[str, Any] = {}
    subject = None
    if command.subject and words and not words[0].startswith("-"):
        subject = found[command.subject] = words.pop(0)
    parser = make_parser(command, program, subject)
    namespace, unknown = parser.parse_known_args(words)
    if unknown:
        if command.subject and subject is None:
            name = option_name(command.subject)
            raise UsageError(f"{name} must follow {command.name} directly: {parser.usage}")
        _refuse(parser, unknown, vars(namespace).get("app") if command is SERVE else None)
    return command_line(command, {**vars(namespace), **found})


def command_line(command: Command, found: Mapping[str, Any]) -> CommandLine:
    """Return the `CommandLine` of parsed arguments.

    Args:
        command: the command to run.
        found: what the parser found. Names that are not fields of the command are ignored.
    """
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in found.items()
        if name in command.fields and value is not None
    }
    return CommandLine(command, given, found.get("config"), found.get("action"))


_PROCESSES = (
    "; write --processes N, and --threads for the number of requests that each process runs at once"
)
_TIMEOUT = "; see --request-timeout, --receive-timeout, --send-timeout and --graceful-timeout"
_ACCESS_LOG = "; write --access-log FILE, or - for standard output"
_RELOAD = "; write --reload"
_OF_OTHERS: Mapping[str, str] = {
    "--workers": _PROCESSES,
    "--worker-class": "; write --worker thread or --worker main",
    "--worker-connections": "; write --max-connections",
    "--numprocs": _PROCESSES,
    "--timeout": _TIMEOUT,
    "--timeout-keep-alive": _TIMEOUT,
    "--timeout-graceful-shutdown": "; write --graceful-timeout",
    "--keep-alive": _TIMEOUT,
    "--channel-timeout": _TIMEOUT,
    "--harakiri": "; write --request-timeout",
    "--limit-concurrency": "; write --threads, and --max-queued for waiting requests",
    "--connection-limit": "; write --max-connections",
    "--access-logfile": _ACCESS_LOG,
    "--error-logfile": "; the log goes to stderr: see --log-writer and --log-config",
    "--logto": "; the log goes to stderr: see --log-writer and --log-config",
    "--pid": "; write --pid-file FILE",
    "--pidfile": "; write --pid-file FILE",
    "--uid": "; write --user USER",
    "--gid": "; write --group GROUP",
    "--name": "; write --proc-name NAME",
    "--daemon": "; the server stays in the foreground; let systemd or the web server start it",
    "--daemonize": "; the server stays in the foreground; let systemd or the web server start it",
    "--host": "; write --address HOST",
    "--listen": "; write --bind ADDRESS",
    "--uds": "; write --socket PATH",
    "--unix-socket": "; write --socket PATH",
    "--unix-socket-perms": "; write --socket-mode MODE",
    "--fd": "; write --file-descriptor FD",
    "--http-socket": "; write --http HOST:PORT",
    "--fastcgi-socket": "; write --bind ADDRESS",
    "--wsgi-file": "; give the file as APP: FILE.py:NAME",
    "--wsgi": "; give the app as APP: MODULE:NAME",
    "--module": "; give the app as APP: MODULE:NAME",
    "--app-dir": "; write --chdir DIR",
    "--pythonpath": "; set PYTHONPATH, or write --chdir DIR",
    "--root-path": "; write --script-name PATH",
    "--url-prefix": "; write --script-name PATH",
    "--py-autoreload": _RELOAD,
}
"""Options of gunicorn, uWSGI, uvicorn, waitress and flup, with the advice for each."""


def _refuse(parser: argparse.ArgumentParser, unknown: Sequence[str], app: str | None) -> NoReturn:
    """Report an unknown argument, and suggest the option or the command that may have been meant.

    Args:
        parser: the parser.
        unknown: the arguments that it does not know.
        app: the app that was given; it may be a command with a spelling mistake.

    Raises:
        UsageError: always.
    """
    for argument in unknown:
        name = argument.partition("=")[0]
        if name.startswith("-"):
            near = nearest(name, parser._option_string_actions)
            advice = _OF_OTHERS.get(name) or near or f"; see {parser.prog} --help"
            raise UsageError(f"{name}: there is no such option{advice}")
    advice = "give only one APP" if parser.prog == PROGRAM else f"see {parser.prog} --help"
    advice += nearest(app, filter(None, COMMANDS)) if app else ""
    raise UsageError(f"{unknown[0]}: unexpected argument; {advice}")


def make_parser(
    command: Command = SERVE, program: str | None = None, subject: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a command. Its help is the reference of the command's options.

    Args:
        command: the command.
        program: another program that takes the server's options and has an app of its own.
        subject: the subject that was given; the help shows what concerns it.
    """
    shown = command.help_for(subject)
    name = program or " ".join(filter(None, (PROGRAM, command.name, subject if shown else None)))
    placeholder = option_name(command.subject) if command.subject and not shown else ""
    argument = None if program else command.argument
    words = (name, placeholder, "[OPTIONS]", option_name(argument) if argument else "")
    usage = " ".join(filter(None, words))
    lists_commands = command is SERVE and program is None
    if lists_commands:
        names = ",".join(filter(None, COMMANDS))
        usage += f"\n       {name} {{{names}}} ..."
    parser = _Parser(
        prog=name,
        usage=usage,
        description=command.description if shown is None else shown.description,
        epilog=command.epilog if shown is None else shown.epilog,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    if command.subject and placeholder:
        # Only for the help: `parse` takes the subject from the command line itself.
        item, converter = command.fields[command.subject], command.converter(command.subject)
        text = _help(item, converter)
        parser._positionals._group_actions.append(Action([], "", metavar=placeholder, help=text))
    if argument:
        item, converter = command.fields[argument], command.converter(argument)
        metavar = option_name(item.name)
        parser.add_argument(item.name, metavar=metavar, nargs="?", help=_help(item, converter))
    if lists_commands:
        _list_commands(parser)
    _add_information(parser.add_argument_group("information"), command)
    add_settings(parser, command, None if shown is None else shown.fields)
    return parser


def _list_commands(parser: argparse.ArgumentParser) -> None:
    """Add the other commands to the help. `parse` handles them itself, before any parser."""
    group = parser.add_argument_group("commands (each has a --help of its own)")
    for command in COMMANDS.values():
        if command.name:
            words = [command.name, *([option_name(command.subject)] if command.subject else [])]
            item = Action([], command.name, metavar=" ".join(words), help=command.summary)
            group._group_actions.append(item)


def add_settings(
    parser: argparse.ArgumentParser, command: Command, shown: Collection[str] | None = None
) -> None:
    """Add an option for each setting of a command, group by group.

    Args:
        parser: the parser, whose ``argument_default`` must be SUPPRESS.
        command: the command.
        shown: names of the fields that the help shows; None for all.
    """
    titles = {name: parser.add_argument_group(title) for name, title in GROUPS.items()}
    for name, item in command.fields.items():
        if name not in (command.argument, command.subject):
            hidden = shown is not None and name not in shown
            _add_setting(titles[item.metadata["group"]], item, command.converter(name), hidden)


def add_configuration(group: Any, *, validates: bool = True) -> None:
    """Add the options that concern the configuration as a whole.

    Args:
        group: the group of the parser.
        validates: whether the help shows ``--check-config`` and ``--print-config``.
    """
    group.add_argument(
        "--config", "-c", metavar="FILE", help="TOML file with settings (default: pyproject.toml)"
    )
    for name, text in (
        ("check_config", "load the app, validate the configuration and exit"),
        (
            "print_config",
            "print all settings and their sources as a configuration file and exit",
        ),
    ):
        group.add_argument(
            option_name(name),
            dest="action",
            action="store_const",
            const=name,
            help=text if validates else argparse.SUPPRESS,
        )


def _add_information(group: Any, command: Command) -> None:
    group.add_argument("--help", "-h", action="help", help="show this help and exit")
    group.add_argument(
        "--version", action=_Version, nargs=0, help="show version information and exit"
    )
    add_configuration(group, validates=command.validates)
    group.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=SHELLS,
        help="print a completion script for a shell and exit; needs the extra completion",
    )


def _add_setting(group: Any, item: Field[Any], converter: Converter, hidden: bool) -> None:
    metadata = item.metadata
    names = (option_name(item.name), *metadata["aliases"])
    text = argparse.SUPPRESS if hidden else _help(item, converter)
    if isinstance(item.default, bool):
        group.add_argument(*names, action=BooleanOptionalAction, help=text)
        return
    choices = metadata["choices"] or None
    group.add_argument(
        *names,
        action="append" if converter.repeated else "store",
        type=_type(converter),
        choices=choices,
        metavar=None if choices else metadata["metavar"] or converter.metavar,
        help=text,
    )


def _type(converter: Converter) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return converter.parse(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None

    return convert


def _help(item: Field[Any], converter: Converter) -> str:
    text = str(item.metadata["help"]).replace("%", "%%")
    default = default_of(item, converter)
    return f"{text} (default: {default})" if default else text


def default_of(item: Field[Any], converter: Converter) -> str:
    """Return the default of a setting as text; empty if there is none."""
    if item.metadata["default_text"]:
        return str(item.metadata["default_text"])
    if item.default is None or item.default == () or item.default is False:
        return ""
    return converter.all_to_toml(item.default).strip('"')


def spelled(action: Action) -> str:
    """Return an option with its names and its value as in the help: ``--port, -p PORT``."""
    value = str(action.metavar or "")
    if action.choices:
        value = f"{{{','.join(action.choices)}}}"
    names = [name for name in action.option_strings if not name.startswith("--no-")]
    return " ".join(filter(None, (", ".join(names), value)))


class _Parser(argparse.ArgumentParser):
    """Raises UsageError for a wrong argument, as all other code does."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


class _HelpFormatter(argparse.HelpFormatter):
    """Shows the value of an option once, ``--port, -p PORT``, and omits the ``--no-`` forms."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _format_action_invocation(self, action: Action) -> str:
        return spelled(action)

    def _split_lines(self, text: str, width: int) -> list[str]:
        # The name of an option or of a package must not be split at a hyphen.
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in self._split_lines(text, width - len(indent)))


class _Version(Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
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
                "--print-completion: shtab is missing; run pip install 'vsgi-fcgi[completion]'"
            ) from None
        files = {"FILE": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY}
        for action in parser._actions:
            if action.metavar in files:
                action.complete = files[action.metavar]  # type: ignore[attr-defined]
            elif not action.option_strings and parser.prog == PROGRAM:
                # The first word is a command or an app, and only commands can be completed.
                action.choices = [*filter(None, COMMANDS)]
        sys.stdout.write(f"{shtab.complete(parser, shell)}\n")
        parser.exit()


def versions() -> str:
    """Return one line: version and build of the server, and versions of what it runs on."""
    import platform
    from importlib.metadata import version

    from vsgi_fcgi import __version__
    from vsgi_fcgi.build import BUILD

    parts = [BUILD, f"Python {platform.python_version()}"]
    parts += [f"{name} {version(name)}" for name in ("gevent", "httptools", "werkzeug")]
    return f"vsgi-fcgi {__version__} ({', '.join(parts)})"
