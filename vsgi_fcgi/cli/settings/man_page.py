"""Generate the manual page ``vsgi-fcgi(1)``, in man(7) macros, from the parsers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from vsgi_fcgi import __version__
from vsgi_fcgi.cli.commands import COMMANDS
from vsgi_fcgi.cli.settings.command import Command, option_name
from vsgi_fcgi.cli.settings.command_line import EXIT_STATUSES, PROGRAM, make_parser, spelled
from vsgi_fcgi.cli.settings.resolve import CONFIG_VARIABLE, PYPROJECT, TABLE

SIGNALS = (
    ("SIGTERM, SIGINT", "stop accepting, answer the running requests, then exit"),
    (
        "SIGHUP",
        "with --processes: reload the app; otherwise as SIGTERM, unless the app handles the signal"
        " or it is ignored, as under nohup",
    ),
    (
        "SIGUSR1",
        "reopen the log files, unless the app handles the signal; under multiwatch: stop",
    ),
    (
        "SIGUSR2",
        "with --record: write recordings of the connections that were active last, at most 20 of"
        " each process; otherwise only a line in the log, unless the app handles the signal",
    ),
    ("a second signal that stops", "exit immediately"),
)

_FILES = (
    (PYPROJECT, f"read from the working directory; only its table [tool.{TABLE}]"),
    ("FILE of --config", "settings in TOML, named like the options"),
)

ENVIRONMENT = (
    (
        "VSGI_FCGI_...",
        "each option, as in VSGI_FCGI_MAX_BODY_BYTES; commas separate the items of a list",
    ),
    (CONFIG_VARIABLE, "the configuration file"),
    ("FCGI_WEB_SERVER_ADDRS", "the only IP addresses that may connect by TCP, separated by commas"),
    ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", "sockets that systemd passes"),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "where to report the server's state to systemd"),
    ("TMPDIR", "folder for temporary files without --spool-dir"),
)


def manual() -> str:
    """Return the whole page."""
    parser = make_parser()
    others = [command for command in COMMANDS.values() if command.name]
    name = PROGRAM.replace("-", "\\-")
    parts = [
        f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM} {__version__}" "User Commands"',
        _section("NAME", f"{name} \\- serve a WSGI app over FastCGI"),
        _section("SYNOPSIS", "\n.br\n".join(_synopsis(command) for command in COMMANDS.values())),
        _section("DESCRIPTION", _text(f"{parser.description}\n{parser.epilog}")),
        ".SH OPTIONS",
        *_options(parser),
    ]
    for command in others:
        parts += [
            f".SH {_text(f'{PROGRAM} {command.name}'.upper())}",
            _text(f"{command.description}\n{command.epilog}"),
            *_options(make_parser(command), parser if command.base else None),
        ]
    parts.append(".SH EXIT STATUS")
    parts += [_entry(str(status), text) for status, text in EXIT_STATUSES.items()]
    for title, entries in (
        ("SIGNALS", SIGNALS),
        ("ENVIRONMENT", ENVIRONMENT),
        ("FILES", _FILES),
    ):
        parts += [f".SH {title}", *(_entry(term, text) for term, text in entries)]
    parts.append(".SH EXAMPLES")
    parts += [
        f"{_text(text)}:\n.PP\n.RS 4\n.EX\n{_text(f'{PROGRAM} {words}')}\n.EE\n.RE\n.PP"
        for command in COMMANDS.values()
        for text, words in ((item.text, item.words) for item in command.examples)
    ]
    parts.append(_section("SEE ALSO", ".BR lighttpd (8),\n.BR nginx (8),\n.BR spawn\\-fcgi (1)"))
    return "\n".join(parts) + "\n"


def _synopsis(command: Command) -> str:
    name = " ".join(filter(None, (PROGRAM, command.name))).replace("-", "\\-")
    argument = f" \\fI{option_name(command.argument)}\\fR" if command.argument else ""
    subject = f"\\fI{option_name(command.subject)}\\fR\n" if command.subject else ""
    return f".B {name}\n{subject}[\\fIOPTIONS\\fR]{argument}"


def _options(
    parser: argparse.ArgumentParser, shown: argparse.ArgumentParser | None = None
) -> Iterator[str]:
    """Yield the options of a parser, without those that the page already shows of another."""
    known = set() if shown is None else {spelled(item) for item in shown._actions}
    for group in parser._action_groups:
        actions = [
            item
            for item in group._group_actions
            if item.help != argparse.SUPPRESS and spelled(item) not in known
        ]
        if actions:
            title = group.title or ""
            yield f".SS {_text(title[:1].upper() + title[1:])}"
            for item in actions:
                yield _entry(spelled(item), (item.help or "").replace("%%", "%"))


def _section(title: str, body: str) -> str:
    return f".SH {title}\n{body}"


def _entry(term: str, text: str) -> str:
    return f".TP\n.B {_text(term)}\n{_text(text)}."


def _text(text: str) -> str:
    """Escape the characters that roff interprets: backslash, hyphen, a dot at a line's start."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"^\.", r"\\&.", escaped, flags=re.MULTILINE)
