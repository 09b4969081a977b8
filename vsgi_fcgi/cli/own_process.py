"""The properties of the process while it serves: user, pid file, name, umask and folder."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

from vsgi_fcgi.cli.log_setup import configure_logging
from vsgi_fcgi.cli.pid_file import PidFile
from vsgi_fcgi.cli.settings.options import HTTPOptions, Options, ProcessOptions
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.listen.listeners import Listener
from vsgi_fcgi.listen.ownership import (
    SocketConfig,
    SocketOwnership,
    User,
    find_group,
    find_user,
    group_name,
    user_of,
)
from vsgi_fcgi.log.handlers import never_wait
from vsgi_fcgi.server.early_signals import Stopped

_Options = TypeVar("_Options", bound=ProcessOptions)

_FOLDER_VARIABLES: Final = ("TMPDIR", "TEMP", "TMP")
"""Variables that `tempfile` reads when it is first used; their paths may be relative."""


class OwnProcess:
    """Applies ``--user``, ``--group``, ``--pid-file`` and ``--proc-name`` to this process.

    Attributes:
        socket_ownership: owner, group and mode of the UNIX sockets.

    Args:
        options: the settings. Nothing is changed before `set_up`.

    Raises:
        UsageError: there is no such user or group, or a package is missing.
    """

    def __init__(self, options: ProcessOptions) -> None:
        self._identity = find_identity(options.user, options.group)
        uid, gid = self._identity.socket_owner
        self.socket_ownership = SocketOwnership()
        if isinstance(options, SocketConfig):
            self.socket_ownership = SocketOwnership.of(options, uid=uid, gid=gid)
        self._pid_file = None if options.pid_file is None else PidFile(options.pid_file)
        self._name = options.proc_name
        self._set_name = None if self._name is None else _setproctitle()

    def check_rights(self) -> None:
        """Check that `set_up` has the rights that it needs, before anything is opened.

        Raises:
            UsageError: the options need root.
        """
        self._identity.check()

    def set_up(self) -> None:
        """Write the pid file, set the process name and change the user.

        Call this once the sockets are open.

        Raises:
            UsageError: one of these failed.
        """
        if self._pid_file is not None:
            self._pid_file.acquire()
        if self._set_name is not None and self._name is not None:
            self._set_name(self._name)
        # Last, because the new user may lack the rights for the other steps.
        self._identity.take_on()

    def clean_up(self) -> None:
        """Remove the pid file. Calling this again has no effect."""
        if self._pid_file is not None:
            self._pid_file.remove()


def stopped_early(stop: Stopped, listeners: Sequence[Listener], options: ProcessOptions) -> int:
    """Log that a signal came before the server ran.

    Args:
        stop: the signal.
        listeners: the listening sockets. Waiting connections are closed.
        options: the settings of the log.

    Returns:
        The exit status: 1 if connections were waiting.
    """
    if stop.status:
        # After Ctrl-C, the user knows why the process ends.
        return stop.status
    configure_logging(options)
    never_wait()
    logger = logging.getLogger("vsgi_fcgi")
    logger.info("%s: stopped before the server ran", signal.Signals(stop.number).name)
    waiting = sum(listener.turn_away() for listener in listeners)
    if waiting:
        logger.warning("waiting connections that were closed without a response: %d", waiting)
    return 1 if waiting else 0


def apply_umask_and_chdir(options: _Options) -> _Options:
    """Set the umask, change to the folder of ``--chdir``, and make relative paths absolute.

    Absolute paths, also in TMPDIR, stay valid when the app calls `os.chdir`. If the working
    directory no longer exists, relative paths are not changed.

    Args:
        options: the settings.

    Returns:
        The settings with absolute paths.

    Raises:
        UsageError: changing to the folder of ``--chdir`` failed.
    """
    if options.umask is not None:
        os.umask(options.umask)
    if options.chdir is not None:
        try:
            os.chdir(options.chdir)
        except OSError as error:
            raise UsageError(
                f"--chdir {options.chdir}: {os.strerror(error.errno or 0)}; name a folder that"
                " exists and that this user may enter"
            ) from error
    try:
        os.getcwd()
    except FileNotFoundError:
        return options
    for name in _FOLDER_VARIABLES:
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.environ[name])
    return _with_absolute_paths(options)


def _with_absolute_paths(options: _Options) -> _Options:
    changes: dict[str, Any] = {}
    for name in ("log_config", "pid_file", "record"):
        path = getattr(options, name, None)
        if path is not None:
            changes[name] = os.path.abspath(path)
    if isinstance(options, Options):
        options = options.resolved()
        changes["reload_extra"] = tuple(map(os.path.abspath, options.reload_extra))
    if isinstance(options, HTTPOptions):
        changes["static"] = tuple(
            f"{url}={os.path.abspath(path)}" if url and path else f"{url}{sign}{path}"
            for url, sign, path in (text.partition("=") for text in options.static)
        )
    return replace(options, **changes)


def _setproctitle() -> Callable[[str], object]:
    """Return the function that sets the process name.

    Raises:
        UsageError: setproctitle is not installed.
    """
    try:
        from setproctitle import setproctitle
    except ImportError:
        raise UsageError(
            "--proc-name: setproctitle is missing; run pip install 'vsgi-fcgi[proc-name]'"
        ) from None
    return setproctitle


# ``--user`` and ``--group``: the identity of the process once its sockets are open.


class Identity(NamedTuple):
    """User and group that the process changes to.

    Attributes:
        user: the user; None to keep the current one.
        gid: the group; None to keep the current one.
    """

    user: User | None
    gid: int | None

    @property
    def is_new(self) -> bool:
        """Whether the user or the group differs from the current one."""
        # Some systems do not show the saved numbers.
        uids = os.getresuid() if hasattr(os, "getresuid") else (os.getuid(), os.geteuid())
        gids = os.getresgid() if hasattr(os, "getresgid") else (os.getgid(), os.getegid())
        other_user = self.user is not None and set(uids) != {self.user.uid}
        other_group = self.gid is not None and set(gids) != {self.gid}
        return other_user or other_group

    @property
    def socket_owner(self) -> tuple[int | None, int | None]:
        """User and group of the UNIX sockets if no option names them; None for the defaults.

        They are those that the server changes to, so that it can remove its sockets at the end
        and its user can connect to them.
        """
        if not self.is_new:
            return None, None
        return None if self.user is None else self.user.uid, self.gid

    def check(self) -> None:
        """Check that this process may change to this user and group.

        Raises:
            UsageError: only root may do that.
        """
        if self.is_new and os.geteuid() != 0:
            myself = user_of(os.geteuid())
            raise UsageError(
                f"{self} needs root, and this process runs as {myself}; start it as root, or start"
                " it as the user that serves, without --user and --group"
            )

    def take_on(self) -> None:
        """Change to this user and group permanently. Also sets HOME, USER and LOGNAME.

        Raises:
            UsageError: the system refuses, or would let the process become root again.
        """
        if not self.is_new:
            return
        try:
            self._change()
        except OSError as error:
            raise UsageError(
                f"{self}: {os.strerror(error.errno or 0)}; give this process the capabilities"
                " CAP_SETUID and CAP_SETGID, or start it as the user that serves, without --user"
                " and --group"
            ) from error
        if self.user is None:
            return
        if self.user.uid != 0 and _can_become_root():
            raise UsageError(
                f"{self}: the system would let this process become root again; take that right"
                " away (securebits, capabilities), or start it as that user, without --user and"
                " --group"
            )
        _set_environment(self.user)

    def _change(self) -> None:
        """Change the groups first, because a user other than root may not change them."""
        if self.user is not None and self.user.name is not None and self.gid is not None:
            os.initgroups(self.user.name, self.gid)
        else:
            os.setgroups([])
        if self.gid is not None:
            os.setresgid(self.gid, self.gid, self.gid)
        if self.user is not None:
            os.setresuid(self.user.uid, self.user.uid, self.user.uid)

    def __str__(self) -> str:
        """Return the options that name this identity."""
        user = "" if self.user is None else f"--user {self.user}"
        if self.gid is None or (self.user is not None and self.gid == self.user.gid):
            return user
        return f"{user} --group {group_name(self.gid)}".strip()


def find_identity(user: str | None, group: str | None) -> Identity:
    """Find the user and the group that ``--user`` and ``--group`` name.

    Args:
        user: a name or a number.
        group: a name or a number; None for the group of the user.

    Raises:
        UsageError: there is no such user or group.
    """
    found = None if user is None else find_user(user, "for --user")
    gid = None if group is None else find_group(group, "for --group")
    if found is not None and gid is None:
        gid = found.gid
        if gid is None:
            raise UsageError(
                f"--user {found}: the user database has no such user, and so no group for it; name"
                " a group with --group"
            )
    return Identity(found, gid)


def _can_become_root() -> bool:
    try:
        os.setresuid(0, 0, 0)
    except OSError:
        return False
    return True


def _set_environment(user: User) -> None:
    """Set HOME, USER and LOGNAME, as login and systemd do.

    Libraries look for their files in HOME, and fail if it is root's, which they cannot read.
    """
    os.environ["HOME"] = user.home or "/"
    for name in ("USER", "LOGNAME"):
        if user.name is not None:
            os.environ[name] = user.name
        else:
            os.environ.pop(name, None)
