"""Latency of small requests that share a connection with downloads and a stalled reader.

    python benchmarks/fairness.py [--rounds N] [--requests N]

All requests share one connection: small requests one after the other, eight downloads of 100 MB
that restart when they end, and one download whose response is not read. The server runs on one
core, the client on the other.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median

import gevent
from servers import vsgi

from vsgi_fcgi.client import FastCGIClient

DOWNLOADS = 8
LARGE = 1526 * 65536


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


def main() -> None:
    """Print both rows and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    os.sched_setaffinity(0, {1})
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
    print("| small requests | p50 ms | p99 ms | most ms |")
    print("|---|---|---|---|")
    p99 = []
    for name, rounds in (("alone", alone), (f"during {DOWNLOADS} downloads", loaded)):
        at = [
            median(each[int((len(each) - 1) * share)] for each in rounds) * 1e3
            for share in (0.5, 0.99, 1.0)
        ]
        p99.append(at[1])
        print(f"| {name} | {at[0]:.2f} | {at[1]:.2f} | {at[2]:.2f} |")
    print(f"\np99: {p99[1] / p99[0]:.1f} x; the downloads had {median(rates):.0f} MB/s meanwhile")


if __name__ == "__main__":
    main()
