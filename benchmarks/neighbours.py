"""Latency of small requests while threads sleep, wait for a lock, compute or call C code.

    python benchmarks/neighbours.py [--rounds N] [--requests N] [--switch-interval SECONDS]

The server has 16 threads and runs on one core, the client on the other. Each row adds one thread
that never ends. The last row also asks for the stacks of all threads ten times a second, as a
person does who looks for a request that is stuck.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from statistics import median

import gevent
from servers import vsgi

from vsgi_fcgi.client import FastCGIClient

STATUS_PORT = 19143
ADDED = ("sleep", "lock", "call", "compute")


def latencies(client: FastCGIClient, requests: int) -> list[float]:
    """Return the latencies of small requests in seconds, sorted."""
    found = []
    for _ in range(requests):
        began = time.perf_counter()
        client.request("GET", "/small").read()
        found.append(time.perf_counter() - began)
    return sorted(found)


def look(end: threading.Event) -> None:
    """Ask for the stacks until the end."""
    while not end.wait(0.1):
        connection = HTTPConnection("127.0.0.1", STATUS_PORT)
        connection.request("GET", "/stacks")
        if b"has run for" not in connection.getresponse().read():
            raise SystemExit("the stacks show no request")
        connection.close()


def one_round(options: argparse.Namespace, add: Callable[[str, list[float]], None]) -> None:
    """Start a server, and measure with more and more busy threads."""
    more = ["--threads", "16", "--status-bind", f"127.0.0.1:{STATUS_PORT}"]
    more += ["--switch-interval", str(options.switch_interval), "--graceful-timeout", "0.1"]
    server = vsgi("neighbours", "neighbours", {0}, *more)
    try:
        with FastCGIClient(f"unix:{server.socket}", response_timeout=300) as client:
            latencies(client, 200)
            add("alone", latencies(client, options.requests))
            waiting = []
            for name in ADDED:
                waiting.append(gevent.spawn(client.request, "GET", f"/{name}"))
                # The request is sent before those that are measured.
                client.request("GET", "/small").read()
                add(f"+ {name}", latencies(client, options.requests))
            end = threading.Event()
            looking = threading.Thread(target=look, args=(end,))
            looking.start()
            try:
                add("+ stacks", latencies(client, options.requests))
            finally:
                end.set()
                looking.join()
            gevent.killall(waiting)
    finally:
        server.stop()


def main() -> None:
    """Print the rows, and how each p99 compares to the one before."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--switch-interval", type=float, default=0.005)
    options = parser.parse_args()
    os.sched_setaffinity(0, {1})
    rows: dict[str, list[list[float]]] = {}
    for _ in range(options.rounds):
        one_round(options, lambda name, found: rows.setdefault(name, []).append(found))
    print("| busy threads | p50 ms | p99 ms | p99 to the row before |")
    print("|---|---|---|---|")
    before = None
    for name, rounds in rows.items():
        p50, p99 = (
            median(each[int((len(each) - 1) * share)] for each in rounds) * 1e3
            for share in (0.5, 0.99)
        )
        ratio = "" if before is None else f"{p99 / before:.2f}"
        print(f"| {name} | {p50:.2f} | {p99:.2f} | {ratio} |")
        before = p99


if __name__ == "__main__":
    main()
