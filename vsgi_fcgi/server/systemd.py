"""What systemd tells the processes that it starts: sd_listen_fds(3), sd_watchdog_enabled(3).

It does so in environment variables, and nothing else of systemd is needed to read them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from vsgi_fcgi.exceptions import ListenError

_FIRST_FD = 3
_UNNAMED = "unknown"
"""What sd_listen_fds_with_names(3) calls sockets whose names were not passed."""


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A socket that systemd has opened.

    Attributes:
        fd: its descriptor.
        name: its FileDescriptorName, which as a rule is the name of the .socket unit.
    """

    fd: int
    name: str


def has_passed_sockets(environ: Mapping[str, str]) -> bool:
    """Whether systemd started this process, and no other, with sockets.

    Args:
        environ: the process's environment.
    """
    if environ.get("LISTEN_FDS", "0") in ("", "0"):
        return False
    return environ.get("LISTEN_PID") == str(os.getpid())


def passed_sockets(environ: Mapping[str, str]) -> list[PassedSocket]:
    """The sockets that systemd passes.

    Args:
        environ: the process's environment.

    Raises:
        ListenError: there are none for this process, or the variables cannot be understood.
    """
    count, pid = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_PID", "")
    if not count or not pid:
        raise ListenError(
            "systemd passed no sockets (LISTEN_FDS and LISTEN_PID are not set);"
            " start me from a .service unit that has a .socket unit"
        )
    if pid != str(os.getpid()):
        raise ListenError(
            f"the sockets of systemd are for process {pid}, and this is {os.getpid()};"
            " a script in between must start me with exec"
        )
    if not count.isdecimal():
        raise ListenError(f"LISTEN_FDS is {count!r}, and must be the number of sockets")
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    given = environ.get("LISTEN_FDNAMES")
    names = [_UNNAMED] * len(fds) if given is None else given.split(":")
    if len(names) != len(fds):
        raise ListenError(f"LISTEN_FDNAMES is {given!r}, and must hold {count} names")
    return [PassedSocket(fd, name) for fd, name in zip(fds, names, strict=True)]


def choose_sockets(passed: list[PassedSocket], name: str) -> list[PassedSocket]:
    """Those of the sockets that have a name; all of them if it is empty.

    Raises:
        ListenError: none has it; the message says which names there are.
    """
    chosen = [item for item in passed if name in ("", item.name)]
    if not chosen:
        known = ", ".join(dict.fromkeys(item.name for item in passed)) or "nothing at all"
        raise ListenError(
            f"systemd passed no socket that is named {name}, but {known};"
            " FileDescriptorName= in the .socket unit names them"
        )
    return chosen


def forget_sockets(environ: MutableMapping[str, str]) -> None:
    """Take the variables of the sockets away, which mean nothing to processes of the app."""
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)


def notify_address(environ: Mapping[str, str]) -> str | None:
    """Where the service manager wants to be told, for `connect`; None if it does not.

    Args:
        environ: the process's environment.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        return "\0" + address[1:]
    # Others, such as vsock:, are those of virtual machines.
    return address if address.startswith("/") else None


def watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Within how many seconds the service manager wants a sign of life; None for never.

    Args:
        environ: the process's environment.
    """
    text = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 1e6 if text.isdecimal() and int(text) else None
