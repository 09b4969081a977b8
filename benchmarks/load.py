"""A FastCGI load generator: closed loop, kept connections, requests multiplexed.

    python benchmarks/load.py ADDRESS [--connections N] [--in-flight N] [--requests N]

ADDRESS is ``unix:PATH`` or ``HOST:PORT``. Every answer must be byte for byte the
same as the first one (which must end with REQUEST_COMPLETE and a 200), or the run
fails. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import sys
import time
from typing import Any

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


def request_bytes(id: int, body: bytes = b"", keep: bool = True) -> bytes:
    """A whole request with 28 params, as nginx would send it."""
    params = dict(PARAM_LIST)
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
    """One connection with a number of requests in flight, refilled as they end."""

    def __init__(self, address: str, in_flight: int, body: bytes) -> None:
        self.sock = connect(address)
        self.requests = {id: request_bytes(id, body) for id in range(1, in_flight + 1)}
        self.started: dict[int, float] = {}
        self.digest: dict[int, list[int]] = {}
        self.buffer = b""
        self.unsent = b""

    def send(self, data: bytes) -> None:
        self.unsent += data
        try:
            sent = self.sock.send(self.unsent)
        except BlockingIOError:
            return
        self.unsent = self.unsent[sent:]


class Load:
    """A run: as many requests as asked for, all answers checked."""

    def __init__(
        self, address: str, connections: int, in_flight: int, body: bytes, spin: bool = False
    ) -> None:
        self.spin = spin
        self.clients = [Client(address, in_flight, body) for _ in range(connections)]
        self.latencies: list[float] = []
        self.answer_bytes = self.learn()

    def learn(self) -> int:
        """Ask once, check the answer whole, and remember how long it is."""
        client = self.clients[0]
        client.sock.settimeout(30)
        client.sock.sendall(client.requests[1])
        data, stdout, at = b"", b"", 0
        while True:
            piece = client.sock.recv(1 << 20)
            if not piece:
                sys.exit("load.py: the server closed the connection on the first request")
            data += piece
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

    def run(self, count: int) -> dict[str, Any]:
        """Send ``count`` requests; returns the figures."""
        poller, by_fd = select.epoll(), {}
        left = count
        clock = time.perf_counter
        begun = last = clock()
        for client in self.clients:
            client.sock.setblocking(False)
            by_fd[client.sock.fileno()] = client
            batch = []
            for id, data in client.requests.items():
                if left:
                    left -= 1
                    client.started[id] = clock()
                    client.digest[id] = [0]
                    batch.append(data)
            client.send(b"".join(batch))
            events = select.EPOLLIN | (select.EPOLLOUT if client.unsent else 0)
            poller.register(client.sock.fileno(), events)
        done = 0
        while done < count:
            ready = poller.poll(0 if self.spin else 30)
            if not ready:
                if self.spin and clock() - last < 30:
                    continue
                sys.exit("load.py: no answer for 30 seconds")
            last = clock()
            for fd, event in ready:
                client = by_fd[fd]
                if event & select.EPOLLOUT:
                    client.send(b"")
                ended = self.receive(client) if event & ~select.EPOLLOUT else []
                done += len(ended)
                batch = []
                now = clock()
                for id in ended:
                    self.latencies.append(now - client.started.pop(id))
                    if left:
                        left -= 1
                        client.started[id] = now
                        client.digest[id] = [0]
                        batch.append(client.requests[id])
                if batch:
                    client.send(b"".join(batch))
                if client.unsent or event & select.EPOLLOUT:
                    wanted = select.EPOLLIN | (select.EPOLLOUT if client.unsent else 0)
                    poller.modify(fd, wanted)
        seconds = clock() - begun
        self.latencies.sort()
        size = len(self.latencies)
        return {
            "requests": count,
            "seconds": round(seconds, 4),
            "per_second": round(count / seconds),
            "p50_us": round(self.latencies[size // 2] * 1e6),
            "p99_us": round(self.latencies[size * 99 // 100] * 1e6),
            "answer_bytes": self.answer_bytes,
        }

    def receive(self, client: Client) -> list[int]:
        """Read once; returns the ids whose answers have ended, each checked for its length."""
        try:
            data = client.sock.recv(262144)
        except BlockingIOError:
            return []
        if not data:
            sys.exit("load.py: the server closed a connection")
        if client.buffer:
            data = client.buffer + data
        at, size, ended = 0, len(data), []
        while size - at >= 8:
            _, kind, id, length, padding = HEADER.unpack_from(data, at)
            end = at + 8 + length + padding
            if end > size:
                break
            if kind == STDOUT:
                client.digest[id][0] += length
            elif kind == END:
                if client.digest.pop(id)[0] != self.answer_bytes or data[at + 12]:
                    sys.exit("load.py: an answer differs from the first one")
                ended.append(id)
            at = end
        client.buffer = data[at:]
        return ended


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("address")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--body", type=int, default=0, help="bytes of request body")
    parser.add_argument("--cpu", type=int, help="run on this processor only")
    parser.add_argument(
        "--spin", action="store_true", help="never sleep, so that no server has to wake us"
    )
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    body = bytes(options.body)
    load = Load(options.address, options.connections, options.in_flight, body, options.spin)
    print(json.dumps(load.run(options.requests)))


if __name__ == "__main__":
    main()
