"""Connecting to where a FastCGI application server listens; the calling greenlet waits."""

from __future__ import annotations

import contextlib
import os
from errno import EINPROGRESS
from ipaddress import ip_address
from socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_TCP,
    SO_ERROR,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
)
from typing import Any, Final

import gevent
import gevent.socket

from vsgi_fcgi.addresses import AbstractAddress, InetAddress, UnixAddress
from vsgi_fcgi.native import Socket

_BACKLOG_PAUSE: Final = 0.005
"""Seconds between two attempts to connect to a UNIX socket whose backlog is full."""


def connect_to(address: UnixAddress | AbstractAddress | InetAddress) -> Any:
    """Make a connection.

    Args:
        address: where to; all that a name stands for is tried in turn.

    Returns:
        A socket of the C class, non-blocking.

    Raises:
        OSError: nobody listens there.
    """
    failure: OSError | None = None
    for family, target in _targets(address):
        # Without a layer that waits: a connection has watchers of its own.
        sock = Socket(family, SOCK_STREAM)
        try:
            sock.setblocking(False)
            _connect(sock, target)
            if family != AF_UNIX:
                sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError("its name has no address")


def _targets(address: UnixAddress | AbstractAddress | InetAddress) -> list[tuple[int, Any]]:
    """Families and addresses to try in turn."""
    if isinstance(address, UnixAddress):
        return [(AF_UNIX, address.path)]
    if isinstance(address, AbstractAddress):
        return [(AF_UNIX, f"\0{address.name}")]
    host, port = address.host, address.port
    version: int | None = None
    with contextlib.suppress(ValueError):
        version = ip_address(host).version
    if version is None or "%" in host:
        # In a thread, which numbers need not wait for.
        found = gevent.socket.getaddrinfo(host, port, type=SOCK_STREAM)
        return [(each[0], each[4]) for each in found]
    return [(AF_INET if version == 4 else AF_INET6, (host, port))]


def _connect(sock: Any, target: Any) -> None:
    while True:
        try:
            sock.connect(target)
            return
        except BlockingIOError as error:
            if error.errno == EINPROGRESS:
                break
            # The backlog of a UNIX socket is full.
            gevent.sleep(_BACKLOG_PAUSE)
    gevent.socket.wait_write(sock.fileno())
    number = sock.getsockopt(SOL_SOCKET, SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))
