"""A small load generator for HTTP: kept connections, one request in flight on each."""

from __future__ import annotations

import selectors
import socket
from typing import Self

_REQUEST = (
    b"GET /hello?a=b HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nAccept: text/html,*/*\r\n"
    b"Accept-Encoding: gzip\r\nAccept-Language: en\r\nCookie: a=b; c=d\r\n\r\n"
)
_BODY = b"Hello, world!\n"
_MAX_RESPONSE = 4096


class HTTPLoad:
    """Connections to an HTTP server on loopback.

    Args:
        port: the server's port.
        connections: the number of connections.
    """

    def __init__(self, port: int, connections: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._socks: list[socket.socket] = []
        self._parts: dict[socket.socket, bytes] = {}
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port), 20)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(sock, selectors.EVENT_READ, sock)
            self._socks.append(sock)

    def run(self, requests: int) -> None:
        """Send this many requests, and check the status of each response.

        Raises:
            SystemExit: if a status is not 200, or a connection ended.
        """
        begun = done = 0
        for sock in self._socks[:requests]:
            sock.sendall(_REQUEST)
            begun += 1
        while done < requests:
            for key, _ in self._selector.select(20):
                sock = key.data
                data = self._parts.pop(sock, b"") + sock.recv(65536)
                if not data.endswith(_BODY):
                    # Headers and body may arrive separately.
                    self._parts[sock] = data
                    if len(data) > _MAX_RESPONSE or data == b"":
                        raise SystemExit(f"this is not a complete response: {data[:200]!r}")
                    continue
                if not data.startswith(b"HTTP/1.1 200"):
                    raise SystemExit(f"unexpected response: {data[:200]!r}")
                done += 1
                if begun < requests:
                    sock.sendall(_REQUEST)
                    begun += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for sock in self._socks:
            sock.close()
        self._selector.close()
