"""An app as a web server's configuration describes it, and shared functions for its text."""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import dataclass
from typing import Final, NamedTuple

from vsgi_fcgi.addresses import (
    EVERY_IPV4,
    AbstractAddress,
    Address,
    InetAddress,
    UnixAddress,
    parse_bind,
)
from vsgi_fcgi.exceptions import UsageError

# Patterns are compiled when they are used: every server imports this module, but few print.

_PLACE: Final = r"\{\{(\w+)\}\}"
_BLOCK: Final = r"([ \t]*)\{\{(\w+)\}\}"


def fill(template: str, **values: str) -> str:
    """Fill in the places of a template, which are written ``{{name}}``.

    A place that is alone on its line takes any number of lines. They get the indentation of the
    place. If there are none, the line of the place is removed.

    Args:
        template: the text.
        **values: the text for each place.
    """
    lines: list[str] = []
    for line in template.splitlines():
        block = re.fullmatch(_BLOCK, line)
        if block:
            indent = block[1]
            lines += [f"{indent}{item}".rstrip() for item in values[block[2]].splitlines()]
        else:
            lines.append(re.sub(_PLACE, lambda place: values[place[1]], line))
    return "\n".join(lines) + "\n"


def comment(*paragraphs: str) -> str:
    """Return paragraphs as a comment, with an empty line between two of them."""
    lines = "\n\n".join(filter(None, paragraphs)).splitlines()
    return "\n".join(f"# {line}".rstrip() for line in lines)


def steps(what: str, *commands: str) -> str:
    """Return an instruction and its commands, as a paragraph for a comment."""
    return "\n".join([what, "", *(f"    {command}" for command in commands)])


_NAME: Final = r"(?a)[A-Za-z0-9][\w-]*"
_HOST: Final = r"(?a)[A-Za-z0-9]([\w.-]*\w)?|[0-9A-Fa-f:.]+"
_SERVER_NAME: Final = r"(?a)[A-Za-z0-9]([\w.-]*\w)?[.]?"
_MOUNT: Final = r"(?a)(/[\w.~+@,=-]+)*"
_PATH: Final = r"/[\w./~+@,=-]*"
_DOTS: Final = r"/\.\.?(/|$)"

DEFAULT_ADDRESS: Final = UnixAddress("/run/app.sock")
"""The address in printed lines if the server's own one cannot be written into a configuration."""

_QUOTABLE: Final = r"(?a)[\w./~+@:\[\] -]+"
"""Addresses that can be written into a configuration, in quotes if necessary."""

_ANY_HOST: Final = {EVERY_IPV4: "127.0.0.1", "::": "::1"}

_HEADING: Final = """\
{{title}} in front of {{app}}, written by vsgi-fcgi config. It is tested with
{{title}} {{tested}}; an older version may not know every line.

{{install}}

{{server}}
"""

_STARTED: Final = """\
Start the app's server separately:

    {{command}}

Insert "config systemd" before its options to print the units with which systemd starts it.
"""


