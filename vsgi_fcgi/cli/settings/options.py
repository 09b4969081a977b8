"""Options that several commands share, and those of the server.

Each field declares an option once: its name, type, default and help. The command line, environment
variables, the configuration file, ``--print-config``, the manual page and the reference in the
documentation are all made from the fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.addresses import Address, addresses_from_options
from vsgi_fcgi.http.config import HTTPConfig
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.settings import Octal, SettingsBase, setting
from vsgi_fcgi.supervisor.config import SupervisorConfig

LISTENING = ("address", "port", "socket", "file_descriptor", "bind")
"""The options that name addresses. The source that gives one of them decides all of them."""

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_WRITERS = ("default", "standard-streams", "journald")


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class ListeningOptions(SettingsBase):
    """Options that say where to listen for FastCGI."""

    address: tuple[str, ...] = setting(
        (),
        "TCP address; HOST without a port is combined with each --port",
        group="listening",
        metavar="HOST[:PORT]",
        aliases=("-a",),
    )
    port: tuple[int, ...] = setting(
        (),
        "TCP port on the loopback interface, IPv4 and IPv6; 0 picks a free one",
        group="listening",
        metavar="PORT",
        aliases=("-p",),
    )
    socket: tuple[str, ...] = setting(
        (), "UNIX socket", group="listening", metavar="PATH", aliases=("-s",)
    )
    file_descriptor: tuple[int, ...] = setting(
        (),
        "listening socket that the process inherited, as a descriptor number",
        group="listening",
        metavar="FD",
        aliases=("-f",),
    )
    bind: tuple[str, ...] = setting(
        (),
        "any address: HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME (abstract), fd://N, or"
        " systemd:NAME for sockets that systemd passes (systemd: for all of them)",
        group="listening",
        metavar="ADDRESS",
        aliases=("-b",),
    )
    any: bool = setting(
        False,
        "open --port on every interface instead of loopback",
        group="listening",
        aliases=("-A",),
    )
    ipv4_only: bool = setting(False, "do not use IPv6", group="listening", aliases=("-4",))
    ipv6_only: bool = setting(False, "do not use IPv4", group="listening", aliases=("-6",))

    @property
    def names_an_address(self) -> bool:
        """Whether any option names an address."""
        return bool(self.address or self.port or self.socket or self.file_descriptor or self.bind)

    def addresses(self) -> list[Address]:
        """Return the addresses to listen on: descriptor 0 if no option names one.

        Raises:
            UsageError: an address is not valid, or two options contradict each other.
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


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class ProcessOptions(SettingsBase):
    """Options of every command that runs as a process of its own."""

    chdir: str | None = setting(
        None,
        "working directory, from which an app is imported",
        group="process",
        metavar="DIR",
    )
    user: str | None = setting(
        None,
        "user to run as once the sockets are open, by name or number; needs root",
        group="process",
        metavar="USER",
    )
    group: str | None = setting(
        None,
        "group to run as, by name or number",
        group="process",
        metavar="GROUP",
        default_text="the group of --user",
    )
    umask: Octal | None = setting(
        None,
        "permissions that new files do not get, in octal",
        group="process",
        minimum=0,
        maximum=0o777,
        metavar="MODE",
    )
    pid_file: str | None = setting(
        None,
        "file that holds the process id while the server runs; a second start is refused",
        group="process",
        metavar="FILE",
    )
    proc_name: str | None = setting(
        None,
        "process name for ps and top; needs the extra proc-name",
        group="process",
        metavar="NAME",
    )

    log_level: str = setting(
        "info",
        "lowest severity of messages to log",
        group="logging",
        choices=LOG_LEVELS,
    )
    log_format: str = setting(
        "text",
        "text, json (one object per line), or a format string of Python's logging",
        group="logging",
        metavar="FORMAT",
    )
    log_writer: str = setting(
        "default",
        "destination of the log: default is stderr; standard-streams is stdout for debug and info"
        " and stderr for the rest; journald is systemd's journal (needs the extra journald)",
        group="logging",
        choices=LOG_WRITERS,
        default_text="stderr",
    )
    log_config: str | None = setting(
        None,
        "TOML or JSON file for logging.config.dictConfig; it replaces the other logging options",
        group="logging",
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class HTTPOptions(SettingsBase):
    """Options of the commands that serve HTTP."""

    http: tuple[str, ...] = setting((), "serve HTTP here", group="http", metavar="HOST:PORT")
    static: tuple[str, ...] = setting(
        (),
        "serve the files of DIR below /URL without the app: on --http, or from the web server whose"
        " configuration is printed",
        group="http",
        metavar="/URL=DIR",
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class StatusOptions(SettingsBase):
    """Options that say where the status is served."""

    status_bind: tuple[str, ...] = setting(
        (),
        "serve the status over HTTP here: what runs, metrics, and checks for container platforms",
        group="status",
        metavar="HOST:PORT|unix:PATH",
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class PushOptions(SettingsBase):
    """Options that say how published items reach the server from outside."""

    push_bind: tuple[str, ...] = setting(
        (),
        "accept items that are published over HTTP here (POST /publish/), and set GRIP_URL for the"
        " app; implies push",
        group="push",
        metavar="HOST:PORT|unix:PATH",
    )
    push_bus: str | None = setting(
        None,
        "Redis server that carries published items between hosts; needs the extra redis; implies"
        " push",
        group="push",
        metavar="redis://HOST:PORT/DB?channel=NAME",
        default_text="none",
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class UpstreamOptions(SettingsBase):
    """Options of the commands that forward requests."""

    upstream: tuple[str, ...] = setting(
        (),
        "FastCGI application server: HOST:PORT, unix:PATH or unix:@NAME; several must serve the"
        " same app",
        group="upstream",
        metavar="ADDRESS",
        aliases=("-u",),
    )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Options(
    ListeningOptions,
    ProcessOptions,
    HTTPOptions,
    StatusOptions,
    PushOptions,
    HTTPConfig,
    SupervisorConfig,
    Config,
):
    """Options of the server, and of the commands that take its command line.

    Raises:
        UsageError: a value is out of its bounds; the message begins with the field's name.
    """

    app: str | None = setting(
        None,
        "WSGI app: MODULE:NAME, MODULE:FACTORY() or PATH/FILE.py:NAME; NAME is application or app"
        " by default",
        group="app",
        metavar="APP",
    )
    authorizer: str | None = setting(
        None,
        "app that decides whether a request may pass; status 200 allows it",
        group="roles",
        metavar="APP",
    )
    filter: str | None = setting(
        None,
        "app that receives a file from the web server with each request",
        group="roles",
        metavar="APP",
    )

    reload: bool = setting(
        False,
        "restart the app when a file that it imported changes",
        group="development",
        aliases=("--live-reload",),
    )
    reload_extra: tuple[str, ...] = setting(
        (),
        "further file or folder to watch, such as templates",
        group="development",
        metavar="PATH",
    )
    debug: bool = setting(
        False,
        "show errors in werkzeug's debugger; everyone who can see it can run code",
        group="development",
    )
