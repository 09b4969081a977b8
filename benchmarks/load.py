"""A load generator for FastCGI and HTTP: closed loop, kept connections, requests multiplexed.

    python benchmarks/load.py ADDRESS [--connections N] [--in-flight N] [--requests N]

ADDRESS is ``unix:PATH`` or ``HOST:PORT``. The first response must be complete and have status 200.
If the length or the status of another response differs, the run fails. The result is printed as one
JSON object. With ``--pid``, it contains the CPU time of that process and of its children.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import socket
import struct
import sys
import time
from typing import Any

from servers import tree_cpu_seconds

HEADER = struct.Struct(">BBHHBx")
BEGIN, END, PARAMS, STDIN, STDOUT, STDERR = 1, 3, 4, 5, 6, 7

PARAM_LIST = [
    ("QUERY_STRING", "a=1&b=2"),
    ("REQUEST_METHOD", "GET"),
    ("CONTENT_TYPE", ""),
    ("CONTENT_LENGTH", ""),
    ("SCRIPT_NAME", ""),
    ("PATH_INFO", "/hello/world"),
    ("REQUEST_URI", "/hello/world?a=1&b=2"),
    ("DOCUMENT_URI", "/hello/world"),
    ("DOCUMENT_ROOT", "/var/www/html"),
    ("SERVER_PROTOCOL", "HTTP/1.1"),
    ("REQUEST_SCHEME", "http"),
    ("GATEWAY_INTERFACE", "CGI/1.1"),
    ("SERVER_SOFTWARE", "nginx/1.22.1"),
    ("REMOTE_ADDR", "127.0.0.1"),
    ("REMOTE_PORT", "49152"),
    ("REMOTE_USER", ""),
    ("SERVER_ADDR", "127.0.0.1"),
    ("SERVER_PORT", "8080"),
    ("SERVER_NAME", "localhost"),
    ("REDIRECT_STATUS", "200"),
    ("HTTP_HOST", "localhost:8080"),
    ("HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("HTTP_ACCEPT", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("HTTP_ACCEPT_LANGUAGE", "en-US,en;q=0.5"),
    ("HTTP_ACCEPT_ENCODING", "gzip, deflate, br"),
    ("HTTP_CONNECTION", "keep-alive"),
    ("HTTP_COOKIE", "session=0123456789abcdef0123456789abcdef; theme=dark"),
    ("HTTP_UPGRADE_INSECURE_REQUESTS", "1"),
    ("HTTP_CACHE_CONTROL", "max-age=0"),
]


def pair(name: str, value: str) -> bytes:
    """Encode one name-value pair (FastCGI 1.0, section 3.4)."""
    parts = []
    for text in (name, value):
        size = len(text)
        parts.append(bytes([size]) if size < 128 else struct.pack(">I", size | 1 << 31))
    return b"".join(parts) + name.encode("latin-1") + value.encode("latin-1")


def request_bytes(
    id: int, body: bytes = b"", keep: bool = True, path: str = "/hello/world"
) -> bytes:
    """Return a complete FastCGI request with 29 params, as nginx sends it."""
    params = dict(PARAM_LIST)
    params |= {"PATH_INFO": path, "DOCUMENT_URI": path, "REQUEST_URI": f"{path}?a=1&b=2"}
    if body:
        params |= {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body))}
    block = b"".join(pair(name, value) for name, value in params.items())
    out = [HEADER.pack(1, BEGIN, id, 8, 0), struct.pack(">HB5x", 1, keep)]
    padding = -len(block) % 8
    out += [HEADER.pack(1, PARAMS, id, len(block), padding), block, bytes(padding)]
    out += [HEADER.pack(1, PARAMS, id, 0, 0)]
    for at in range(0, len(body), 32768):
        part = body[at : at + 32768]
        out += [HEADER.pack(1, STDIN, id, len(part), 0), part]
    out.append(HEADER.pack(1, STDIN, id, 0, 0))
    return b"".join(out)


def http_request_bytes(body: bytes = b"", path: str = "/hello/world") -> bytes:
    """Return the HTTP request that nginx would turn into those params."""
    lines = [f"{'POST' if body else 'GET'} {path}?a=1&b=2 HTTP/1.1"]
    for name, value in PARAM_LIST:
        if name.startswith("HTTP_"):
            lines.append(f"{name[5:].replace('_', '-').title()}: {value}")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def connect(address: str) -> socket.socket:
    """Open a blocking connection to ``unix:PATH`` or ``HOST:PORT``."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        path = address[5:]
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        return sock
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Client:
    """One connection with a number of requests in flight, refilled as they end.

    Args:
        address: the server's address.
        requests: the bytes of a request for each id that may be in flight.
        keep: whether the connection is kept after a response.
        counted: whether the requests belong to the result.
    """

    def __init__(
        self, address: str, requests: dict[int, bytes], keep: bool = True, counted: bool = True
    ) -> None:
        self.address = address
        self.requests = requests
        self.keep = keep
        self.counted = counted
        self.started: dict[int, float] = {}
        self.received: dict[int, int] = {}
        self.answer_bytes = 0
        self.opened = False

    def open(self) -> None:
        """Open the connection."""
        self.sock = connect(self.address)
        self.opened = True
        self.buffer = b""
        self.unsent = b""

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self.opened:
            self.sock.close()

    def send(self, data: bytes) -> None:
        """Send as much as the socket takes, and store the rest."""
        self.unsent += data
        try:
            sent = self.sock.send(self.unsent)
        except BlockingIOError:
            return
        self.unsent = self.unsent[sent:]

    def receive(self) -> list[int]:
        """Read once, and return the ids of the requests whose responses have ended."""
        try:
            data = self.sock.recv(262144)
        except BlockingIOError:
            return []
        if not data:
            sys.exit("load.py: the server closed a connection")
        return self.ended(self.buffer + data if self.buffer else data)

    def learn(self, patience: float = 30) -> None:
        """Open the connection, send one request, and store the length of the checked response."""
        self.open()
        self.sock.settimeout(patience)
        self.sock.sendall(self.requests[1])
        data = b""
        while not self.answer_bytes:
            piece = self.sock.recv(1 << 20)
            if not piece:
                sys.exit(f"load.py: the first response is not complete: {data[:300]!r}")
            data += piece
            self.answer_bytes = self.complete(data)

    def complete(self, data: bytes) -> int:
        """Return the length of the response if it is complete, and 0 otherwise."""
        raise NotImplementedError

    def ended(self, data: bytes) -> list[int]:
        """Parse received bytes, and return the ids of the requests that have ended."""
        raise NotImplementedError


