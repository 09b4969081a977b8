"""Open listening sockets, take over inherited ones, and clean up after them.

All sockets have the C class `_socket.socket`, and `_socket` also resolves host names. The main
context must own native sockets. `gevent.monkey` replaces the names that the `socket` module
exports (including `socket.SocketType`), but never changes `_socket`. The subclass in `socket` is
not needed, because ``_accept``, ``recv`` and ``send`` are methods of the C class.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Mapping, MutableMapping
from typing import NamedTuple

from vsgi_fcgi.addresses import (
    AbstractAddress,
    Address,
    DescriptorAddress,
    InetAddress,
    SystemdAddress,
    UnixAddress,
)
from vsgi_fcgi.children import silence
from vsgi_fcgi.descriptors import open_null
from vsgi_fcgi.exceptions import ListenError
from vsgi_fcgi.listen.ownership import DEFAULT_OWNERSHIP, SocketOwnership
from vsgi_fcgi.listen.tcp import listen_tcp, plain_address
from vsgi_fcgi.listen.unix import listen_abstract, listen_unix


class Listener:
    """Listening socket.

    Attributes:
        sock: the native socket, non-blocking and closed on exec.
        uri: its address as a VSGI URI.
        inherited: True if the process was started with the socket.
        shared: True if other processes may accept connections on it for the same app.
        supervised: True if a supervisor holds it, and shuts it down when all processes stop.
        is_tcp: True for TCP, where peers have IP addresses.
        open_to_others: True if other machines may reach it.
    """

    __slots__ = (
        "__weakref__",
        "_file",
        "inherited",
        "is_tcp",
        "open_to_others",
        "shared",
        "sock",
        "supervised",
        "uri",
    )

    def __init__(
        self,
        sock: _socket.socket,
        uri: str,
        *,
        inherited: bool = False,
        path: str | None = None,
    ) -> None:
        """Take ownership of a listening socket.

        Args:
            sock: the socket; the listener closes it.
            uri: its address as a VSGI URI.
            inherited: True if the process was started with the socket.
            path: absolute path of a UNIX socket whose file the listener must remove.
        """
        self.sock = sock
        self.uri = uri
        self.inherited = inherited
        # lighttpd with max-procs, spawn-fcgi -F and multiwatch start several processes on one
        # socket. A process cannot find out how many there are.
        self.shared = inherited
        self.supervised = False
        self.is_tcp = sock.family in (_socket.AF_INET, _socket.AF_INET6)
        self.open_to_others = (
            self.is_tcp and not plain_address(str(sock.getsockname()[0])).is_loopback
        )
        self._file = None if path is None else (path, _identity(path))

    def __repr__(self) -> str:
        return f"<Listener {self.uri}>"

    def unlink(self) -> None:
        """Remove the UNIX socket's file, unless another file has replaced it.

        The files are compared by inode number. While the socket is open, no other file can get
        the same number, so this must be called before the socket is closed, as `close` does.
        """
        if self._file is None:
            return
        path, identity = self._file
        self._file = None
        # A file that cannot be removed does no harm, because the next start replaces it.
        with contextlib.suppress(OSError):
            if _identity(path) == identity:
                os.unlink(path)

    def refuse(self) -> None:
        """Refuse new connections, and keep those that are already waiting to be accepted.

        Linux does this for a UNIX socket after ``shutdown(SHUT_RD)``. TCP would drop the waiting
        connections, so a TCP socket stays unchanged.
        """
        if not self.is_tcp and not self.inherited:
            with contextlib.suppress(OSError):
                self.sock.shutdown(_socket.SHUT_RD)

    def turn_away(self) -> int:
        """Close all connections that wait to be accepted, unless other processes may accept them.

        Returns:
            The number of closed connections.
        """
        if self.inherited:
            return 0
        self.unlink()
        self.refuse()
        count = 0
        with contextlib.suppress(OSError):
            while True:
                fd, _ = self.sock._accept()  # type: ignore[attr-defined]
                os.close(fd)
                count += 1
        return count

    def forked(self) -> None:
        """Give up the socket and its file in a forked child; the parent keeps them."""
        self._file = None
        silence(self.sock.fileno())

    def close(self) -> None:
        """Remove the UNIX socket's file and close the socket; a second call has no effect."""
        self.unlink()
        self.sock.close()


