"""``--pid-file``: a file with the process id, which also prevents a second start."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time

from vsgi_fcgi.exceptions import UsageError

_ATTEMPTS = 100
"""How often to retry if the previous owner removes the file between our open and our lock."""

_MAX_BYTES = 64
"""Largest size of a pid file; a larger file holds something else."""

_SLACK = 1.0
"""Seconds by which process start times and file times may differ."""


class PidFile:
    """A file that holds our process id while this process runs.

    A lock on the file shows whether its process is alive. The kernel releases the lock however
    the process ends, while the number may belong to another process by then. A file without a
    lock, as other programs write it, belongs to a live process if the process with that number
    started before the file was written.

    Args:
        path: path of the file; relative to the current working directory.
    """

    def __init__(self, path: str) -> None:
        # Absolute, because the app may change the working directory before the file is removed.
        self._path = os.path.abspath(path)
        self._fd = -1

    def acquire(self) -> None:
        """Write our process id. Replaces a file that a dead process left.

        Raises:
            UsageError: the file belongs to a live process, or cannot be written.
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
                f"--pid-file {self._path}: other processes keep replacing the file; choose another"
                " path"
            )
        # A lock belongs to all processes that inherited the descriptor: with it, a forked child
        # that outlives us would make us look alive. (exec closes the descriptor.)
        os.register_at_fork(after_in_child=self._close)

    def remove(self) -> None:
        """Remove the file if it is still ours. Calling this again has no effect.

        If the user of ``--user`` may not remove files from the folder, the file stays but is
        emptied.
        """
        # Reset first, because at a second signal another thread may call this too.
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
        """Lock the file and write our process id.

        Returns:
            False if the file was removed or replaced in the meantime.

        Raises:
            UsageError: the file belongs to another process, or is not a pid file.
        """
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"--pid-file {self._path} is not a file; choose another path")
        if status.st_nlink > 1:
            raise UsageError(
                f"--pid-file {self._path}: it is a hard link; remove it or choose another path"
            )
        text = os.pread(fd, _MAX_BYTES + 1, 0).strip()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(self._in_use(text.decode(errors="replace"))) from None
        except OSError as error:
            raise UsageError(self._why_not(error)) from error
        if not _is_at(fd, self._path):
            return False
        # Read again, because the previous owner may have emptied it before it released the lock.
        text = os.pread(fd, _MAX_BYTES + 1, 0).strip()
        if text and not (text.isdigit() and len(text) <= _MAX_BYTES):
            raise UsageError(
                f"--pid-file {self._path}: the file holds something other than a process id; remove"
                " it or choose another path"
            )
        if text and _is_alive(int(text), os.fstat(fd).st_mtime):
            raise UsageError(self._in_use(text.decode()))
        try:
            # First empty, so that a reader never sees a mixture of two numbers.
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            raise UsageError(self._why_not(error)) from error
        # Readable whatever the umask, as a process id is no secret. Only the owner of a file that
        # existed may change its mode.
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, 0o644)
        return True

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _in_use(self, number: str) -> str:
        return (
            f"--pid-file {self._path}: process {number or '(unknown)'} uses this file and is alive;"
            " stop it or choose another path"
        )

    def _why_not(self, error: OSError) -> str:
        folder = os.path.dirname(self._path)
        match error.errno:
            case errno.ENOENT:
                why = f"there is no folder {folder}; create it or choose another path"
            case errno.ELOOP:
                why = "it is a symbolic link; remove it or choose another path"
            case errno.EISDIR:
                why = "it is a folder; choose another path"
            case errno.EACCES | errno.EPERM | errno.EROFS:
                why = "this user may not write it; change the permissions or choose another path"
            case _:
                why = f"{os.strerror(error.errno or 0)}; choose another path"
        return f"--pid-file {self._path}: {why}"


def _is_at(fd: int, path: str) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def _is_alive(pid: int, written: float) -> bool:
    """Return whether a process may be the one that wrote its number into a file.

    Args:
        pid: the process id.
        written: when the file was written, in seconds since the epoch.
    """
    if pid == os.getpid():
        return False  # In a container, the first process has the same number at each start.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name may hold spaces and parentheses. After it come the state and, 19 fields
            # later, the start time in clock ticks since boot.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    return fields[0] not in (b"Z", b"X") and age > time.time() - written - _SLACK