class FastCGIClient(Client):
    """A client that speaks FastCGI; the length of a response is that of its STDOUT."""

    def complete(self, data: bytes) -> int:
        stdout, at = b"", 0
        while len(data) - at >= 8:
            _, kind, _, length, padding = HEADER.unpack_from(data, at)
            if len(data) - at < 8 + length + padding:
                break
            content = data[at + 8 : at + 8 + length]
            at += 8 + length + padding
            if kind == STDOUT:
                stdout += content
            elif kind == END:
                if content[4] or not stdout.startswith(b"Status: 200"):
                    sys.exit(f"load.py: not a 200: {stdout[:300]!r} {content!r}")
                return len(stdout)
        return 0

    def ended(self, data: bytes) -> list[int]:
        at, size, ended = 0, len(data), []
        received = self.received
        while size - at >= 8:
            _, kind, id, length, padding = HEADER.unpack_from(data, at)
            end = at + 8 + length + padding
            if end > size:
                break
            if kind == STDOUT:
                received[id] = received.get(id, 0) + length
            elif kind == END:
                if received.pop(id, 0) != self.answer_bytes or data[at + 12]:
                    sys.exit("load.py: a response differs from the first one")
                ended.append(id)
            at = end
        self.buffer = data[at:]
        return ended


class HTTPClient(Client):
    """A client that speaks HTTP/1.1, with one request in flight."""

    def complete(self, data: bytes) -> int:
        head, found, body = data.partition(b"\r\n\r\n")
        if not found:
            return 0
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(f"load.py: not a 200: {data[:300]!r}")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                whole = len(body) == int(line.partition(b":")[2])
                return len(data) if whole else 0
        return len(data) if body.endswith(b"0\r\n\r\n") else 0

    def ended(self, data: bytes) -> list[int]:
        # The pieces of a long response are counted, not joined.
        start = self.received.get(1, 0)
        if not start and not data.startswith(b"HTTP/1.1 200"):
            sys.exit(f"load.py: not a 200: {data[:300]!r}")
        if start + len(data) < self.answer_bytes:
            self.received[1] = start + len(data)
            return []
        if start + len(data) > self.answer_bytes:
            sys.exit("load.py: a response is longer than the first one")
        self.received[1] = 0
        return [1]


