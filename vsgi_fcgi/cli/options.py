"""Everything that the command can be told: the settings of the server, and those of a process.

The fields of `Options`, those of `Config` among them, are the one place where an option has its
name, its type, its default and its help. The command line, the environment variables, the
configuration file, ``--print-config``, the manual page and the reference are made from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.addresses import Address, addresses_from_options
from vsgi_fcgi.cli.command import Command, Example
from vsgi_fcgi.client.http_config import HTTPConfig
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.settings import Octal, setting

LISTENING = ("address", "port", "socket", "file_descriptor", "bind")
"""The options that name addresses: who says one of them says all."""

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_WRITERS = ("default", "standard-streams", "journald")


@dataclass(frozen=True, kw_only=True)
class ListeningOptions:
    """Where to listen for FastCGI."""

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


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """What a process of its own can be told."""

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


@dataclass(frozen=True, kw_only=True)
class Options(ListeningOptions, ProcessOptions, HTTPConfig, Config):
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
    authorizer: str | None = setting(
        None,
        "an app that web servers ask whether a request may pass: a 200 says so",
        group="roles",
        metavar="APP",
    )
    filter: str | None = setting(
        None,
        "an app that gets a file of the web server with each request",
        group="roles",
        metavar="APP",
    )

    http: tuple[str, ...] = setting(
        (),
        "speak HTTP here, and FastCGI behind it: for development, and to try an app",
        group="http",
        metavar="HOST:PORT",
    )
    static: tuple[str, ...] = setting(
        (),
        "serve the files of a folder under /URL by --http itself; needs the extra static",
        group="http",
        metavar="/URL=DIR",
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


SERVE = Command(
    "",
    Options,
    library=(HTTPConfig, Config),
    argument="app",
    description="Serve a WSGI app to a web server that speaks FastCGI.",
    epilog=(
        "Without an option of where to listen, it takes the sockets that systemd passes, else"
        " descriptor 0, where a web server or spawn-fcgi puts the listening socket. If there is"
        " none and a web server has started it as a CGI program, it answers that one request. Each"
        " option may also stand in the environment, as in VSGI_FCGI_THREADS=8, or in the"
        " configuration file, as in threads = 8; the command line has precedence over the"
        " environment, and both have over the file. With --http it speaks HTTP by itself, and"
        " without an APP it serves a demonstration then. vsgi-fcgi config --help tells how"
        " to have a web server's configuration written; vsgi-fcgi gateway --help and vsgi-fcgi"
        " relay --help tell of the commands that pass requests on."
    ),
    examples=(
        Example("Serve app of the module mysite on the descriptor 0 of a web server", "mysite:app"),
        Example(
            "Listen for nginx", "mysite:app --bind unix:/run/mysite.sock --socket-group www-data"
        ),
        Example("Try it in a browser", "mysite:app --http 127.0.0.1:8000"),
        Example("Say what would be used", "mysite:app --config /etc/mysite.toml --check-config"),
    ),
)

OPTIONS = SERVE.fields
"""All fields of `Options` by their names, group by group as ``--help`` has them."""

kind_of = SERVE.kind
