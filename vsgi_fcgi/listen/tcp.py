"""Listening TCP sockets, and the peers that may connect to them."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.listen.listeners`
import contextlib
import errno
import ipaddress
import os
from collections.abc import Mapping

from vsgi_fcgi.addresses import InetAddress
from vsgi_fcgi.exceptions import ListenError, UsageError

# Errors of a machine that has no IPv6, or no IPv6 address.
_FAMILY_MISSING = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def listen_tcp(
    address: InetAddress, backlog: int, preferred_port: int | None = None
) -> list[_socket.socket]:
    """Listen on every address that a host name resolves to.

    Args:
        address: host and port.
        backlog: maximum number of connections that wait to be accepted on each socket.
        preferred_port: port to try first if the address asks for a random port.

    Returns:
        The non-blocking sockets; none for an optional address whose IP version is not supported.

    Raises:
        ListenError: an address cannot be opened; the message says why and what to do.
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
                # `localhost` often resolves to 127.0.0.1 and ::1 on a machine without IPv6.
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
        raise ListenError(f"{address}: {_reason(error, address)}") from error
    return socks


def _resolve(address: InetAddress) -> list[tuple[int, tuple[str | int, ...]]]:
    """Return the families and socket addresses that a host resolves to, without repetitions.

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
            f"{address}: no {kind} of that name is known; check the spelling or write an IP address"
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
        preferred_port: port to try first if the address has port 0.
        backlog: maximum number of connections that wait to be accepted.

    Raises:
        OSError: the socket cannot be opened.
    """
    if sockaddr[1] == 0 and preferred_port:
        with contextlib.suppress(OSError):
            wanted = (sockaddr[0], preferred_port, *sockaddr[2:])
            return _listen(family, wanted, None, backlog)
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        # Allows a restart while old connections are in TIME_WAIT.
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if family == _socket.AF_INET6:
            # Without this, [::] would also occupy the port of 0.0.0.0, which has its own listener.
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        sock.bind(sockaddr)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _reason(error: OSError, address: InetAddress) -> str:
    """Return why an address cannot be bound, and what to do."""
    match error.errno:
        case errno.EADDRINUSE:
            return "the address is in use; stop the other server or choose another port"
        case errno.EADDRNOTAVAIL:
            return "this machine does not have the address; choose one that `ip address` shows"
        case errno.EAFNOSUPPORT:
            return "this machine does not support the IP version; choose another address"
        case errno.EACCES:
            return f"only root may use port {address.port}; choose a port from 1024 up"
        case _:
            return os.strerror(error.errno or 0)


# Restrict TCP peers to the addresses in FCGI_WEB_SERVER_ADDRS.
#
# See section 3.2 of the FastCGI specification. The variable does not apply to UNIX sockets, whose
# files have permissions.

VARIABLE = "FCGI_WEB_SERVER_ADDRS"


def allowed_peers(environ: Mapping[str, str]) -> frozenset[str] | None:
    """Read the addresses in FCGI_WEB_SERVER_ADDRS.

    Args:
        environ: environment of the process.

    Returns:
        The addresses that may connect, in the canonical form that `is_allowed` compares; None
        if the variable is unset or blank, so that every peer may connect.

    Raises:
        UsageError: an item is not an IP address. Ignoring it would lock out a web server or, if
            no item is left, admit every peer.
    """
    value = environ.get(VARIABLE, "")
    if not value.strip():
        return None
    allowed = set()
    for item in filter(None, map(str.strip, value.split(","))):
        try:
            allowed.add(str(plain_address(item)))
        except ValueError:
            raise UsageError(
                f"{VARIABLE}: {item!r} is not an IP address;"
                " write addresses separated by commas, as in 127.0.0.1,::1"
            ) from None
    if not allowed:
        raise UsageError(
            f"{VARIABLE} is {value!r}, which contains no address; add an address or unset it"
        )
    return frozenset(allowed)


def is_allowed(host: str, allowed: frozenset[str] | None) -> bool:
    """Return True if a TCP peer may connect.

    Args:
        host: IP address of the peer, as ``accept`` reports it.
        allowed: result of `allowed_peers`.
    """
    if allowed is None or host in allowed:
        return True
    try:
        return str(plain_address(host)) in allowed
    except ValueError:
        return False


def plain_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an IP address in canonical form, so that two spellings of a host compare equal.

    Args:
        host: an IP address. An IPv4 address may be mapped into IPv6, as a dual-stack socket
            reports it. A zone (``%eth0``) is dropped, because it names a network interface of
            this machine and not a peer.

    Raises:
        ValueError: the text is not an IP address.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