class Load:
    """A run with the given number of requests; it checks every response.

    Args:
        clients: the connections.
        spin: poll instead of sleeping, so that no server has to wake the generator.
        patience: seconds without any response after which the run fails.
    """

    def __init__(self, clients: list[Client], spin: bool = False, patience: float = 30) -> None:
        self.clients = clients
        self.spin = spin
        self.patience = patience
        self.latencies: list[float] = []
        self.poller = select.epoll()
        self.by_fd: dict[int, Client] = {}
        self.left = self.flying = 0
        learned: dict[bool, int] = {}
        for client in clients:
            if client.counted not in learned:
                client.learn(patience)
                learned[client.counted] = client.answer_bytes
                if not client.keep:
                    client.close()
            elif client.keep:
                client.open()
            client.answer_bytes = learned[client.counted]
            if client.keep:
                self.register(client)

    def register(self, client: Client) -> None:
        """Watch a connection that was opened."""
        client.sock.setblocking(False)
        self.by_fd[client.sock.fileno()] = client
        self.poller.register(client.sock.fileno(), select.EPOLLIN)

    def run(self, count: int, seconds: float = math.inf, pid: int | None = None) -> dict[str, Any]:
        """Send ``count`` requests, or as many as end in this time, and return the figures."""
        self.latencies = []
        self.left = count
        clock = time.perf_counter
        cpu = tree_cpu_seconds(pid) if pid else 0.0
        begun = last = clock()
        for client in self.clients:
            self.refill(client, [id for id in client.requests if id not in client.started])
        while self.flying:
            ready = self.poller.poll(0 if self.spin else self.patience)
            if not ready:
                if self.spin and clock() - last < self.patience:
                    continue
                sys.exit(f"load.py: no answer for {self.patience:g} seconds")
            last = clock()
            if last - begun > seconds:
                self.left = 0
                # Other requests, which are not counted, can keep the server busy forever.
                if last - begun > seconds + self.patience:
                    sys.exit("load.py: the last requests were not answered")
            for fd, event in ready:
                client = self.by_fd[fd]
                ended = client.receive() if event & ~select.EPOLLOUT else []
                if ended and client.counted:
                    now = clock()
                    self.flying -= len(ended)
                    self.latencies += [now - client.started.pop(id) for id in ended]
                if ended:
                    self.refill(client, ended)
                elif event & select.EPOLLOUT:
                    client.send(b"")
                    self.watch(client)
        taken = clock() - begun
        cpu = tree_cpu_seconds(pid) - cpu if pid else 0.0
        self.latencies.sort()
        size = len(self.latencies)
        result = {
            "requests": size,
            "seconds": round(taken, 4),
            "per_second": round(size / taken),
            "p50_us": round(self.latencies[size // 2] * 1e6),
            "p99_us": round(self.latencies[size * 99 // 100] * 1e6),
            "answer_bytes": self.clients[0].answer_bytes,
        }
        return result | {"cpu_us": cpu / size * 1e6} if pid else result

    def refill(self, client: Client, ids: list[int]) -> None:
        """Send the next requests of a connection, on a new one if it is not kept."""
        if not client.keep:
            client.close()
        if client.counted:
            ids = ids[: self.left]
            self.left -= len(ids)
            self.flying += len(ids)
        if ids:
            if not client.keep:
                client.open()
                self.register(client)
            now = time.perf_counter()
            for id in ids:
                client.started[id] = now
            client.send(b"".join([client.requests[id] for id in ids]))
            if client.unsent:
                self.watch(client)

    def watch(self, client: Client) -> None:
        """Wait for room in the socket only while there is something to send."""
        events = select.EPOLLIN | (select.EPOLLOUT if client.unsent else 0)
        self.poller.modify(client.sock.fileno(), events)


def fastcgi_clients(
    address: str, connections: int, in_flight: int, path: str = "/hello/world"
) -> list[Client]:
    """Return connections whose requests are all the same."""
    requests = {id: request_bytes(id, path=path) for id in range(1, in_flight + 1)}
    return [FastCGIClient(address, requests) for _ in range(connections)]


def clients(options: argparse.Namespace) -> list[Client]:
    """Open the connections that the command line asks for."""
    body = bytes(options.body)

    def some(count: int, path: str, in_flight: int, body: bytes, counted: bool) -> list[Client]:
        if options.http:
            request = {1: http_request_bytes(body, path)}
            return [HTTPClient(options.address, request, True, counted) for _ in range(count)]
        keep = not options.no_keep
        requests = {id: request_bytes(id, body, keep, path) for id in range(1, in_flight + 1)}
        return [FastCGIClient(options.address, requests, keep, counted) for _ in range(count)]

    counted = some(options.connections, options.path, options.in_flight, body, True)
    return counted + some(options.busy, options.busy_path, 1, b"", False)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("address")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after this time")
    parser.add_argument("--warm-up", type=int, default=0, help="requests that are not counted")
    parser.add_argument("--path", default="/hello/world")
    parser.add_argument("--body", type=int, default=0, help="bytes of request body")
    parser.add_argument("--http", action="store_true", help="speak HTTP instead of FastCGI")
    parser.add_argument("--no-keep", action="store_true", help="one connection for each request")
    parser.add_argument("--idle", type=int, default=0, help="connections that served one request")
    parser.add_argument("--busy", type=int, default=0, help="connections that are not counted")
    parser.add_argument("--busy-path", default="/busy")
    parser.add_argument("--patience", type=float, default=30, help="seconds without an answer")
    parser.add_argument("--pid", type=int, help="read the CPU time of this process tree")
    parser.add_argument("--cpu", type=int, help="run on this processor only")
    parser.add_argument(
        "--spin", action="store_true", help="never sleep, so that no server has to wake us"
    )
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    idle = fastcgi_clients(options.address, options.idle, 1, options.path)
    for client in idle:
        client.learn(options.patience)
    load = Load(clients(options), options.spin, options.patience)
    if options.warm_up:
        load.run(options.warm_up, options.seconds)
    print(json.dumps(load.run(options.requests, options.seconds, options.pid)))


if __name__ == "__main__":
    main()
