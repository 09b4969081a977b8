"""The manual page ``vsgi-fcgi(1)``, in the macros of man(7), made from the parser of options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from vsgi_fcgi import __version__
from vsgi_fcgi.cli.arguments import EXIT_STATUSES, PROGRAM, make_parser, spelled
from vsgi_fcgi.cli.command import Command, option_name
from vsgi_fcgi.cli.commands import COMMANDS
from vsgi_fcgi.cli.sources import CONFIG_VARIABLE, PYPROJECT, TABLE

SIGNALS = (
    ("SIGTERM, SIGINT", "stop: accept no more, answer what was asked, then leave"),
    ("SIGUSR1", "the same, unless the app handles it or it is ignored"),
    ("one of them once more", "leave at once"),
)

_FILES = (
    (PYPROJECT, f"its table [tool.{TABLE}] is read if it stands in the working folder"),
    ("FILE of --config", "settings in TOML, by the names of the options"),
)

ENVIRONMENT = (
    (
        "VSGI_FCGI_...",
        "each option, as in VSGI_FCGI_MAX_BODY_BYTES; commas part the items of a list",
    ),
    (CONFIG_VARIABLE, "the configuration file"),
    ("FCGI_WEB_SERVER_ADDRS", "the only IP addresses that may connect by TCP, parted by commas"),
    ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", "sockets that systemd passes"),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "where systemd is told of the server's state"),
    ("TMPDIR", "the folder for temporary files, if --spool-dir names none"),
)


def manual() -> str:
    """The whole page."""
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
    """The options of a parser, but for those of another one that the page has already."""
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
    """Escape what roff would take for its own: backslashes, hyphens, a dot that begins a line."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"^\.", r"\\&.", escaped, flags=re.MULTILINE)
