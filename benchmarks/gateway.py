"""Cost of the gateway: its CPU time per request minus that of an HTTP server that runs the app.

    python benchmarks/gateway.py [--rounds N] [--requests N]

All rows use the same HTTP server (`vsgi_fcgi.http`). It runs hello world directly, through
``--http`` (server and gateway in one process), and through ``vsgi-fcgi gateway`` with a separate
server, whose CPU time is counted separately. The rows take turns, and each turn starts a new
process. The medians are printed.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from http_load import HTTPLoad
from servers import HERE, cpu_seconds

COMMAND = [sys.executable, "-m", "vsgi_fcgi"]
DIRECT = """
import logging, sys
import gevent, gevent.socket
from hello import app
from vsgi_fcgi.http.config import HTTPConfig
from vsgi_fcgi.http.server import HTTPServer
sock = gevent.socket.socket()
sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_REUSEADDR, 1)
sock.bind(("127.0.0.1", int(sys.argv[1])))
sock.listen(1024)
HTTPServer([sock], app, HTTPConfig(), logging.getLogger()).start()
gevent.wait()
"""


@contextmanager
def started(command: Sequence[str], ready: Path | int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that listens on a UNIX socket or a port on loopback."""
    with subprocess.Popen(command, cwd=HERE, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while not listens(ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command} did not start")
                time.sleep(0.02)
            yield process
        finally:
            process.terminate()


def listens(place: Path | int) -> bool:
    """Return whether a process accepts connections there."""
    if isinstance(place, Path):
        return place.exists()
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", place)) == 0


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def measure(
    port: int, requests: int, connections: int, processes: Sequence[subprocess.Popen[bytes]]
) -> list[float]:
    """Return the CPU time per request of each process, in microseconds."""
    with HTTPLoad(port, connections) as load:
        load.run(requests // 4)
        before = [cpu_seconds(process.pid) for process in processes]
        load.run(requests)
        after = [cpu_seconds(process.pid) for process in processes]
    return [(late - early) / requests * 1e6 for early, late in zip(before, after, strict=True)]


def turn(row: str, requests: int, connections: int) -> list[float]:
    """Run one turn of a row."""
    port = free_port()
    quiet = ["--log-level", "warning"]
    if row == "HTTP, the app itself":
        with started([sys.executable, "-c", DIRECT, str(port)], port) as process:
            return measure(port, requests, connections, [process])
    if row == "--http":
        words = [*COMMAND, "hello:app", "--http", f"127.0.0.1:{port}", "--threads", "8", *quiet]
        with started(words, port) as process:
            return measure(port, requests, connections, [process])
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder, "s")
        server = [*COMMAND, "hello:app", "-b", f"unix:{path}", "--threads", "8", *quiet]
        front = [*COMMAND, "gateway", "--http", f"127.0.0.1:{port}", "-u", f"unix:{path}", *quiet]
        with started(server, path) as behind, started(front, port) as gateway:
            return measure(port, requests, connections, [gateway, behind])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4000)
    options = parser.parse_args()
    # The load generator runs alone on the other core. It starts the measured processes.
    os.environ["PYTHONPATH"] = str(HERE)
    rows = ["HTTP, the app itself", "--http", "gateway, and a server behind it"]
    print("\nHTTP, hello world; CPU us/request\n")
    print("| row | connections | HTTP process | server behind | more than HTTP |")
    print("|---|---|---|---|---|")
    for connections in (1, 8, 64):
        found: dict[str, list[list[float]]] = {row: [] for row in rows}
        for _ in range(options.rounds):
            for row in rows:
                found[row].append(turn(row, options.requests, connections))
        base = median(turns[0] for turns in found[rows[0]])
        for row in rows:
            first = median(turns[0] for turns in found[row])
            second = median(turns[1] for turns in found[row]) if "behind" in row else None
            behind = "" if second is None else f"{second:.1f}"
            print(
                f"| {row} | {connections} | {first:.1f} | {behind} | {first - base:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
