"""Listening UNIX sockets, with a path or with an abstract name of Linux."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.listen.listeners`
import contextlib
import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterator

from vsgi_fcgi.addresses import MAX_NAME, AbstractAddress, Address, UnixAddress
from vsgi_fcgi.exceptions import ListenError
from vsgi_fcgi.listen.ownership import SocketOwnership

_LOCK_WAIT = 1.0
"""Maximum time in seconds to wait while another server opens a socket in the same folder."""


def listen_unix(address: UnixAddress, backlog: int, ownership: SocketOwnership) -> _socket.socket:
    """Listen on a UNIX socket with a path.

    Args:
        address: the path; a stale socket there is replaced.
        backlog: maximum number of connections that wait to be accepted.
        ownership: mode, owner and group, which are set before the socket listens.

    Returns:
        The non-blocking socket.

    Raises:
        ListenError: the socket cannot be opened; the message says why and what to do.
    """
    name = os.fsencode(address.path)
    _check_length(name, address)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        with _turn(address):
            _make_way(address)
            sock.bind(name)
            # The kernel refuses all connections until the socket listens. So the umask and the
            # default owner of a new file never decide who may connect.
            ownership.apply(address.path)
            try:
                sock.listen(backlog)
            except OSError:
                os.unlink(address.path)
                raise
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenError(f"{address}: {_reason(error, address)}") from error
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _turn(address: UnixAddress) -> Iterator[None]:
    """Hold a lock on the folder while a socket is opened in it.

    A socket that is bound and does not listen yet looks like a stale one. Without the lock, two
    servers that start at the same time could remove each other's sockets. The folder itself is
    locked, so that no lock file is needed. The server continues without a lock if the folder
    cannot be locked: it is not readable, its file system has no locks, or another program keeps
    it locked.
    """
    try:
        fd = os.open(_folder(address), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        fd = -1  # If the folder is unusable, `bind` reports the error.
    try:
        if fd >= 0:
            _lock(fd)
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _lock(fd: int) -> None:
    """Wait for a lock, but no longer than `_LOCK_WAIT`."""
    deadline = time.monotonic() + _LOCK_WAIT
    while time.monotonic() < deadline:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.002)
        except OSError:
            return
        else:
            return


def _folder(address: UnixAddress) -> str:
    return os.path.dirname(os.path.abspath(address.path))


def _make_way(address: UnixAddress) -> None:
    """Remove a stale socket, which a server left behind when it crashed.

    Raises:
        ListenError: the file at the path is in use or is not a socket.
    """
    try:
        mode = os.lstat(address.path).st_mode
    except OSError:
        return  # The path is free, or `bind` reports the error.
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"{address}: the file exists and is not a socket; remove it or choose another path"
        )
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        # A blocking connect would wait for a server whose backlog is full.
        probe.setblocking(False)
        code = probe.connect_ex(os.fsencode(address.path))
    finally:
        probe.close()
    if code == errno.ECONNREFUSED:
        try:
            os.unlink(address.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ListenError(
                f"{address}: a server that has exited left the socket behind, but it cannot be"
                f" removed ({error.strerror}); remove it or choose another path"
            ) from error
    elif code in (errno.EACCES, errno.EPERM):
        raise ListenError(
            f"{address}: the socket exists, and this user may not connect to check whether a"
            " server answers; choose another path"
        )
    elif code != errno.ENOENT:
        raise ListenError(
            f"{address}: another server listens here; stop that server or choose another path"
        )


def _reason(error: OSError, address: UnixAddress) -> str:
    """Return why a path cannot be bound, and what to do."""
    folder = _folder(address)
    match error.errno:
        case errno.ENOENT:
            return f"the folder {folder} does not exist; create it or choose another path"
        case errno.ENOTDIR:
            return f"{folder} is not a folder; choose another path"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return (
                f"this user may not create files in {folder};"
                " change its permissions or choose another path"
            )
        case errno.EADDRINUSE:
            return "another server has just opened the same path; choose another path"
        case _:
            return os.strerror(error.errno or 0)


def listen_abstract(address: AbstractAddress, backlog: int) -> _socket.socket:
    """Listen on a UNIX socket with an abstract name of Linux.

    Args:
        address: the name.
        backlog: maximum number of connections that wait to be accepted.

    Returns:
        The non-blocking socket.

    Raises:
        ListenError: the socket cannot be opened; the message says why and what to do.
    """
    if not sys.platform.startswith("linux"):
        raise ListenError(f"{address}: only Linux has sockets with abstract names; choose a path")
    name = os.fsencode(address.name)
    _check_length(name, address)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.bind(b"\0" + name)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenError(
                f"{address}: another server listens here; stop that server or choose another name"
            ) from error
        raise ListenError(f"{address}: the socket cannot be opened: {error.strerror}") from error
    return sock


def _check_length(name: bytes, address: Address) -> None:
    if len(name) > MAX_NAME:
        raise ListenError(
            f"{address}: the name has {len(name)} bytes, but a UNIX socket allows only"
            f" {MAX_NAME}; choose a shorter name"
        )
