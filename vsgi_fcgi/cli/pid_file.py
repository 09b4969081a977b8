"""``--pid-file``: a file with the process id, which also keeps a second server from starting."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time

from vsgi_fcgi.exceptions import UsageError

_ATTEMPTS = 100
"""Times that the file may be removed by its last owner between our opening and our locking it."""

_MOST_BYTES = 64
"""A file that holds more is none of a process id."""

_SLACK = 1.0
"""Seconds by which the clocks of processes and of files may differ."""


class PidFile:
    """A file that holds our process id for as long as we live.

    The lock on it says whether its process lives: the kernel releases it with the process,
    however that ends, while a number may belong to another process by then. A file without a
    lock, as other programs write it, counts as one of a live process if that has not begun since
    the file was written.

    Args:
        path: where it is; relative to the working folder of the moment.
    """

    def __init__(self, path: str) -> None:
        # An app may change the working directory; the file must still be found at the end.
        self._path = os.path.abspath(path)
        self._fd = -1

    def take(self) -> None:
        """Write our process id, in place of what a dead process has left behind.

        Raises:
            UsageError: it is that of a live process, or cannot be written.
        """
        for _ in range(_ATTEMPTS):
            try:
                fd = os.open(
                    self._path,
                    os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK,
                    0o644,
                )
            except OSError as error:
                raise UsageError(self._why_not(error)) from error
            try:
                if self._lock(fd):
                    self._fd = fd
                    break
            finally:
                if self._fd != fd:
                    os.close(fd)
        else:
            raise UsageError(
                f"somebody keeps replacing the pid file {self._path}; name another with --pid-file"
            )
        # A lock belongs to all who have inherited the descriptor: a child that outlives us would
        # make us look alive. (exec closes it by itself.)
        os.register_at_fork(after_in_child=self._let_go)

    def remove(self) -> None:
        """Remove the file, if it is still ours; again is harmless.

        Where the folder is closed to the user that the server has become, it stays behind, but
        empty.
        """
        # Taken away first: at a second signal another thread may come to this too.
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if _is_at(fd, self._path):
                os.unlink(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
        os.close(fd)

    def _lock(self, fd: int) -> bool:
        """Make the file ours, unless it has gone from its place meanwhile.

        Raises:
            UsageError: it is somebody else's.
        """
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UsageError(f"the pid file {self._path} is no file; name another with --pid-file")
        text = os.pread(fd, _MOST_BYTES + 1, 0).strip()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(self._in_use(text.decode(errors="replace"))) from None
        except OSError as error:
            raise UsageError(self._why_not(error)) from error
        if not _is_at(fd, self._path):
            return False
        # Read again: its last owner may have emptied it before it let go.
        text = os.pread(fd, _MOST_BYTES + 1, 0).strip()
        if text and not (text.isdigit() and len(text) <= _MOST_BYTES):
            raise UsageError(
                f"{self._path} holds something other than a process id; remove it yourself or"
                " name another file with --pid-file"
            )
        if text and _is_alive(int(text), os.fstat(fd).st_mtime):
            raise UsageError(self._in_use(text.decode()))
        try:
            # Empty for a moment, rather than one number and the rest of another.
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            raise UsageError(self._why_not(error)) from error
        # Whatever the umask: a process id is no secret. A file that was there may be another's.
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, 0o644)
        return True

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _in_use(self, number: str) -> str:
        return (
            f"the pid file {self._path} belongs to the process {number or '(unknown)'}, which is"
            " alive; stop it, or name another file with --pid-file"
        )

    def _why_not(self, error: OSError) -> str:
        folder = os.path.dirname(self._path)
        match error.errno:
            case errno.ENOENT:
                why = f"there is no folder {folder}; create it or choose another path"
            case errno.ELOOP:
                why = "it is a link; remove it or choose another path"
            case errno.EISDIR:
                why = "it is a folder; choose another path"
            case errno.EACCES | errno.EPERM | errno.EROFS:
                why = "this user may not write it; allow it or choose another path"
            case _:
                why = f"{os.strerror(error.errno or 0)}; choose another path"
        return f"the pid file {self._path} cannot be written: {why}"


def _is_at(fd: int, path: str) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def _is_alive(pid: int, written: float) -> bool:
    """Whether a process may be the one that wrote its number into a file.

    Args:
        pid: its number.
        written: when the file was written, in seconds of Unix time.
    """
    if pid == os.getpid():
        return False  # In a container the first process has the same number every time.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Behind the name, which may hold spaces and parentheses: the state, and 19 fields on
            # the moment at which it began, in ticks since the machine did.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    return fields[0] not in (b"Z", b"X") and age > time.time() - written - _SLACK
