"""Which web servers may connect over TCP: FCGI_WEB_SERVER_ADDRS.

Section 3.2 of the specification. It says nothing of UNIX sockets, whose files have permissions.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from vsgi_fcgi.exceptions import UsageError

VARIABLE = "FCGI_WEB_SERVER_ADDRS"


def allowed_peers(environ: Mapping[str, str]) -> frozenset[str] | None:
    """Read FCGI_WEB_SERVER_ADDRS.

    Args:
        environ: the process's environment.

    Returns:
        The addresses that may connect, in the one spelling that `is_allowed` compares; None
        if the variable is unset or blank, and everybody may.

    Raises:
        UsageError: something in it is no IP address. To go on would either shut a web server
            out or, if nothing is left of the list, let everybody in.
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
                f"{VARIABLE} names {item!r}, which is no IP address;"
                " write addresses with commas between them, as in 127.0.0.1,::1"
            ) from None
    if not allowed:
        raise UsageError(f"{VARIABLE} is {value!r}, which names no address; unset it or name some")
    return frozenset(allowed)


def is_allowed(host: str, allowed: frozenset[str] | None) -> bool:
    """Whether a TCP peer may connect.

    Args:
        host: the peer's IP address, as ``accept`` reports it.
        allowed: what `allowed_peers` returned.
    """
    if allowed is None or host in allowed:
        return True
    try:
        return str(plain_address(host)) in allowed
    except ValueError:
        return False


def plain_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IP address in the form in which two spellings of one host are equal.

    Args:
        host: an IP address. An IPv4 one may be mapped into IPv6, as a socket for both
            families reports it; a zone (``%eth0``) is dropped, as it names a network card
            of this machine and no peer.

    Raises:
        ValueError: it is no IP address.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
