"""CPU time per MiB of request and response bodies, compared with a plain copy through a socket.

    python benchmarks/bodies.py [--rounds N]

The plain copy is a process that only calls ``send`` (or ``recv``) for the same number of bytes, in
pieces of 64 KiB, on a UNIX socket. No server can use less CPU time than this.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from statistics import median

from servers import load, vsgi

MIB = 1 << 20
ROWS = {
    # name: (app, bytes of request body, MiB moved by one request, requests)
    "1 MiB upload": ("upload", MIB, 1.0, 150),
    "10 MiB stream": ("stream", 0, 10.0, 20),
    "10 MiB file": ("file", 0, 10.0, 20),
    "100 KiB response": ("kib100", 0, 100 / 1024, 1500),
}


def plain_copy(receiving: bool, size: int) -> float:
    """Return the CPU seconds of a plain ``recv`` or ``send`` of ``size`` bytes."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        os.sched_setaffinity(0, {1})
        ours.close()
        _move(theirs, not receiving, size)
        os._exit(0)
    os.sched_setaffinity(0, {0})
    theirs.close()
    before = time.process_time()
    _move(ours, receiving, size)
    spent = time.process_time() - before
    os.waitpid(pid, 0)
    ours.close()
    return spent


def _move(sock: socket.socket, receiving: bool, size: int) -> None:
    piece = bytes(65536)
    while size:
        size -= len(sock.recv(min(size, 65536))) if receiving else sock.send(piece[:size])


def main() -> None:
    """Print one row for each kind of body and worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| body | worker | CPU us/MiB | plain copy us/MiB | ratio | MiB/s |")
    print("|---|---|---|---|---|---|")
    for name, (app, body, mib, requests) in ROWS.items():
        servers = [
            vsgi("main", app, {0}, "--worker", "main"),
            vsgi("thread", app, {0}, "--threads", "8"),
        ]
        costs: dict[str, list[float]] = {server.name: [] for server in servers}
        speeds: dict[str, list[float]] = {server.name: [] for server in servers}
        plain = []
        try:
            for _ in range(options.rounds):
                moved = 200
                plain.append(plain_copy(body > 0, moved * MIB) / moved * 1e6)
                for server in servers:
                    result = load(server, 1, requests=requests, connections=4, body=body)
                    costs[server.name].append(result["cpu_us"] / mib)
                    speeds[server.name].append(result["per_second"] * mib)
        finally:
            for server in servers:
                server.stop()
        for worker, cost in costs.items():
            ratio = median(one / other for one, other in zip(cost, plain, strict=True))
            print(
                f"| {name} | {worker} | {median(cost):.0f} | {median(plain):.0f} "
                f"| {ratio:.2f} | {median(speeds[worker]):.0f} |"
            )


if __name__ == "__main__":
    main()
