"""systemd, which opens the sockets and starts the server: a socket unit and a service."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from vsgi_fcgi.addresses import (
    AbstractAddress,
    Address,
    InetAddress,
    SystemdAddress,
    UnixAddress,
)
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.web_servers.site import File, check_line, check_name, check_path
from vsgi_fcgi.web_servers.template import fill

FOLDER: Final = "/etc/systemd/system"

_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

_SOCKET: Final = """\
# The socket that the web server connects to. systemd opens it before the server runs, and keeps
# it open while the server is restarted: whoever comes in between waits and is not refused.
#
# As {{folder}}/{{name}}.socket, with {{name}}.service beside it; then
#
#     systemctl daemon-reload
#     systemctl enable --now {{name}}.socket {{name}}.service

[Unit]
Description={{app}}: its socket

[Socket]
{{listen}}
# The web server's group may connect, and nobody else.
SocketMode={{mode}}
{{user}}
SocketGroup={{group}}
FileDescriptorName={{fd_name}}
Backlog={{backlog}}

[Install]
WantedBy=sockets.target
"""

_SERVICE: Final = """\
[Unit]
Description={{app}}, served by vsgi-fcgi
Requires={{name}}.socket
After={{name}}.socket network.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={{command}}

# A server whose main context is stuck gives no more signs of life.
WatchdogSec=30
Restart=on-failure
RestartSec=1
# What has to be mended first: systemctl status says what, and trying again does not help.
RestartPreventExitStatus=2

# SIGTERM goes to the server alone, whose running requests may need their own child processes.
KillMode=mixed
# More than --graceful-timeout, which is {{grace}}.
TimeoutStopSec={{stop}}

{{account}}
Environment=HOME=/var/lib/{{name}}
UMask={{umask}}
LimitNOFILE=65536

# What a web app does not do. Take out a line that your app cannot live with.
NoNewPrivileges=yes
CapabilityBoundingSet=
PrivateDevices=yes
PrivateTmp=yes
ProtectSystem=strict
{{home}}
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
Also={{name}}.socket
"""

_DYNAMIC: Final = """\
# A user that exists while it runs, and may write to /var/lib/{{name}} and to temporary files.
DynamicUser=yes
StateDirectory={{name}}
"""

_OWN: Final = """\
# It may write to /var/lib/{{name}} and to temporary files.
User={{user}}
{{group}}
StateDirectory={{name}}
"""

_NO_HOME: Final = "ProtectHome=yes\n"
_HOME: Final = """\
# The app, or its Python, is in somebody's home.
ProtectHome=read-only
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A server that systemd runs.

    Attributes:
        name: what the units are called.
        app: the app, as the command names it.
        command: the words that start the server, which finds its sockets by itself.
        addresses: where systemd listens.
        user: whom it runs as; None for a user of its own.
        group: its group; None for the user's own.
        umask: the permissions that its files do not get.
        grace: seconds that running requests get to end.
        folder: where the app is.
        backlog: connections that may wait to be accepted.
        socket_mode: permissions of the sockets.
        socket_user: their owner; None for root.
        socket_group: their group.

    Raises:
        UsageError: something cannot be written into a unit.
    """

    name: str
    app: str
    command: tuple[str, ...]
    addresses: tuple[Address, ...]
    user: str | None
    group: str | None
    umask: int
    grace: float
    folder: str
    backlog: int
    socket_mode: int
    socket_user: str | None
    socket_group: str

    def __post_init__(self) -> None:
        check_name(self.name)
        for word in (self.app, *self.command):
            check_line(word)
        check_path(self.command[0])
        for account in (self.user, self.group, self.socket_user, self.socket_group):
            if account is not None and not _ACCOUNT.fullmatch(account):
                raise UsageError(f"{account!r} is no name of a user or group for systemd")


def units(service: Service) -> list[File]:
    """The units of a service.

    Raises:
        UsageError: systemd cannot listen as it is told.
    """
    name, addresses = service.name, service.addresses
    named = [item.name for item in addresses if isinstance(item, SystemdAddress) and item.name]
    socket = fill(
        _SOCKET,
        folder=FOLDER,
        name=name,
        app=service.app.replace("%", "%%"),
        listen="".join(f"ListenStream={_stream(item)}\n" for item in _streams(service)),
        mode=f"{service.socket_mode:04o}",
        user="" if service.socket_user is None else f"SocketUser={service.socket_user}",
        group=service.socket_group,
        fd_name=named[0] if named else "web",
        backlog=str(service.backlog),
    )
    if service.user is None:
        account = fill(_DYNAMIC, name=name)
        if service.group is not None:
            account += f"Group={service.group}\n"
    else:
        group = "" if service.group is None else f"Group={service.group}"
        account = fill(_OWN, name=name, user=service.user, group=group)
    at_home = any(
        path.startswith(("/home/", "/root/")) for path in (service.command[0], f"{service.folder}/")
    )
    text = fill(
        _SERVICE,
        folder=FOLDER,
        name=name,
        app=service.app.replace("%", "%%"),
        command=" ".join(map(quoted, service.command)),
        grace=f"{service.grace:g}",
        stop=f"{service.grace + 10:g}",
        account=account,
        umask=f"{service.umask:04o}",
        home=_HOME if at_home else _NO_HOME,
    )
    return [File(f"{FOLDER}/{name}.socket", socket), File(f"{FOLDER}/{name}.service", text)]


def quoted(word: str) -> str:
    """A word of a command line in a unit: specifiers and variables have no meaning in it."""
    escaped = word.replace("%", "%%").replace("$", "$$")
    if word and not re.search(r"[\s\"'\\;]", word):
        return escaped
    escaped = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _streams(service: Service) -> list[Address]:
    """Where systemd listens, if it is said at all, or else by default."""
    found: list[Address] = [
        item
        for item in service.addresses
        if not isinstance(item, SystemdAddress)
        and not (isinstance(item, InetAddress) and item.optional)
    ]
    return found or [UnixAddress(f"/run/{service.name}.sock")]


def _stream(address: Address) -> str:
    """An address as a socket unit has it.

    Raises:
        UsageError: it cannot.
    """
    if isinstance(address, UnixAddress):
        check_path(address.path)
        return address.path
    if isinstance(address, AbstractAddress):
        check_path(f"/{address.name}")
        return str(address)
    if isinstance(address, InetAddress):
        try:
            ipaddress.ip_address(address.host)
        except ValueError:
            raise UsageError(
                f"systemd listens on IP addresses, and {address.host} is a name; write its address"
            ) from None
        if address.port:
            return str(address)
        raise UsageError("a random port cannot be configured; name one, as in --port 9000")
    raise UsageError(
        f"systemd opens its sockets by itself, and {address} is open already; write unix:PATH or"
        " HOST:PORT"
    )
