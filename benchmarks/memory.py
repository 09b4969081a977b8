"""Resident memory: growth over many requests, per idle connection, and per waiting request.

python benchmarks/memory.py [--requests N] [--connections N] [--waiting N]
"""

from __future__ import annotations

import argparse
import resource
import socket

from load import connect, request_bytes
from servers import load, vsgi

KIB = 1024


def growth(worker: str, requests: int) -> None:
    """Return the growth of RSS over multiplexed requests, after a warm-up."""
    server = vsgi(worker, "app", {0, 1}, "--worker", worker)
    try:
        load(server, None, requests=50000, connections=4, in_flight=64)
        before = server.rss()
        load(server, None, requests=requests, connections=4, in_flight=64)
        grown = server.rss() - before
        print(
            f"{worker}: {requests} multiplexed requests grew RSS by {grown / KIB:.0f} KiB "
            f"(from {before / KIB / KIB:.1f} MiB)"
        )
    finally:
        server.stop()


def idle(worker: str, count: int) -> None:
    """Return the RSS per idle kept connection that has served a request."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 256), hard))
    server = vsgi(worker, "app", {0, 1}, "--worker", worker)
    request = request_bytes(1)
    kept: list[socket.socket] = []
    try:
        load(server, None, requests=20000, connections=8)
        before = server.rss()
        for _ in range(count):
            sock = connect(f"unix:{server.socket}")
            sock.sendall(request)
            kept.append(sock)
        for sock in kept:
            sock.settimeout(30)
            assert sock.recv(4096)
        grown = server.rss() - before
        print(f"{worker}: {count} idle kept connections take {grown / count:.0f} bytes of RSS each")
    finally:
        for sock in kept:
            sock.close()
        server.stop()


def waiting(count: int) -> None:
    """Print the RSS per request that waits in ``--worker greenlet``, over 10 connections."""
    options = ("--worker", "greenlet", "--greenlets", str(count + 1), "--graceful-timeout", "0")
    server = vsgi("greenlet", "neighbours", {0, 1}, *options)
    kept: list[socket.socket] = []
    try:
        load(server, None, requests=20000, connections=8)
        before = server.rss()
        per_connection = count // 10
        for _ in range(10):
            sock = connect(f"unix:{server.socket}")
            kept.append(sock)
            for id in range(1, per_connection + 1):
                sock.sendall(request_bytes(id, path="/sleep"))
        # The last one is answered when all others wait.
        sock.sendall(request_bytes(per_connection + 1))
        assert sock.recv(4096)
        grown = server.rss() - before
        print(f"greenlet: {count} requests that wait take {grown / count / KIB:.1f} KiB each")
    finally:
        for sock in kept:
            sock.close()
        server.stop()


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=500000)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--waiting", type=int, default=10000)
    options = parser.parse_args()
    for worker in ("thread", "main", "greenlet"):
        growth(worker, options.requests)
        idle(worker, options.connections)
    waiting(options.waiting)


if __name__ == "__main__":
    main()
