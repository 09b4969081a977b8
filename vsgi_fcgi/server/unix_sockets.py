"""UNIX sockets that listen: in the file system, or in Linux's abstract names."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.server.listeners`
import errno
import os
import stat

from vsgi_fcgi.exceptions import ListenError
from vsgi_fcgi.server.addresses import AbstractAddress, Address, UnixAddress

# sockaddr_un.sun_path has 108 bytes, of which a NUL takes one: at the end of a path, or in
# front of an abstract name.
MAX_NAME = 107


def listen_unix(address: UnixAddress, backlog: int) -> _socket.socket:
    """Listen on a path.

    Args:
        address: the path; a stale socket there is replaced.
        backlog: connections that may wait to be accepted.

    Returns:
        The socket, non-blocking.

    Raises:
        ListenError: it cannot be done; one sentence says why and what to do.
    """
    name = os.fsencode(address.path)
    _check_length(name, address)
    _make_way(address)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.bind(name)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot listen on {address}: {_why_not(error, address)}") from error
    return sock


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
    folder = os.path.dirname(os.path.abspath(address.path))
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
