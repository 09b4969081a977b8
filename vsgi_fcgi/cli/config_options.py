"""Everything that ``vsgi-fcgi config`` can be told: what the server is told, and some more."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.cli.command import Command, Example
from vsgi_fcgi.cli.options import SERVE, Options
from vsgi_fcgi.client.http_config import HTTPConfig
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.settings import setting
from vsgi_fcgi.web_servers.programs import NAMES


@dataclass(frozen=True, kw_only=True)
class ConfigOptions(Options):
    """What it is told.

    Raises:
        UsageError: a value is out of its bounds; the message begins with the field's name.
    """

    program: str | None = setting(
        None, f"{', '.join(NAMES[:-1])} or {NAMES[-1]}", group="app", metavar="PROGRAM"
    )
    server_name: str | None = setting(
        None,
        "host name that the site is for",
        group="configuration",
        metavar="HOST",
        default_text="every one",
    )
    name: str | None = setting(
        None,
        "what the files, sections and sockets are called",
        group="configuration",
        metavar="NAME",
        default_text="the app's module",
    )
    standalone: str | None = setting(
        None,
        "print a whole configuration, which runs in place without root and writes into this folder,"
        " and not a part for the web server that Debian has",
        group="configuration",
        metavar="DIR",
    )
    output: str | None = setting(
        None,
        "write files into this folder, and not to standard output",
        group="configuration",
        metavar="DIR",
    )


CONFIG = Command(
    "config",
    ConfigOptions,
    library=(HTTPConfig, Config),
    argument="app",
    subject="program",
    base=SERVE,
    description=(
        "Print the configuration of a web server, or of systemd, for an app that is served with"
        " these options."
    ),
    epilog=(
        f"PROGRAM stands right behind config: {', '.join(NAMES[:-1])} or {NAMES[-1]}. The rest is"
        " the command line that serves the app: what it says is in the configuration, and in the"
        " command that the configuration names."
        " --http says where the web server speaks HTTP (port 80, or 127.0.0.1:8080 with"
        " --standalone). The web server connects to a UNIX socket if one is named, else to the"
        " first TCP address; if none is, lighttpd starts the server by itself, and the others find"
        " it at /run/NAME.sock. An app whose module is called config is named as config:app."
    ),
    examples=(
        Example(
            "Print what nginx is to be told",
            "config nginx mysite.wsgi --script-name /shop --threads 8",
        ),
    ),
)