def open_listeners(
    addresses: Iterable[Address],
    backlog: int,
    ownership: SocketOwnership = DEFAULT_OWNERSHIP,
) -> list[Listener]:
    """Open listeners on all addresses, or on none if one of them fails.

    Args:
        addresses: addresses to listen on.
        backlog: maximum number of connections that wait to be accepted on each listener.
        ownership: mode, owner and group of the files of UNIX sockets.

    Returns:
        The listeners in the order of the addresses. A host name may give several listeners, and
        an optional address none.

    Raises:
        ListenError: an address cannot be opened; the listeners opened before are closed.
    """
    listeners: list[Listener] = []
    try:
        for address in addresses:
            twin = None
            if isinstance(address, InetAddress) and address.optional and address.port == 0:
                # `--port 0` opens IPv4 and IPv6. Users expect the same port number for both.
                twin = _port(listeners[-1].sock) if listeners else None
            listeners += _open(address, backlog, ownership, twin)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def open_listener(
    address: Address, backlog: int, ownership: SocketOwnership = DEFAULT_OWNERSHIP
) -> list[Listener]:
    """Open the listeners of one address.

    Args:
        address: address to listen on.
        backlog: maximum number of connections that wait to be accepted.
        ownership: mode, owner and group of the file of a UNIX socket.

    Returns:
        One listener; several for a host name with several addresses; none for an optional
        address whose IP version this machine does not support.

    Raises:
        ListenError: the address cannot be opened; the message says why and what to do.
    """
    return _open(address, backlog, ownership, None)


def _open(
    address: Address, backlog: int, ownership: SocketOwnership, preferred_port: int | None
) -> list[Listener]:
    match address:
        case DescriptorAddress():
            sock = _take_over(address.fd)
            return [Listener(sock, f"fcgi+fd://{address.fd}/", inherited=True)]
        case SystemdAddress():
            return _from_systemd(address)
        case UnixAddress():
            # Absolute, because an app may change the working directory before the file is removed.
            path = os.path.abspath(address.path)
            sock = listen_unix(address, backlog, ownership)
            return [Listener(sock, f"fcgi+unix://{path}", path=path)]
        case AbstractAddress():
            return [Listener(listen_abstract(address, backlog), f"fcgi+unix:{address}")]
        case InetAddress():
            return [
                Listener(sock, f"fcgi://{InetAddress(*sock.getsockname()[:2])}/")
                for sock in listen_tcp(address, backlog, preferred_port)
            ]


def default_address(environ: Mapping[str, str]) -> Address:
    """Return the default address: systemd's sockets if it passed any, else descriptor 0.

    Args:
        environ: environment of the process.
    """
    return SystemdAddress() if has_passed_sockets(environ) else DescriptorAddress(0)


def _from_systemd(address: SystemdAddress) -> list[Listener]:
    """Take over the sockets that systemd passed under a name.

    Raises:
        ListenError: no socket has the name, or one of them is not listening.
    """
    passed = passed_sockets(os.environ)
    for item in passed:
        # Including sockets that are not used, because child processes of the app would otherwise
        # inherit them and keep them open.
        with contextlib.suppress(OSError):
            os.set_inheritable(item.fd, False)
    remedy = "set ListenStream= and Accept=no in its .socket unit"
    listeners: list[Listener] = []
    try:
        for item in choose_sockets(passed, address.name):
            sock = _take_over(item.fd, f"fd {item.fd} of systemd ({item.name})", remedy)
            listeners.append(Listener(sock, f"fcgi+fd://{item.fd}/", inherited=True))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def is_listening(fd: int) -> bool:
    """Return True if a descriptor is a listening stream socket, as fd 0 is under FastCGI."""
    try:
        copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        return False
    try:
        sock = _socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return False
    try:
        return _is_stream_listener(sock)
    finally:
        sock.close()


def _port(sock: _socket.socket) -> int | None:
    """Return the port of a TCP socket, or None for a UNIX socket."""
    return None if sock.family == _socket.AF_UNIX else int(sock.getsockname()[1])


