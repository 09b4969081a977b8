"""TCP sockets that listen."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.server.listeners`
import contextlib
import errno
import os

from vsgi_fcgi.addresses import InetAddress
from vsgi_fcgi.exceptions import ListenError

# What a machine without IPv6, or without an address of it, says to the one who asks for it.
_FAMILY_MISSING = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def listen_tcp(
    address: InetAddress, backlog: int, preferred_port: int | None = None
) -> list[_socket.socket]:
    """Listen on every address that a host stands for.

    Args:
        address: the host and port.
        backlog: connections that may wait to be accepted on each socket.
        preferred_port: the port to try first where the address asks for a random one.

    Returns:
        The sockets, non-blocking; none for an optional address whose family is missing.

    Raises:
        ListenError: it cannot be done; one sentence says why and what to do.
    """
    resolved = _resolve(address)
    socks: list[_socket.socket] = []
    missing: OSError | None = None
    port = preferred_port
    try:
        for family, sockaddr in resolved:
            try:
                sock = _listen(family, sockaddr, port, backlog)
            except OSError as error:
                # `localhost` is often both 127.0.0.1 and ::1 on a machine without IPv6.
                tolerated = address.optional or len(resolved) > 1
                if not (tolerated and error.errno in _FAMILY_MISSING):
                    raise
                missing = error
            else:
                socks.append(sock)
                port = sock.getsockname()[1]
        if not socks and missing is not None and not address.optional:
            raise missing
    except OSError as error:
        for sock in socks:
            sock.close()
        raise ListenError(f"cannot listen on {address}: {_why_not(error, address)}") from error
    return socks


def _resolve(address: InetAddress) -> list[tuple[int, tuple[str | int, ...]]]:
    """The families and socket addresses that a host stands for, each once.

    Raises:
        ListenError: the host is unknown.
    """
    family = {None: _socket.AF_UNSPEC, 4: _socket.AF_INET, 6: _socket.AF_INET6}[address.version]
    try:
        answers = _socket.getaddrinfo(
            address.host,
            address.port,
            family,
            _socket.SOCK_STREAM,
            _socket.IPPROTO_TCP,
            _socket.AI_PASSIVE,
        )
    except (OSError, UnicodeError) as error:
        if address.optional:
            return []
        kind = "host" if address.version is None else f"host with IPv{address.version}"
        raise ListenError(
            f"cannot listen on {address}: no {kind} of that name is known here;"
            " check the spelling or write an IP address"
        ) from error
    found: list[tuple[int, tuple[str | int, ...]]] = []
    for answer_family, _, _, _, sockaddr in answers:
        item = (int(answer_family), tuple(_as_text(part) for part in sockaddr))
        if item not in found:
            found.append(item)
    return found


def _as_text(part: str | int | bytes) -> str | int:
    return part.decode() if isinstance(part, bytes) else part


def _listen(
    family: int, sockaddr: tuple[str | int, ...], preferred_port: int | None, backlog: int
) -> _socket.socket:
    """Listen on one socket address.

    Args:
        family: AF_INET or AF_INET6.
        sockaddr: the address; its port may be 0.
        preferred_port: the port to try first where the address has 0.
        backlog: connections that may wait to be accepted.

    Raises:
        OSError: it cannot be opened.
    """
    if sockaddr[1] == 0 and preferred_port:
        with contextlib.suppress(OSError):
            wanted = (sockaddr[0], preferred_port, *sockaddr[2:])
            return _listen(family, wanted, None, backlog)
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        # A restart must not wait for the last connections to leave TIME_WAIT.
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if family == _socket.AF_INET6:
            # [::] would take the port from 0.0.0.0, which has a listener of its own.
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        sock.bind(sockaddr)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _why_not(error: OSError, address: InetAddress) -> str:
    """Why an address cannot be bound, and what to do."""
    match error.errno:
        case errno.EADDRINUSE:
            return "it is in use; stop what listens there or choose another port"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; choose one that `ip address` shows"
        case errno.EAFNOSUPPORT:
            return "this machine has no such IP version; choose an address of another one"
        case errno.EACCES:
            return f"port {address.port} is for the administrator; choose one from 1024 up"
        case _:
            return os.strerror(error.errno or 0)
