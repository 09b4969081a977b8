"""What the process is while it serves: its user, its pid file, its name."""

from __future__ import annotations

import os
from collections.abc import Callable

from vsgi_fcgi.cli.options import ProcessOptions
from vsgi_fcgi.cli.pid_file import PidFile
from vsgi_fcgi.cli.privileges import find_identity
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.config import SocketConfig
from vsgi_fcgi.server.socket_ownership import SocketOwnership


class OwnProcess:
    """What ``--user``, ``--group``, ``--pid-file`` and ``--proc-name`` make of this process.

    Attributes:
        socket_ownership: whom the UNIX sockets are to belong to.

    Args:
        options: the settings; nothing is changed yet.

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
        """See to it that `enter` may do what it does, before anything is opened.

        Raises:
            UsageError: only root may do that.
        """
        self._identity.check()

    def enter(self) -> None:
        """Write the pid file, take the name and become the user, once the sockets are open.

        Raises:
            UsageError: one of these cannot be done.
        """
        if self._pid_file is not None:
            self._pid_file.take()
        if self._set_name is not None and self._name is not None:
            self._set_name(self._name)
        # Last, as it gives away the right to do the rest.
        self._identity.take_on()

    def leave(self) -> None:
        """Remove the pid file; again is harmless."""
        if self._pid_file is not None:
            self._pid_file.remove()


def settle(options: ProcessOptions) -> None:
    """Take on the umask, and go to the folder of ``--chdir``.

    Raises:
        UsageError: it cannot be entered.
    """
    if options.umask is not None:
        os.umask(options.umask)
    if options.chdir is None:
        return
    try:
        os.chdir(options.chdir)
    except OSError as error:
        raise UsageError(
            f"--chdir {options.chdir} cannot be entered: {os.strerror(error.errno or 0)};"
            " name a folder that exists and that this user may enter"
        ) from error


def _setproctitle() -> Callable[[str], object]:
    """The function that names a process.

    Raises:
        UsageError: the package that has it is not installed.
    """
    try:
        from setproctitle import setproctitle
    except ImportError:
        raise UsageError(
            "--proc-name needs setproctitle: pip install 'vsgi-fcgi[proc-name]'"
        ) from None
    return setproctitle
