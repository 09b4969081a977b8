"""Keep the standard descriptors open, raise the limit of open files, and open shared memory."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterable
from typing import Final


def open_standard(fds: Iterable[int] = (0, 1, 2)) -> None:
    """Open /dev/null on the standard descriptors that are closed.

    A FastCGI process may be started with descriptors 1 and 2 closed (section 2.2). Otherwise the
    first socket, or the first file of an app, would get one of these numbers and receive printed
    text.
    """
    for fd in fds:
        try:
            os.fstat(fd)
        except OSError:
            opened = open_null()
            if opened == fd:
                os.set_inheritable(fd, True)
            else:
                os.dup2(opened, fd)
                os.close(opened)


def open_null() -> int:
    """Open /dev/null, or a pipe whose other end is closed if a chroot has no /dev/null.

    Raises:
        OSError: no descriptor is available.
    """
    try:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        reader, writer = os.pipe()
        os.close(writer)
        return reader


def open_memory(name: str, size: int) -> int:
    """Open memory that processes share by its descriptor, filled with zeros.

    Args:
        name: a name for those who look at the descriptors of the process.
        size: its size in bytes.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(name)
    else:
        # Imported here because few systems need it, and it imports much.
        import tempfile

        with tempfile.TemporaryFile(prefix=name) as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, size)
    return fd


_SPARE: Final = 512
"""Number of descriptors for everything except connections and temporary files."""


def raise_limit(wanted: int) -> None:
    """Raise the soft limit of open files as far as needed and allowed.

    Args:
        wanted: maximum number of connections and temporary files at the same time.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted += _SPARE
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems report no limit, and refuse numbers above one of the kernel.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
