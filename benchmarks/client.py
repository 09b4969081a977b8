"""What a request costs `FastCGIClient`, multiplexed and not.

    python benchmarks/client.py [--rounds N] [--requests N]

The server runs on one core, the client on the other. The CPU time is that of the client. Without
multiplexing each request has a connection, as for an application that serves one request at a time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from itertools import count
from statistics import median

import gevent
from servers import Measured, vsgi

from vsgi_fcgi.client import FastCGIClient

SHAPES = {
    # name: (multiplexed, connections, greenlets)
    "one after the other": (True, 1, 1),
    "64 at once on 1 connection": (True, 1, 64),
    "64 at once on 4 connections": (True, 4, 64),
    "64 at once, a connection each": (False, 1, 64),
}


def ask(client: FastCGIClient, numbers: Iterator[int], last: int) -> None:
    """Send requests until there are enough responses."""
    while next(numbers) < last:
        body = client.request("GET", "/hello").read()
        if body != b"Hello, world!\n":
            raise SystemExit(f"a wrong answer: {body!r}")


def measure(server: Measured, shape: str, requests: int) -> tuple[float, float]:
    """Return the CPU time per request in microseconds, and the requests per second."""
    multiplexed, connections, greenlets = SHAPES[shape]
    with FastCGIClient(f"unix:{server.socket}", connections=connections) as client:
        (upstream,) = client.upstreams.all
        if not multiplexed:
            upstream.stop_multiplexing()
        ask(client, count(), 500)
        numbers = count()
        cpu, clock = time.process_time(), time.perf_counter()
        gevent.joinall(
            [gevent.spawn(ask, client, numbers, requests) for _ in range(greenlets)],
            raise_error=True,
        )
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return cpu / requests * 1e6, requests / clock


def main() -> None:
    """Print one row for each shape of load."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    os.sched_setaffinity(0, {1})
    server = vsgi("main", "app", {0}, "--worker", "main")
    rows: dict[str, list[tuple[float, float]]] = {shape: [] for shape in SHAPES}
    try:
        for _ in range(options.rounds):
            for shape, results in rows.items():
                results.append(measure(server, shape, options.requests))
    finally:
        server.stop()
    print("| requests | CPU us/request of the client | x first | min-max | req/s |")
    print("|---|---|---|---|---|")
    unit = [cpu for cpu, _ in next(iter(rows.values()))]
    for shape, results in rows.items():
        cpu = [result[0] for result in results]
        ratio = median(one / other for one, other in zip(cpu, unit, strict=True))
        print(
            f"| {shape} | {median(cpu):.1f} | {ratio:.2f} | {min(cpu):.1f}-{max(cpu):.1f} "
            f"| {median(result[1] for result in results):.0f} |"
        )


if __name__ == "__main__":
    main()
