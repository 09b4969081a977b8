"""UNIX sockets that listen: in the file system, or in Linux's abstract names."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.server.listeners`
import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator

from vsgi_fcgi.addresses import AbstractAddress, Address, UnixAddress
from vsgi_fcgi.exceptions import ListenError
from vsgi_fcgi.server.socket_ownership import SocketOwnership

# sockaddr_un.sun_path has 108 bytes, of which a NUL takes one: at the end of a path, or in
# front of an abstract name.
MAX_NAME = 107

_LOCK_WAIT = 1.0
"""Seconds that another server gets to open its socket in the same folder; it takes far less."""


def listen_unix(address: UnixAddress, backlog: int, ownership: SocketOwnership) -> _socket.socket:
    """Listen on a path.

    Args:
        address: the path; a stale socket there is replaced.
        backlog: connections that may wait to be accepted.
        ownership: its mode, owner and group, which it has before anybody can connect.

    Returns:
        The socket, non-blocking.

    Raises:
        ListenError: it cannot be done; one sentence says why and what to do.
    """
    name = os.fsencode(address.path)
    _check_length(name, address)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        with _turn(address):
            _make_way(address)
            sock.bind(name)
            # Until it listens the kernel refuses everybody: so there is no moment at which the
            # umask, or the owner of a new file, decides who may connect.
            ownership.apply(address.path)
            try:
                sock.listen(backlog)
            except OSError:
                os.unlink(address.path)
                raise
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot listen on {address}: {_why_not(error, address)}") from error
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _turn(address: UnixAddress) -> Iterator[None]:
    """Take turns with other servers that start in the same folder.

    A socket that is bound and does not listen yet looks like one that was left behind: without
    turns, two that start at once could remove each other's. The lock is on the folder, so that
    no file of its own is needed. It goes without where the folder cannot be locked: it may not
    be read, its file system has no locks, or somebody keeps a lock of their own on it.
    """
    try:
        fd = os.open(_folder(address), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        fd = -1  # If it matters, `bind` will say what is wrong.
    try:
        if fd >= 0:
            _lock(fd)
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _lock(fd: int) -> None:
    """Wait for a lock, for `_LOCK_WAIT` at most."""
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
    """Remove a socket that a server left behind when it died.

    Raises:
        ListenError: what stands at the path is in use or is no socket.
    """
    try:
        mode = os.lstat(address.path).st_mode
    except OSError:
        return  # Nothing is there, or `bind` will say what is wrong.
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"{address} exists and is not a socket; remove it yourself or choose another path"
        )
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        # A server whose backlog is full would let a blocking connect wait.
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
                f"{address} was left behind by a server that is gone, but cannot be removed"
                f" ({error.strerror}); remove it or choose another path"
            ) from error
    elif code in (errno.EACCES, errno.EPERM):
        raise ListenError(
            f"{address} exists, and this user may not connect to it to see whether a server"
            " answers; choose another path"
        )
    elif code != errno.ENOENT:
        raise ListenError(f"somebody answers on {address}; stop that server or choose another path")


def _why_not(error: OSError, address: UnixAddress) -> str:
    """Why a path cannot be bound, and what to do."""
    folder = _folder(address)
    match error.errno:
        case errno.ENOENT:
            return f"there is no folder {folder}; create it or choose another path"
        case errno.ENOTDIR:
            return f"{folder} is not a folder; choose another path"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"a file may not be created in {folder}; allow it or choose another path"
        case errno.EADDRINUSE:
            return "another server has just taken it; choose another path"
        case _:
            return os.strerror(error.errno or 0)


def listen_abstract(address: AbstractAddress, backlog: int) -> _socket.socket:
    """Listen on a Linux abstract name.

    Args:
        address: the name.
        backlog: connections that may wait to be accepted.

    Returns:
        The socket, non-blocking.

    Raises:
        ListenError: it cannot be done; one sentence says why and what to do.
    """
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
                f"somebody listens on {address}; stop that server or choose another name"
            ) from error
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from error
    return sock


def _check_length(name: bytes, address: Address) -> None:
    if len(name) > MAX_NAME:
        raise ListenError(
            f"{address} is {len(name)} bytes long, but the name of a UNIX socket has"
            f" at most {MAX_NAME}; choose a shorter one"
        )
