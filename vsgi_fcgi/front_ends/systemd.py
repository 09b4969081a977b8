"""systemd, which opens the sockets and starts the server: a socket unit and a service unit."""

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
from vsgi_fcgi.front_ends.site import File, check_line, check_name, check_path, fill

FOLDER: Final = "/etc/systemd/system"

_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

_SOCKET: Final = """\
# The socket that the web server connects to. systemd opens it before the server starts, and keeps
# it open while the server restarts: connections wait meanwhile, and are not refused.
#
# Save it as {{folder}}/{{name}}.socket, next to {{name}}.service, then run
#
{{steps}}
#     systemctl daemon-reload
#     systemctl enable --now {{name}}.socket {{name}}.service

[Unit]
Description={{app}}: its socket

[Socket]
{{listen}}
# Only the web server's group may connect.
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
{{type}}
NotifyAccess=main
ExecStart={{command}}

# systemd restarts a server whose main context is blocked.
WatchdogSec=30
Restart=on-failure
RestartSec=1
# A wrong setting, which a restart does not fix: systemctl status shows the message.
RestartPreventExitStatus=2

# Only the server gets SIGTERM: running requests may need their child processes.
KillMode=mixed
# Longer than --graceful-timeout, which is {{grace}}.
TimeoutStopSec={{stop}}

{{account}}
Environment=HOME=/var/lib/{{name}}
UMask={{umask}}
LimitNOFILE=65536

# Restrictions that suit most web apps. Remove a line if it restricts yours.
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
# A user that exists only while the service runs. It may write to /var/lib/{{name}} and to temporary
# files. --writable DIR prints a unit for an app that writes to other folders.
DynamicUser=yes
StateDirectory={{name}}
"""

_OWN: Final = """\
# The app may write to /var/lib/{{name}} and to temporary files. --writable DIR adds other folders.
User={{user}}
{{group}}
StateDirectory={{name}}
"""

_WRITING: Final = """\
# The app may write to the folders below, to /var/lib/{{name}} and to temporary files. SQLite needs
# the folder of the database, not only the file. The web server's group may read new files.
User={{user}}
Group={{group}}
StateDirectory={{name}}
{{folders}}
"""

_NOTIFY: Final = "Type=notify\n"
_RELOAD: Final = """\
# systemctl reload returns when the new processes serve. It needs systemd 253. For an older one,
# replace the next line by Type=notify and ExecReload=/bin/kill -HUP $MAINPID.
Type=notify-reload
"""

_NO_HOME: Final = "ProtectHome=yes\n"
_HOME: Final = """\
# The app or its Python is in a home directory.
ProtectHome=read-only
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A server that systemd runs.

    Attributes:
        name: name of the units.
        app: name of the app, as on the command line.
        command: words of the command that starts the server. It names no socket.
        addresses: addresses on which systemd listens.
        user: user of the server; None for one that the unit chooses.
        group: group of the server; None for the default.
        umask: permissions that new files do not get.
        grace: seconds that running requests have to end when the server stops.
        folder: folder of the app.
        backlog: maximum number of connections that wait to be accepted.
        socket_mode: permissions of the sockets.
        socket_user: owner of the sockets; None for root.
        socket_group: group of the sockets.
        writable: folders that the app may write to.
        reloads: whether SIGHUP reloads the app.

    Raises:
        UsageError: a value cannot be written into a unit.
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
    writable: tuple[str, ...] = ()
    reloads: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        for word in (self.app, *self.command):
            check_line(word)
        for path in (self.command[0], *self.writable):
            check_path(path)
        for account in (self.user, self.group, self.socket_user, self.socket_group):
            if account is not None and not _ACCOUNT.fullmatch(account):
                raise UsageError(f"{account!r} is not a valid name of a user or group for systemd")


def units(service: Service) -> list[File]:
    """Return the units of a service.

    Raises:
        UsageError: systemd cannot listen on an address.
    """
    name, addresses = service.name, service.addresses
    named = [item.name for item in addresses if isinstance(item, SystemdAddress) and item.name]
    steps = ""
    if service.writable:
        account, steps = _writing(service)
    elif service.user is None:
        account = fill(_DYNAMIC, name=name)
        if service.group is not None:
            account += f"Group={service.group}\n"
    else:
        group = "" if service.group is None else f"Group={service.group}"
        account = fill(_OWN, name=name, user=service.user, group=group)
    socket = fill(
        _SOCKET,
        folder=FOLDER,
        steps=steps,
        name=name,
        app=service.app.replace("%", "%%"),
        listen="".join(f"ListenStream={_stream(item)}\n" for item in _streams(service)),
        mode=f"{service.socket_mode:04o}",
        user="" if service.socket_user is None else f"SocketUser={service.socket_user}",
        group=service.socket_group,
        fd_name=named[0] if named else "web",
        backlog=str(service.backlog),
    )
    paths = (service.command[0], f"{service.folder}/", *service.writable)
    at_home = any(path.startswith(("/home/", "/root/")) for path in paths)
    text = fill(
        _SERVICE,
        folder=FOLDER,
        name=name,
        app=service.app.replace("%", "%%"),
        type=_RELOAD if service.reloads else _NOTIFY,
        command=" ".join(map(quoted, service.command)),
        grace=f"{service.grace:g}",
        stop=f"{service.grace + 10:g}",
        account=account,
        umask=f"{service.umask:04o}",
        home=_HOME if at_home else _NO_HOME,
    )
    return [File(f"{FOLDER}/{name}.socket", socket), File(f"{FOLDER}/{name}.service", text)]


def _writing(service: Service) -> tuple[str, str]:
    """Return the account of an app that writes to folders, and the commands that prepare it.

    It is not a dynamic user, which cannot own a folder from one start to the next.
    """
    name, user = service.name, service.user or service.name
    group = service.group or service.socket_group
    folders = "".join(f"ReadWritePaths={path}\n" for path in service.writable)
    account = fill(_WRITING, name=name, user=user, group=group, folders=folders)
    steps = ""
    if service.user is None:
        steps = (
            f"#     useradd --system --home-dir /var/lib/{name} --shell /usr/sbin/nologin {name}\n"
        )
    for path in service.writable:
        steps += f"#     mkdir -p {path} && chown -R {user}:{group} {path}\n"
    return account, steps


def quoted(word: str) -> str:
    """Return a word as a unit's command line has it, without specifiers and variables."""
    escaped = word.replace("%", "%%").replace("$", "$$")
    if word and not re.search(r"[\s\"'\\;]", word):
        return escaped
    escaped = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _streams(service: Service) -> list[Address]:
    """Return the addresses on which systemd listens."""
    found: list[Address] = [
        item
        for item in service.addresses
        if not isinstance(item, SystemdAddress)
        and not (isinstance(item, InetAddress) and item.optional)
    ]
    return found or [UnixAddress(f"/run/{service.name}.sock")]


def _stream(address: Address) -> str:
    """Return an address in the syntax of a socket unit.

    Raises:
        UsageError: systemd cannot listen on it.
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
                f"systemd listens only on IP addresses, and {address.host} is a name; write its"
                " address"
            ) from None
        if address.port:
            return str(address)
        raise UsageError("a random port cannot be configured; name one, as in --port 9000")
    raise UsageError(
        f"systemd opens its sockets itself, but {address} is already open; write unix:PATH or"
        " HOST:PORT"
    )
