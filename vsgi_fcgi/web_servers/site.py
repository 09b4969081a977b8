"""What is to be configured, whatever the web server."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Final

from vsgi_fcgi.addresses import AbstractAddress, Address, InetAddress, UnixAddress
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.web_servers.template import comment, fill

_NAME: Final = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9]([\w.-]*\w)?|[0-9A-Fa-f:.]+", re.ASCII)
_SERVER_NAME: Final = re.compile(r"[A-Za-z0-9]([\w.-]*\w)?[.]?", re.ASCII)
_MOUNT: Final = re.compile(r"(/[\w.~+@,=-]+)*", re.ASCII)
_PATH: Final = re.compile(r"/[\w./~+@,=-]*")
_DOTS: Final = re.compile(r"/\.\.?(/|$)")

_ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}

_HEADING: Final = """\
{{title}} in front of {{app}}, as vsgi-fcgi config writes it.

{{install}}

{{server}}
"""

_STARTED: Final = """\
The app's server is to run beside it:

    {{command}}

With "config systemd" before its options it prints the units with which systemd starts it.
"""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a configuration.

    Attributes:
        path: where it belongs.
        text: what is in it.
    """

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An app, and where a web server has it.

    What is in it can be written into the configuration of any web server: it has no character
    that means something there. The words of the command may have any that fit on a line.

    Attributes:
        name: what its files are called.
        app: the app, as the command names it.
        command: the words that start the server.
        address: where the server listens; None if the web server starts it.
        mount: the path below which the app is; empty at the root.
        http: where the web server listens; empty for where it does by default.
        server_name: the host name that it is for; None for all.
        folder: where a configuration that runs in place keeps what it writes; None for a part of
            the configuration that the web server has.
        sendfile: who sends files: ``off``, ``x-sendfile`` or ``x-accel``.
        sendfile_folders: the URLs and folders of those files.

    Raises:
        UsageError: something cannot be written into a configuration.
    """

    name: str
    app: str
    command: tuple[str, ...]
    address: Address | None
    mount: str = ""
    http: tuple[InetAddress, ...] = ()
    server_name: str | None = None
    folder: str | None = None
    sendfile: str = "off"
    sendfile_folders: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        for word in (self.app, *self.command):
            check_line(word)
        if not _MOUNT.fullmatch(self.mount) or _DOTS.search(self.mount):
            raise UsageError(
                f"--script-name {self.mount!r} cannot be configured: write ASCII letters, digits"
                " and any of -._~+@,= between its slashes"
            )
        if self.server_name is not None:
            check_server_name(self.server_name)
        for item in self.http:
            check_host(item.host)
        for url, folder in self.sendfile_folders:
            check_path(folder)
            if url:
                check_path(url)
        if self.folder is not None:
            check_path(self.folder)
        if isinstance(self.address, UnixAddress):
            check_path(self.address.path)
        elif isinstance(self.address, InetAddress):
            check_host(self.address.host)
            if self.address.port == 0:
                raise UsageError("a random port cannot be configured; name one, as in --port 9000")

    @property
    def server(self) -> UnixAddress | InetAddress:
        """Where the web server connects to.

        Raises:
            UsageError: it is an abstract socket, which few web servers know.
        """
        address = self.address
        if isinstance(address, InetAddress):
            return InetAddress(_ANY_HOST.get(address.host, address.host), address.port)
        if isinstance(address, UnixAddress):
            return address
        raise UsageError(
            f"this web server cannot connect to {address}; write unix:PATH or HOST:PORT"
            if isinstance(address, AbstractAddress)
            else f"nobody can connect to {address} by its name; write unix:PATH or HOST:PORT"
        )

    @property
    def listens(self) -> tuple[InetAddress, ...]:
        """Where the web server listens; what runs in place does on loopback, if nothing is said."""
        if self.folder is not None and not self.http:
            return (InetAddress("127.0.0.1", 8080),)
        return self.http

    @property
    def root(self) -> str:
        """The mount point, which is a slash at the root."""
        return self.mount or "/"

    @property
    def pattern(self) -> str:
        """The mount point in a regular expression, without a backslash."""
        return re.sub(r"[.+]", r"[\g<0>]", self.mount)

    def heading(self, title: str, *install: str) -> str:
        """The comment at the top of a file.

        Args:
            title: the web server.
            *install: what is to be done with it, in paragraphs.
        """
        server = ""
        if self.address is not None:
            server = fill(_STARTED, command=shlex.join(self.command))
        text = fill(
            _HEADING,
            title=title,
            app=self.app,
            install="\n\n".join(install),
            server=server,
        )
        return comment(text.strip())

    def refuse_sendfile(self, title: str, *known: str) -> None:
        """Say that the web server is not known to send files that way.

        Args:
            title: the web server.
            *known: the values of ``--sendfile`` that are.

        Raises:
            UsageError: it is not.
        """
        if self.sendfile not in ("off", *known):
            advice = f"write --sendfile {known[0]}" if known else "leave --sendfile out"
            raise UsageError(f"--sendfile {self.sendfile} is nothing for {title}; {advice}")


def check_name(name: str) -> None:
    """Check what files and sections are called.

    Raises:
        UsageError: it has a character that means something in a file or a path.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name {name!r} is no name; write ASCII letters, digits, - and _")


def check_host(host: str) -> None:
    """Check a host name or an IP address.

    Raises:
        UsageError: it is none.
    """
    if not _HOST.fullmatch(host):
        raise UsageError(f"{host!r} is no host name that can be configured")


def check_server_name(name: str) -> None:
    """Check the host name of a site.

    Raises:
        UsageError: it is none.
    """
    if not _SERVER_NAME.fullmatch(name):
        raise UsageError(
            f"--server-name {name!r} is no host name that can be configured; write it in ASCII,"
            " without a port (--http has that)"
        )


def check_path(path: str) -> None:
    """Check the path of a file that a web server uses.

    Raises:
        UsageError: it has a character that means something in some configuration.
    """
    if not _PATH.fullmatch(path):
        raise UsageError(
            f"the path {path!r} cannot be configured: let it be of letters, digits and any of"
            " -._~+@,= between its slashes"
        )


def check_line(text: str) -> None:
    """Check that a text fits on a line.

    Raises:
        UsageError: it does not.
    """
    if not text.isprintable():
        raise UsageError(f"{text!r} has a character in it that cannot be configured")
