"""The manual page ``vsgi-fcgi(1)``, in the macros of man(7), made from the parser of options."""

from __future__ import annotations

import argparse
import re

from vsgi_fcgi import __version__
from vsgi_fcgi.cli.arguments import EXIT_STATUSES, PROGRAM, make_parser, spelled
from vsgi_fcgi.cli.sources import CONFIG_VARIABLE, PYPROJECT, TABLE

SIGNALS = (
    ("SIGTERM, SIGINT", "stop: accept no more, answer what was asked, then leave"),
    ("the same once more", "leave at once"),
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

_EXAMPLES = (
    ("Serve app of the module mysite on the descriptor 0 of a web server", "mysite:app"),
    ("Listen for nginx", "mysite:app --bind unix:/run/mysite.sock --socket-group www-data"),
    ("Say what would be used", "mysite:app --config /etc/mysite.toml --check-config"),
)


def manual() -> str:
    """The whole page."""
    parser = make_parser()
    name = PROGRAM.replace("-", "\\-")
    parts = [
        f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM} {__version__}" "User Commands"',
        _section("NAME", f"{name} \\- serve a WSGI app over FastCGI"),
        _section("SYNOPSIS", f".B {name}\n[\\fIOPTIONS\\fR] \\fIAPP\\fR"),
        _section("DESCRIPTION", _text(f"{parser.description}\n{parser.epilog}")),
        ".SH OPTIONS",
    ]
    for group in parser._action_groups:
        actions = [item for item in group._group_actions if item.help != argparse.SUPPRESS]
        if actions:
            parts.append(f".SS {_text((group.title or '').capitalize())}")
            parts += [
                _entry(spelled(item), (item.help or "").replace("%%", "%")) for item in actions
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
        for text, words in _EXAMPLES
    ]
    parts.append(_section("SEE ALSO", ".BR lighttpd (8),\n.BR nginx (8),\n.BR spawn\\-fcgi (1)"))
    return "\n".join(parts) + "\n"


def _section(title: str, body: str) -> str:
    return f".SH {title}\n{body}"


def _entry(term: str, text: str) -> str:
    return f".TP\n.B {_text(term)}\n{_text(text)}."


def _text(text: str) -> str:
    """Escape what roff would take for its own: backslashes, hyphens, a dot that begins a line."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"^\.", r"\\&.", escaped, flags=re.MULTILINE)
