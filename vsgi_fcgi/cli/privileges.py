"""``--user`` and ``--group``: what the process becomes once its sockets are open."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.accounts import User, find_group, find_user, group_name, user_of


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the process is to become.

    Attributes:
        user: the user; None to stay the one that it is.
        gid: the group; None to stay in the one that it is in.
    """

    user: User | None
    gid: int | None

    @property
    def is_new(self) -> bool:
        """Whether anything is to change."""
        other_user = self.user is not None and set(os.getresuid()) != {self.user.uid}
        other_group = self.gid is not None and set(os.getresgid()) != {self.gid}
        return other_user or other_group

    @property
    def socket_owner(self) -> tuple[int | None, int | None]:
        """User and group of the UNIX sockets, unless they are named; None for those of a file.

        The server's own, so that it can remove its sockets at the end, and that its user can use
        them.
        """
        if not self.is_new:
            return None, None
        return None if self.user is None else self.user.uid, self.gid

    def check(self) -> None:
        """See to it that there is a way to become this.

        Raises:
            UsageError: only root may do that.
        """
        if self.is_new and os.geteuid() != 0:
            myself = user_of(os.geteuid())
            raise UsageError(
                f"{self} needs root, and this is {myself}; start as root, or start as whoever is"
                " to serve, without --user and --group"
            )

    def take_on(self) -> None:
        """Become this, for good. HOME, USER and LOGNAME become those of the user.

        Raises:
            UsageError: the system forbids it, or would let the process become root again.
        """
        if not self.is_new:
            return
        try:
            self._change()
        except OSError as error:
            raise UsageError(
                f"{self} is not possible: {os.strerror(error.errno or 0)}; leave the capabilities"
                " CAP_SETUID and CAP_SETGID to this process, or start it as whoever is to serve,"
                " without --user and --group"
            ) from error
        if self.user is None:
            return
        if self.user.uid != 0 and _can_become_root():
            raise UsageError(
                f"{self} would not last, as the system lets this process become root again;"
                " take that away (securebits, capabilities), or start it as that user,"
                " without --user and --group"
            )
        _set_environment(self.user)

    def _change(self) -> None:
        """Groups first: a user who is not root may not change them."""
        if self.user is not None and self.user.name is not None and self.gid is not None:
            os.initgroups(self.user.name, self.gid)
        else:
            os.setgroups([])
        if self.gid is not None:
            os.setresgid(self.gid, self.gid, self.gid)
        if self.user is not None:
            os.setresuid(self.user.uid, self.user.uid, self.user.uid)

    def __str__(self) -> str:
        """The options that ask for it."""
        user = "" if self.user is None else f"--user {self.user}"
        if self.gid is None or (self.user is not None and self.gid == self.user.gid):
            return user
        return f"{user} --group {group_name(self.gid)}".strip()


def find_identity(user: str | None, group: str | None) -> Identity:
    """Whom ``--user`` and ``--group`` name.

    Args:
        user: a name or a number.
        group: a name or a number; the user's own group if None.

    Raises:
        UsageError: there is no such user or group.
    """
    found = None if user is None else find_user(user, "for --user")
    gid = None if group is None else find_group(group, "for --group")
    if found is not None and gid is None:
        gid = found.gid
        if gid is None:
            raise UsageError(
                f"--user {found} has no entry in the user database, and so no group;"
                " name one with --group"
            )
    return Identity(found, gid)


def _can_become_root() -> bool:
    try:
        os.setresuid(0, 0, 0)
    except OSError:
        return False
    return True


def _set_environment(user: User) -> None:
    """Say who the user is, as login and systemd do.

    Libraries look for files of their own in HOME, and trip over a root's that they cannot read.
    """
    os.environ["HOME"] = user.home or "/"
    for name in ("USER", "LOGNAME"):
        if user.name is not None:
            os.environ[name] = user.name
        else:
            os.environ.pop(name, None)
