"""Mode, owner and group of UNIX sockets, which decide who may connect."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from vsgi_fcgi.exceptions import ListenError, UsageError
from vsgi_fcgi.settings import Octal, SettingsBase, setting

# Look up users and groups of this machine by name or number.

_LAST_ID = 2**32 - 2
"""Largest number of a user or group. To the kernel, the next number means "do not change"."""


class User(NamedTuple):
    """User account. Only `uid` is set for a number that is not in the user database.

    Attributes:
        uid: user number.
        gid: primary group of the user, or None.
        name: login name, or None.
        home: home folder, or None.
    """

    uid: int
    gid: int | None = None
    name: str | None = None
    home: str | None = None

    def __str__(self) -> str:
        return self.name or str(self.uid)


def find_user(text: str, purpose: str) -> User:
    """Look up a user.

    Args:
        text: a name or a number; the number need not be in the user database.
        purpose: purpose of the user in the error message, such as ``to own the socket``.

    Raises:
        UsageError: the user does not exist.
    """
    number = _number(text)
    try:
        # A name may consist of digits, so the name is looked up first, as chown does.
        entry = pwd.getpwnam(text)
    except (KeyError, ValueError):
        if number is None:
            names = (item.pw_name for item in pwd.getpwall())
            raise UsageError(_unknown("user", text, purpose, names)) from None
        return user_of(number)
    return User(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir)


def user_of(uid: int) -> User:
    """Return the user with a number, with the data of the user database."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return User(uid)
    return User(uid, entry.pw_gid, entry.pw_name, entry.pw_dir)


def find_group(text: str, purpose: str) -> int:
    """Look up a group.

    Args:
        text: a name or a number; the number need not be in the group database.
        purpose: purpose of the group in the error message.

    Returns:
        The group number.

    Raises:
        UsageError: the group does not exist.
    """
    number = _number(text)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        if number is None:
            names = (item.gr_name for item in grp.getgrall())
            raise UsageError(_unknown("group", text, purpose, names)) from None
        return number


def group_name(gid: int) -> str:
    """Return the name of a group, or its number if it has no name."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _number(text: str) -> int | None:
    """Return a text as a number, or None if it is not a valid number of a user or group."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    number = int(text)
    return number if number <= _LAST_ID else None


def _unknown(kind: str, text: str, purpose: str, names: Iterable[str]) -> str:
    """Return the error message for an unknown user or group name."""
    import difflib  # only for error messages

    near = difflib.get_close_matches(text, list(names), n=1)
    advice = f"did you mean {near[0]}?" if near else f"create the {kind} or choose another"
    return f"there is no {kind} {text!r} {purpose}; {advice}"


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class SocketConfig(SettingsBase):
    """Settings of the listening sockets that the server creates."""

    backlog: int = setting(
        1024,
        "maximum number of connections that wait to be accepted on each listener",
        group="listening",
        minimum=1,
    )
    socket_mode: Octal = setting(
        0o660,
        "permissions of the UNIX sockets that the server creates, in octal",
        group="listening",
        minimum=0,
        maximum=0o777,
        metavar="MODE",
    )
    socket_user: str | None = setting(
        None,
        "owner of the UNIX sockets that the server creates, by name or number",
        group="listening",
        metavar="USER",
        default_text="user of the server",
    )
    socket_group: str | None = setting(
        None,
        "group of the UNIX sockets that the server creates, by name or number",
        group="listening",
        metavar="GROUP",
        default_text="group of the server",
    )


