"""Users and groups of this machine, by name or by number."""

from __future__ import annotations

import difflib
import grp
import pwd
from collections.abc import Iterable
from dataclasses import dataclass

from vsgi_fcgi.exceptions import UsageError

_LAST_ID = 2**32 - 2
"""The largest number of a user or group; the next one means "leave it as it is" to the kernel."""


@dataclass(frozen=True, slots=True)
class User:
    """A user.

    Attributes:
        uid: the number.
        gid: the user's own group; None for a number that the user database does not have.
        name: the login name; None for such a number.
        home: the home folder; None for such a number.
    """

    uid: int
    gid: int | None = None
    name: str | None = None
    home: str | None = None

    def __str__(self) -> str:
        return self.name or str(self.uid)


def find_user(text: str, purpose: str) -> User:
    """Look a user up.

    Args:
        text: a name, or a number; the number need not be in the user database.
        purpose: what the user is wanted for, for the error's sentence: ``to own the socket``.

    Raises:
        UsageError: there is no such user.
    """
    number = _number(text)
    try:
        # A name may consist of digits, so it is looked for first, as chown does.
        entry = pwd.getpwnam(text)
    except (KeyError, ValueError):
        if number is None:
            names = (item.pw_name for item in pwd.getpwall())
            raise UsageError(_nobody("user", text, purpose, names)) from None
        return user_of(number)
    return User(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir)


def user_of(uid: int) -> User:
    """The user with a number, with what the user database knows."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return User(uid)
    return User(uid, entry.pw_gid, entry.pw_name, entry.pw_dir)


def find_group(text: str, purpose: str) -> int:
    """Look a group up.

    Args:
        text: a name, or a number; the number need not be in the group database.
        purpose: what the group is wanted for, for the error's sentence.

    Returns:
        Its number.

    Raises:
        UsageError: there is no such group.
    """
    number = _number(text)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        if number is None:
            names = (item.gr_name for item in grp.getgrall())
            raise UsageError(_nobody("group", text, purpose, names)) from None
        return number


def group_name(gid: int) -> str:
    """A group's name, or its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _number(text: str) -> int | None:
    """The number that a text is, if it can be that of a user or a group."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    number = int(text)
    return number if number <= _LAST_ID else None


def _nobody(kind: str, text: str, purpose: str, names: Iterable[str]) -> str:
    """The sentence for a name that nobody has."""
    near = difflib.get_close_matches(text, list(names), n=1)
    advice = f"did you mean {near[0]}?" if near else f"create the {kind} or name another"
    return f"there is no {kind} {text!r} {purpose}; {advice}"
