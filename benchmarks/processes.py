"""Compare two processes with one: requests per second, CPU time, and how they share the load.

    python benchmarks/processes.py [--rounds N] [--requests N] [--connections N]

The app is a small Flask site, straight over FastCGI. The rounds of one and of two processes
alternate. The load generator needs a part of the same cores. The row "possible" therefore gives the
factor that the CPU time per request and the share of the busier process allow: 2.00 if a request
costs the same as with one process, and if both get the same number of requests.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from flask import Flask
from servers import Measured, _tree, cpu_seconds, load

app = Flask(__name__)


@app.route("/", defaults={"path": ""})
@app.route("/<path:path>")
def hello(path: str) -> str:
    """Answer a short text."""
    return f"Hello, {path}!"


def start(count: int) -> Measured:
    """Start a server with so many processes."""
    command = [sys.executable, "-m", "vsgi_fcgi", "processes:app", "-b", "unix:{socket}"]
    command += ["--log-level", "warning"]
    if count > 1:
        command += ["--processes", str(count)]
    return Measured(f"{count}", command, os.sched_getaffinity(0))


def main() -> None:
    """Run, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    one, two = start(1), start(2)
    rates: dict[str, list[float]] = {"1": [], "2": []}
    costs: dict[str, list[float]] = {"1": [], "2": []}
    shares = []
    try:
        # The second process starts after the first one. A first round warms them up.
        for number in range(options.rounds + 1):
            for server in (one, two):
                before = {pid: cpu_seconds(pid) for pid in _tree(server.pid)}
                result = load(
                    server, None, connections=options.connections, requests=options.requests
                )
                spent = [cpu_seconds(pid) - start for pid, start in before.items()]
                if number:
                    rates[server.name].append(result["per_second"])
                    costs[server.name].append(result["cpu_us"])
                    if server is two:
                        shares.append(max(spent) / sum(spent))
    finally:
        one.stop()
        two.stop()
    middle = statistics.median
    for name in rates:
        print(f"{name}: {middle(rates[name]):.0f} requests/s, {middle(costs[name]):.0f} us")
    print(f"share of the busier process: {middle(shares):.2f}")
    print(f"factor: {middle(rates['2']) / middle(rates['1']):.2f}")
    possible = middle(costs["1"]) / middle(costs["2"]) / middle(shares)
    print(f"possible: {possible:.2f}")


if __name__ == "__main__":
    main()
