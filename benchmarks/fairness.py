"""Small requests that share a connection with large responses, and readers that read nothing.

    python benchmarks/fairness.py [--rounds N] [--requests N] [--only PART]

The parts:

* `downloads`: small requests, one after the other, share a connection with eight downloads of
  100 MB that restart when they end, and with one download whose response is not read.
* `stream`: 99 small requests at once share a connection with a response of 1 GB that restarts.
  With the worker `main`, which runs one app at a time, they would wait for its end.
* `unread`: 1,000 requests for 100 MB each, on ten connections from which nothing is read. The part
  prints the largest amount of memory and of temporary files that the server held, and the time
  until it had closed all connections because of ``--send-timeout``.

The server runs on one core, the client on the other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import stat
import time
from pathlib import Path
from statistics import median

import gevent
from load import END, HEADER, STDOUT, connect, request_bytes
from servers import Measured, vsgi

from vsgi_fcgi.client import FastCGIClient

DOWNLOADS = 8
LARGE = 1526 * 65536

SMALL = 99
"""Small requests at once; the request for 1 GB has the next id."""
GIGABYTE = 15259 * 65536

UNREAD = 1000
UNREAD_CONNECTIONS = 10
SEND_TIMEOUT = 5
LIMITS = ("--total-memory-bytes", str(64 << 20), "--total-spool-bytes", str(1 << 30))


def download(client: FastCGIClient, total: list[int]) -> None:
    """Read a large response repeatedly."""
    while True:
        size = 0
        for piece in client.request("GET", "/large"):
            size += len(piece)
            total[0] += len(piece)
        if size != LARGE:
            raise SystemExit(f"{size} bytes instead of {LARGE}")


def latencies(client: FastCGIClient, requests: int) -> list[float]:
    """Return the latencies of small requests in seconds, sorted."""
    found = []
    for _ in range(requests):
        began = time.perf_counter()
        client.request("GET", "/small").read()
        found.append(time.perf_counter() - began)
    return sorted(found)


def downloads(options: argparse.Namespace) -> None:
    """Measure small requests one after the other, alone and during downloads."""
    server = vsgi("thread", "fair", {0}, "--threads", "16")
    alone: list[list[float]] = []
    loaded: list[list[float]] = []
    rates = []
    try:
        for _ in range(options.rounds):
            with FastCGIClient(f"unix:{server.socket}", response_timeout=300) as client:
                latencies(client, 200)
                alone.append(latencies(client, options.requests))
                stalled = client.request("GET", "/large")
                total = [0]
                others = [gevent.spawn(download, client, total) for _ in range(DOWNLOADS)]
                gevent.sleep(0.2)
                began, before = time.perf_counter(), total[0]
                loaded.append(latencies(client, options.requests))
                rates.append((total[0] - before) / (time.perf_counter() - began) / 1e6)
                (upstream,) = client.upstreams.all
                if upstream.accepted != 1:
                    raise SystemExit("they did not share one connection")
                gevent.killall(others)
                stalled.close()
    finally:
        server.stop()
    print_table({"alone": alone, f"during {DOWNLOADS} downloads": loaded}, rates)


def print_table(kinds: dict[str, list[list[float]]], rates: list[float]) -> None:
    """Print a row for each kind, and how the two compare."""
    print("| small requests | p50 ms | p99 ms | most ms |")
    print("|---|---|---|---|")
    p99 = []
    for name, rounds in kinds.items():
        at = [
            median(each[int((len(each) - 1) * share)] for each in rounds) * 1e3
            for share in (0.5, 0.99, 1.0)
        ]
        p99.append(at[1])
        print(f"| {name} | {at[0]:.2f} | {at[1]:.2f} | {at[2]:.2f} |")
    print(f"\np99: {p99[1] / p99[0]:.1f} x; large responses meanwhile: {median(rates):.0f} MB/s")


def shared(address: str, requests: int, stream: bool) -> tuple[list[float], float]:
    """Keep 99 small requests in flight on one connection.

    Args:
        address: the server's address.
        requests: the number of small requests.
        stream: whether responses of 1 GB share the connection.

    Returns:
        The latencies of the small requests in seconds, sorted, and MB per second of the stream.
    """
    small = {id: request_bytes(id, path="/small") for id in range(1, SMALL + 1)}
    large = request_bytes(SMALL + 1, path="/gigabyte")
    found: list[float] = []
    streamed = of_this = 0
    with connect(address) as sock:
        begun = time.perf_counter()
        started = dict.fromkeys(small, begun)
        sock.sendall((large if stream else b"") + b"".join(small.values()))
        rest = b""
        while len(found) < requests:
            data = rest + sock.recv(1 << 20)
            if data == rest:
                raise SystemExit("the server closed the connection")
            now, at, again = time.perf_counter(), 0, []
            while len(data) - at >= 8:
                _, kind, id, length, padding = HEADER.unpack_from(data, at)
                if len(data) - at < 8 + length + padding:
                    break
                at += 8 + length + padding
                if kind == STDOUT and id not in small:
                    of_this += length
                elif kind == END and id in small:
                    found.append(now - started[id])
                    started[id] = now
                    again.append(small[id])
                elif kind == END:
                    if of_this < GIGABYTE:
                        raise SystemExit(f"{of_this} bytes instead of {GIGABYTE}")
                    streamed, of_this = streamed + of_this, 0
                    again.append(large)
            rest = data[at:]
            sock.sendall(b"".join(again))
        seconds = time.perf_counter() - begun
    return sorted(found), (streamed + of_this) / seconds / 1e6


def stream(options: argparse.Namespace) -> None:
    """Measure 99 small requests at once, alone and with a response of 1 GB."""
    for worker in ("thread", "greenlet"):
        server = vsgi(worker, "fair", {0}, "--worker", worker)
        rounds: dict[str, list[list[float]]] = {"alone": [], "with 1 GB": []}
        rates = []
        try:
            shared(f"unix:{server.socket}", options.requests, False)
            for _ in range(options.rounds):
                for name, large in (("alone", False), ("with 1 GB", True)):
                    found, rate = shared(f"unix:{server.socket}", 10 * options.requests, large)
                    rounds[name].append(found)
                rates.append(rate)
        finally:
            server.stop()
        print(f"\nworker {worker}:")
        print_table(rounds, rates)


def files_bytes(pid: int) -> int:
    """Return what the open temporary files of a process occupy."""
    total = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # The file was closed.
            status = entry.stat()
            if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                total += status.st_blocks * 512
    return total


def closed_seconds(server: Measured) -> tuple[float, int, int]:
    """Send all requests, and read nothing.

    Returns:
        The seconds until no connection is open, and the most bytes of memory and of files.
    """
    memory = files = 0
    with contextlib.ExitStack() as stack:
        poll = select.epoll()
        begun = time.perf_counter()
        for _ in range(UNREAD_CONNECTIONS):
            sock = stack.enter_context(connect(f"unix:{server.socket}"))
            ids = range(1, UNREAD // UNREAD_CONNECTIONS + 1)
            sock.sendall(b"".join(request_bytes(id, path="/large") for id in ids))
            poll.register(sock.fileno(), select.EPOLLHUP)
        left = UNREAD_CONNECTIONS
        while left:
            for fd, _ in poll.poll(0.05):
                poll.unregister(fd)
                left -= 1
            memory, files = max(memory, server.rss()), max(files, files_bytes(server.pid))
            if time.perf_counter() - begun > 20 * SEND_TIMEOUT:
                raise SystemExit(f"{left} connections are still open")
        return time.perf_counter() - begun, memory, files


def unread(options: argparse.Namespace) -> None:
    """Measure what the server holds for clients that read nothing."""
    print("| worker | MiB more memory | MiB in files | s until closed | MiB more after it |")
    print("|---|---|---|---|---|")
    for worker in ("thread", "greenlet"):
        options_of = {"thread": ("--threads", "64"), "greenlet": ()}
        server = vsgi(
            *(worker, "fair", {0}, "--worker", worker, "--send-timeout", str(SEND_TIMEOUT)),
            *(*LIMITS, *options_of[worker]),
        )
        try:
            shared(f"unix:{server.socket}", options.requests, False)
            before = server.rss()
            seconds, memory, files = closed_seconds(server)
            # The server goes on.
            shared(f"unix:{server.socket}", options.requests, False)
            more, after = (memory - before) >> 20, (server.rss() - before) >> 20
            print(f"| {worker} | {more} | {files >> 20} | {seconds:.1f} | {after} |", flush=True)
        finally:
            server.stop()
    print(f"\nlimits: {' '.join(LIMITS)} --send-timeout {SEND_TIMEOUT}")


def main() -> None:
    """Measure all parts, or one of them."""
    parts = {"downloads": downloads, "stream": stream, "unread": unread}
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--only", choices=parts)
    options = parser.parse_args()
    os.sched_setaffinity(0, {1})
    for name, part in parts.items():
        if options.only in (None, name):
            print(f"\n{name}:\n")
            part(options)


if __name__ == "__main__":
    main()