def escaped(url: str) -> str:
    """Return the path of a URL as a regular expression, without backslashes."""
    return re.sub(r"[.+]", r"[\g<0>]", url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an app is mounted, and where its server listens.

    Attributes:
        name: name of the files and sections.
        address: address of the app's server; None if the web server starts it.
        mount: mount point of the app; empty for the root.
    """

    name: str
    address: Address | None
    mount: str = ""

    @classmethod
    def at(cls, address: str, mount: str) -> Place:
        """Return the place of an app by its address and its mount point.

        Args:
            address: in the syntax of ``--bind``. An address that cannot be written into a
                configuration is replaced by `DEFAULT_ADDRESS`.
            mount: the mount point.
        """
        found: Address = DEFAULT_ADDRESS
        if re.fullmatch(_QUOTABLE, address):
            with contextlib.suppress(UsageError):
                found = parse_bind(address)
        if not isinstance(found, UnixAddress | InetAddress):
            found = DEFAULT_ADDRESS
        return Place(name="app", address=found, mount=mount)

    @property
    def server(self) -> UnixAddress | InetAddress:
        """The address that the web server connects to.

        Raises:
            UsageError: the web server cannot connect to it. Few know abstract sockets.
        """
        address = self.address
        if isinstance(address, InetAddress):
            return InetAddress(_ANY_HOST.get(address.host, address.host), address.port)
        if isinstance(address, UnixAddress):
            return address
        raise UsageError(
            f"this web server cannot connect to {address}; write unix:PATH or HOST:PORT"
            if isinstance(address, AbstractAddress)
            else f"no web server can connect to {address} by its name; write unix:PATH or HOST:PORT"
        )

    @property
    def root(self) -> str:
        """The mount point; a slash for the root."""
        return self.mount or "/"

    @property
    def pattern(self) -> str:
        """The mount point as a regular expression, without backslashes."""
        return escaped(self.mount)


class File(NamedTuple):
    """A file of a configuration.

    Attributes:
        path: where it belongs.
        text: its content.
    """

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Site(Place):
    """An app and everything that a web server's configuration says about it.

    No value has a character with a meaning in the configuration of any web server. Only the words
    of the command may have any printable character.

    Attributes:
        app: name of the app, as on the command line.
        command: words of the command that starts the app's server.
        http: addresses on which the web server serves HTTP; empty for the default.
        server_name: host name of the site; None for every host name.
        folder: folder to which a standalone configuration writes; None for a part of the web
            server's own configuration.
        sendfile: value of ``--sendfile``: ``off``, ``x-sendfile`` or ``x-accel``.
        sendfile_folders: URLs and folders of files that the app has the web server send.
        static: URLs and folders of files that the web server sends without the app.

    Raises:
        UsageError: a value cannot be written into a configuration.
    """

    app: str
    command: tuple[str, ...]
    http: tuple[InetAddress, ...] = ()
    server_name: str | None = None
    folder: str | None = None
    sendfile: str = "off"
    sendfile_folders: tuple[tuple[str, str], ...] = ()
    static: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        for word in (self.app, *self.command):
            check_line(word)
        if not is_plain_mount(self.mount):
            raise UsageError(
                f"--script-name {self.mount!r} cannot be configured: use ASCII letters, digits and"
                " -._~+@,= between its slashes"
            )
        if self.server_name is not None:
            check_server_name(self.server_name)
        for item in self.http:
            check_host(item.host)
        for url, folder in self.sendfile_folders:
            check_path(folder)
            if url:
                check_path(url)
        for url, folder in self.static:
            check_path(folder)
            if not url or not is_plain_mount(url):
                raise UsageError(
                    f"--static {url}={folder}: the URL must be below the root; use ASCII letters,"
                    " digits and -._~+@,= between its slashes"
                )
        if self.folder is not None:
            check_path(self.folder)
        if isinstance(self.address, UnixAddress):
            check_path(self.address.path)
        elif isinstance(self.address, InetAddress):
            check_host(self.address.host)
            if self.address.port == 0:
                raise UsageError("a random port cannot be configured; name one, as in --port 9000")

    @property
    def listens(self) -> tuple[InetAddress, ...]:
        """Addresses of the web server; a standalone one listens on loopback by default."""
        if self.folder is not None and not self.http:
            return (InetAddress("127.0.0.1", 8080),)
        return self.http

    def heading(self, title: str, tested: str, *install: str) -> str:
        """Return the comment at the top of a file.

        Args:
            title: name of the web server.
            tested: versions that the configuration is tested with.
            *install: paragraphs that say how to install the file.
        """
        server = ""
        if self.address is not None:
            server = fill(_STARTED, command=shlex.join(self.command))
        text = fill(
            _HEADING,
            title=title,
            tested=tested,
            app=self.app,
            install="\n\n".join(install),
            server=server,
        )
        return comment(text.strip())


def is_plain_mount(mount: str) -> bool:
    """Return whether a mount point means the same in the configuration of every web server."""
    return bool(re.fullmatch(_MOUNT, mount)) and not re.search(_DOTS, mount)


def check_name(name: str) -> None:
    """Check the name of files and sections.

    Raises:
        UsageError: it has a character with a meaning in a configuration or a path.
    """
    if not re.fullmatch(_NAME, name):
        raise UsageError(f"--name {name!r} is not a valid name; use ASCII letters, digits, - and _")


def check_host(host: str) -> None:
    """Check a host name or an IP address.

    Raises:
        UsageError: it is not valid.
    """
    if not re.fullmatch(_HOST, host):
        raise UsageError(f"{host!r} is not a host name that can be configured")


def check_server_name(name: str) -> None:
    """Check the host name of a site.

    Raises:
        UsageError: it is not valid.
    """
    if not re.fullmatch(_SERVER_NAME, name):
        raise UsageError(
            f"--server-name {name!r} is not a host name that can be configured; write it in ASCII,"
            " and the port in --http"
        )


def check_path(path: str) -> None:
    """Check the path of a file that a web server uses.

    Raises:
        UsageError: it has a character with a meaning in the configuration of some web server.
    """
    if not re.fullmatch(_PATH, path):
        raise UsageError(
            f"the path {path!r} cannot be configured: use letters, digits and -._~+@,= between"
            " its slashes"
        )


def check_line(text: str) -> None:
    """Check that a text can be written on one line.

    Raises:
        UsageError: it has a line break or another character that is not printable.
    """
    if not text.isprintable():
        raise UsageError(f"{text!r} contains a character that cannot be configured")
