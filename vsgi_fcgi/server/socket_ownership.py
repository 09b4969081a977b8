"""Who may connect to a UNIX socket in the file system: its mode, its owner, its group."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from vsgi_fcgi.exceptions import ListenError
from vsgi_fcgi.server.accounts import find_group, find_user, group_name, user_of
from vsgi_fcgi.server.config import SocketConfig


@dataclass(frozen=True, slots=True)
class SocketOwnership:
    """What the file of a UNIX socket gets before anybody can connect.

    Attributes:
        mode: its permissions; whoever is to connect must be able to write to it.
        uid: its owner; that of a new file if None.
        gid: its group; that of a new file if None.
    """

    mode: int = 0o660
    uid: int | None = None
    gid: int | None = None

    @classmethod
    def of(
        cls, config: SocketConfig, *, uid: int | None = None, gid: int | None = None
    ) -> SocketOwnership:
        """What a configuration asks for.

        Args:
            config: the settings.
            uid: the owner where they name none.
            gid: the group where they name none.

        Raises:
            UsageError: there is no such user or group.
        """
        if config.socket_user is not None:
            uid = find_user(config.socket_user, "to own the UNIX sockets").uid
        if config.socket_group is not None:
            gid = find_group(config.socket_group, "for the UNIX sockets")
        return cls(config.socket_mode, uid, gid)

    def apply(self, path: str) -> None:
        """Give these to a socket that this process has just bound and that does not listen yet.

        If that fails, the socket's file is removed again.

        Raises:
            ListenError: this user may not do that, or the socket is not there any more.
        """
        try:
            # Whoever else may write in the folder could put a link in the socket's place: what
            # is looked at here is what is changed below.
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _vanished(path) from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISSOCK(status.st_mode):
                raise _vanished(path)
            uid = self.uid if self.uid != status.st_uid else None
            gid = self.gid if self.gid != status.st_gid else None
            # fchown and fchmod do not take such a descriptor.
            same = f"/proc/self/fd/{fd}"
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
                    f"the owner and the mode of {path} cannot be set:"
                    f" {os.strerror(error.errno or 0)}; choose a path on another file system"
                ) from error
        finally:
            os.close(fd)


DEFAULT_OWNERSHIP = SocketOwnership()


def _vanished(path: str) -> ListenError:
    return ListenError(
        f"somebody has replaced {path} while it was being opened;"
        " choose a folder in which nobody else may write"
    )


def _forbidden(path: str, uid: int | None, gid: int | None) -> str:
    """The sentence for what only root may do."""
    myself = user_of(os.geteuid())
    if uid is not None:
        return (
            f"{path} cannot be given to the user {user_of(uid)}: only root may do that, and this"
            f" is {myself}; start as root, or give it to a group that {myself} is in"
        )
    if gid is not None:
        name = group_name(gid)
        return (
            f"{path} cannot be given to the group {name}: {myself} is not in it; add {myself} to"
            " the group, name another group, or start as root"
        )
    return f"the mode of {path} cannot be set: the file system does not let {myself} do that"