def _identity(path: str) -> tuple[int, int]:
    """Return device and inode number, which identify a file at a path."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _take_over(
    fd: int,
    what: str = "",
    remedy: str = "start the server from a web server or spawn-fcgi, or set an address with --bind",
) -> _socket.socket:
    """Take over an inherited listening socket (FastCGI specification, section 2.2).

    The socket is duplicated to a descriptor with CLOEXEC, and the old descriptor is closed or
    replaced. Otherwise child processes of an app would inherit the socket and keep the port in
    use after the server's exit.

    Args:
        fd: number of the descriptor.
        what: name of the socket in error messages.
        remedy: advice in error messages.

    Raises:
        ListenError: the descriptor is not a listening stream socket of a supported family.
    """
    what = what or f"fd {fd}"
    try:
        copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise ListenError(f"{what} is not open; {remedy}") from error
        raise ListenError(f"{what} cannot be taken over: {error.strerror}") from error
    try:
        sock = _socket.socket(fileno=copy)
    except OSError as error:
        os.close(copy)
        raise ListenError(f"{what} is not a listening socket; {remedy}") from error
    if not _is_stream_listener(sock):
        sock.close()
        raise ListenError(f"{what} is not a listening socket; {remedy}")
    # O_NONBLOCK belongs to the socket and not to the descriptor, so it also affects the spawner
    # and its other children. It is never cleared, because a sibling that relies on it would
    # block in accept.
    sock.setblocking(False)
    if fd <= 2:
        # A standard descriptor must not stay free, because the next file to be opened would
        # become the stdin or stderr of this process.
        null = open_null()
        os.dup2(null, fd)
        os.close(null)
    else:
        os.close(fd)
    return sock


def _is_stream_listener(sock: _socket.socket) -> bool:
    if sock.family not in (_socket.AF_INET, _socket.AF_INET6, _socket.AF_UNIX):
        return False
    if sock.type != _socket.SOCK_STREAM:
        return False
    if hasattr(_socket, "SO_ACCEPTCONN"):
        return sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN) == 1
    try:
        sock.getpeername()
    except OSError:
        return True  # It is not connected, so the parent process listens on it.
    return False


# Sockets that systemd passes to a service, as sd_listen_fds(3) describes.
#
# systemd announces them in environment variables, so that no library of systemd is needed.

_FIRST_FD = 3
_UNNAMED = "unknown"
"""Name that sd_listen_fds_with_names(3) gives to sockets without a name."""


class PassedSocket(NamedTuple):
    """Socket that systemd has opened.

    Attributes:
        fd: number of its descriptor.
        name: its FileDescriptorName; by default the name of the .socket unit.
    """

    fd: int
    name: str


def has_passed_sockets(environ: Mapping[str, str]) -> bool:
    """Return True if systemd passed sockets to this process.

    Args:
        environ: environment of the process.
    """
    if environ.get("LISTEN_FDS", "0") in ("", "0"):
        return False
    return environ.get("LISTEN_PID") == str(os.getpid())


def passed_sockets(environ: Mapping[str, str]) -> list[PassedSocket]:
    """Return the sockets that systemd passed to this process.

    Args:
        environ: environment of the process.

    Raises:
        ListenError: systemd passed no sockets to this process, or a variable is invalid.
    """
    count, pid = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_PID", "")
    if not count or not pid:
        raise ListenError(
            "systemd passed no sockets (LISTEN_FDS and LISTEN_PID are not set);"
            " start the server from a .service unit that has a .socket unit"
        )
    if pid != str(os.getpid()):
        raise ListenError(
            f"systemd: the sockets belong to process {pid}, but this is process {os.getpid()};"
            " a wrapper script must start the server with exec"
        )
    if not count.isdecimal():
        raise ListenError(f"LISTEN_FDS is {count!r}, but must be the number of sockets")
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    given = environ.get("LISTEN_FDNAMES")
    names = [_UNNAMED] * len(fds) if given is None else given.split(":")
    if len(names) != len(fds):
        raise ListenError(f"LISTEN_FDNAMES is {given!r}, but must contain {count} names")
    return [PassedSocket(fd, name) for fd, name in zip(fds, names, strict=True)]


def choose_sockets(passed: list[PassedSocket], name: str) -> list[PassedSocket]:
    """Return the sockets with a name, or all sockets if the name is empty.

    Raises:
        ListenError: no socket has this name; the message lists the names that exist.
    """
    chosen = [item for item in passed if name in ("", item.name)]
    if not chosen:
        known = ", ".join(dict.fromkeys(item.name for item in passed)) or "none"
        raise ListenError(
            f"systemd:{name}: no socket with this name was passed (names: {known});"
            " set FileDescriptorName= in the .socket unit"
        )
    return chosen


def forget_sockets(environ: MutableMapping[str, str]) -> None:
    """Remove the variables of systemd's sockets, which child processes of the app must not see."""
    for name in ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