class SocketOwnership(NamedTuple):
    """Access rights that a UNIX socket gets before it accepts connections.

    Attributes:
        mode: permissions of the file; a client needs write permission to connect.
        uid: owner; None for the default owner of a new file.
        gid: group; None for the default group of a new file.
    """

    mode: int = 0o660
    uid: int | None = None
    gid: int | None = None

    @classmethod
    def of(
        cls, config: SocketConfig, *, uid: int | None = None, gid: int | None = None
    ) -> SocketOwnership:
        """Return the access rights that a configuration asks for.

        Args:
            config: the settings.
            uid: owner if the settings name none.
            gid: group if the settings name none.

        Raises:
            UsageError: the user or group does not exist.
        """
        if config.socket_user is not None:
            uid = find_user(config.socket_user, "to own the UNIX sockets").uid
        if config.socket_group is not None:
            gid = find_group(config.socket_group, "for the UNIX sockets")
        return cls(config.socket_mode, uid, gid)

    def apply(self, path: str) -> None:
        """Apply the rights to a socket that is bound and does not listen yet.

        If this fails, the socket's file is removed.

        Args:
            path: path of the socket's file.

        Raises:
            ListenError: this user may not set the rights, or the file was replaced.
        """
        fd = -1
        try:
            # Another user with write permission in the folder could replace the socket with a
            # link. The descriptor makes sure that the file that is checked is also changed.
            if hasattr(os, "O_PATH") and os.path.isdir("/proc/self/fd"):
                fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                # fchown and fchmod do not accept an O_PATH descriptor.
                same = f"/proc/self/fd/{fd}"
            else:
                same = path
            status = os.lstat(path) if fd < 0 else os.fstat(fd)
        except OSError as error:
            raise _vanished(path) from error
        try:
            if not stat.S_ISSOCK(status.st_mode):
                raise _vanished(path)
            uid = self.uid if self.uid != status.st_uid else None
            gid = self.gid if self.gid != status.st_gid else None
            as_is = uid is None and gid is None and self.mode == stat.S_IMODE(status.st_mode)
            if fd < 0 and not as_is and _others_may_write(os.path.dirname(os.path.abspath(path))):
                os.unlink(path)
                raise ListenError(_unsafe(path))
            try:
                if uid is not None or gid is not None:
                    os.chown(same, -1 if uid is None else uid, -1 if gid is None else gid)
                if self.mode != stat.S_IMODE(status.st_mode):
                    os.chmod(same, self.mode)
            except OSError as error:
                os.unlink(path)
                if isinstance(error, PermissionError):
                    raise ListenError(_forbidden(path, uid, gid)) from error
                raise ListenError(
                    f"{path}: owner and mode cannot be set:"
                    f" {os.strerror(error.errno or 0)}; choose a path on another file system"
                ) from error
        finally:
            if fd >= 0:
                os.close(fd)


DEFAULT_OWNERSHIP = SocketOwnership()


def _vanished(path: str) -> ListenError:
    return ListenError(
        f"{path}: another process replaced the socket while it was being opened;"
        " choose a folder in which no other user may write"
    )


def _others_may_write(folder: str) -> bool:
    """Return whether another user, except root, may replace a file of this user in a folder."""
    status = os.stat(folder)
    if status.st_mode & stat.S_ISVTX:
        return False
    return bool(status.st_mode & 0o022) or status.st_uid not in (0, os.geteuid())


def _unsafe(path: str) -> str:
    return (
        f"{path}: without /proc, the owner and mode of a socket can be set only in a folder in"
        " which no other user may write; choose such a folder"
    )


def _forbidden(path: str, uid: int | None, gid: int | None) -> str:
    """Return the error message for a right that this user may not set."""
    myself = user_of(os.geteuid())
    if uid is not None:
        return (
            f"{path}: the owner cannot be changed to {user_of(uid)}, because the server runs as"
            f" {myself} and not as root; start it as root, or set a group of {myself} instead"
        )
    if gid is not None:
        name = group_name(gid)
        return (
            f"{path}: the group cannot be changed to {name}, because {myself} is not a member;"
            f" add {myself} to the group, choose another group, or start the server as root"
        )
    return (
        f"{path}: the file system does not allow {myself} to set the mode;"
        " choose a path on another file system"
    )
