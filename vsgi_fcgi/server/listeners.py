"""Listening sockets: opened, taken over from the parent process, and tidied up.

Sockets here are of the C class `_socket.socket`, and names are resolved by `_socket` too. The
main context must own native sockets, and `gevent.monkey` replaces what the `socket` module
exports (`socket.SocketType` included) but never touches `_socket`. The subclass in `socket` is
not needed: ``_accept``, ``recv`` and ``send`` are the C class's own.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Mapping

from vsgi_fcgi.addresses import (
    AbstractAddress,
    Address,
    DescriptorAddress,
    InetAddress,
    SystemdAddress,
    UnixAddress,
)
from vsgi_fcgi.exceptions import ListenError
from vsgi_fcgi.server.peers import plain_address
from vsgi_fcgi.server.socket_ownership import DEFAULT_OWNERSHIP, SocketOwnership
from vsgi_fcgi.server.systemd import choose_sockets, has_passed_sockets, passed_sockets
from vsgi_fcgi.server.tcp_sockets import listen_tcp
from vsgi_fcgi.server.unix_sockets import listen_abstract, listen_unix


class Listener:
    """A socket that listens.

    Attributes:
        sock: the native socket, non-blocking and closed on exec.
        uri: where it listens, in VSGI's form.
        inherited: whether the process was started with it.
        is_tcp: whether it is TCP, so that peers have IP addresses.
        open_to_others: whether other machines may reach it.
    """

    __slots__ = ("_file", "inherited", "is_tcp", "open_to_others", "sock", "uri")

    def __init__(
        self,
        sock: _socket.socket,
        uri: str,
        *,
        inherited: bool = False,
        path: str | None = None,
    ) -> None:
        """Take over a socket that listens.

        Args:
            sock: the socket; the listener closes it.
            uri: where it listens, in VSGI's form.
            inherited: whether the process was started with it.
            path: the absolute path of a UNIX socket whose file is ours to remove.
        """
        self.sock = sock
        self.uri = uri
        self.inherited = inherited
        self.is_tcp = sock.family in (_socket.AF_INET, _socket.AF_INET6)
        self.open_to_others = (
            self.is_tcp and not plain_address(str(sock.getsockname()[0])).is_loopback
        )
        self._file = None if path is None else (path, _identity(path))

    def __repr__(self) -> str:
        return f"<Listener {self.uri}>"

    def unlink(self) -> None:
        """Remove the UNIX socket's file, unless another one stands there by now.

        As long as our socket is open, no other file can get its inode number: so call this
        before the socket is closed, as `close` does.
        """
        if self._file is None:
            return
        path, identity = self._file
        self._file = None
        # A file that cannot be removed does no harm: the next start replaces it as stale.
        with contextlib.suppress(OSError):
            if _identity(path) == identity:
                os.unlink(path)

    def close(self) -> None:
        """Remove the UNIX socket's file and close the socket; again is harmless."""
        self.unlink()
        self.sock.close()


def open_listeners(
    addresses: Iterable[Address],
    backlog: int,
    ownership: SocketOwnership = DEFAULT_OWNERSHIP,
) -> list[Listener]:
    """Open all addresses, or none.

    Args:
        addresses: what to listen on.
        backlog: connections that may wait to be accepted on each.
        ownership: mode, owner and group of the UNIX sockets among them that have a path.

    Returns:
        The listeners in the order of the addresses; a host name may give several, and an
        optional address none.

    Raises:
        ListenError: one cannot be opened; those opened before are closed again.
    """
    listeners: list[Listener] = []
    try:
        for address in addresses:
            twin = None
            if isinstance(address, InetAddress) and address.optional and address.port == 0:
                # The second family of `--port 0`: people expect one number for both.
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
    """Open one address.

    Args:
        address: what to listen on.
        backlog: connections that may wait to be accepted.
        ownership: mode, owner and group if it is the path of a UNIX socket.

    Returns:
        One listener; several for a host name with several addresses; none for an optional
        address whose family this machine lacks.

    Raises:
        ListenError: it cannot be opened; the message says why and what to do.
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
            # An app may change the working directory; our file must still be found at the end.
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
    """Where to listen if nobody says: on the sockets of systemd if it passes any, else on fd 0.

    Args:
        environ: the process's environment.
    """
    return SystemdAddress() if has_passed_sockets(environ) else DescriptorAddress(0)


def _from_systemd(address: SystemdAddress) -> list[Listener]:
    """Take over the sockets that systemd passes under a name.

    Raises:
        ListenError: there is none, or one of them does not listen.
    """
    passed = passed_sockets(os.environ)
    for item in passed:
        # Those that nobody asks for too: child processes of the app would keep them open.
        with contextlib.suppress(OSError):
            os.set_inheritable(item.fd, False)
    remedy = "its .socket unit needs ListenStream= and Accept=no"
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
    """Whether a descriptor is a listening stream socket, as fd 0 is under FastCGI."""
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
    """The port of a TCP socket."""
    return None if sock.family == _socket.AF_UNIX else int(sock.getsockname()[1])


def _identity(path: str) -> tuple[int, int]:
    """What tells a file from another one at the same path: device and inode."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _take_over(
    fd: int,
    what: str = "",
    remedy: str = "start me from a web server or spawn-fcgi, or name an address with --bind",
) -> _socket.socket:
    """Make an inherited listening socket ours (section 2.2 of the specification).

    It is duplicated upwards with CLOEXEC, and its old number is given up: else the child
    processes of an app would inherit it and keep the port taken after our end.

    Args:
        fd: its number.
        what: what an error calls it.
        remedy: what an error advises.

    Raises:
        ListenError: it is no listening stream socket of a family that we know.
    """
    what = what or f"fd {fd}"
    try:
        copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise ListenError(f"{what} is not open; {remedy}") from error
        raise ListenError(f"cannot take over {what}: {error.strerror}") from error
    try:
        sock = _socket.socket(fileno=copy)
    except OSError as error:
        os.close(copy)
        raise ListenError(f"{what} is not a listening socket; {remedy}") from error
    if not _is_stream_listener(sock):
        sock.close()
        raise ListenError(f"{what} is not a listening socket; {remedy}")
    # O_NONBLOCK is a property of the socket and not of the descriptor: the spawner and its
    # other children have it from now on too. So it is never cleared again, or a sibling that
    # relies on it would block in accept.
    sock.setblocking(False)
    if fd <= 2:
        # The standard descriptors are never left free: the next file that is opened would
        # become somebody's stdin or stderr.
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, fd)
        os.close(null)
    else:
        os.close(fd)
    return sock


def _is_stream_listener(sock: _socket.socket) -> bool:
    if sock.family not in (_socket.AF_INET, _socket.AF_INET6, _socket.AF_UNIX):
        return False
    listening = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)
    return sock.type == _socket.SOCK_STREAM and listening == 1
