"""Cost of the access log: CPU time per request with the log minus CPU time without it.

    python benchmarks/access_log.py [--processes N] [--turns N] [--worker main|thread]
    python benchmarks/access_log.py --instructions     (needs valgrind)

Two processes differ by about 20 % because of their memory layout, and the speed of a machine
varies. Both effects are larger than the cost of the log. Therefore each process runs two servers,
one with the log and one without it. Requests go to them in short turns, and each turn with the log
is compared with the turns before and after it. There are several processes, because the memory
layout also affects the cost of the log. The figures include all threads of the process, also the
thread that writes the file. At the end, the log must have one line for each request.

The number of instructions hardly differs between runs. It is measured for 2,000 requests with
valgrind's callgrind. The share of the log in it shows its share of the CPU time of a request.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from hello import app
from load import Load, fastcgi_clients
from servers import Measured, cpu_seconds, load

EVERYTHING = (
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" '
    "%(D)s %(queue)s %(run)s %(id)s %(neighbours)s %(received)s %(sent)s %(end)s"
)
FORMATS = {"combined": "combined", "combined and all of ours": EVERYTHING, "json": "json"}
SHAPES = {"8 x 1": (8, 1), "64 x 1": (64, 1), "1 x 64": (1, 64)}
WARM_UP = 3000


def serve(folder: str, worker: str, format: str) -> None:
    """Run both servers until standard input ends."""
    from vsgi_fcgi import Server

    on: dict[str, Any] = {"access_log": f"{folder}/log", "access_log_format": format}
    servers = [Server(app, worker=worker, threads=8, **more) for more in ({}, on)]
    for name, server in zip(("off", "on"), servers, strict=True):
        server.listen(f"unix:{folder}/{name}")
        server.start()
    sys.stdin.read()
    for server in servers:
        server.stop()


class Pair:
    """A process with both servers.

    Args:
        folder: the folder of their sockets and of the log.
        worker: the kind of worker.
        format: the format of the log.
        shape: connections, and requests in flight on each.
    """

    def __init__(self, folder: str, worker: str, format: str, shape: tuple[int, int]) -> None:
        self._log = Path(folder, "log")
        command = [sys.executable, __file__, "--serve", folder, "--worker", worker]
        self._process = subprocess.Popen(
            [*command, "--format", format],
            stdin=subprocess.PIPE,
            preexec_fn=lambda: os.sched_setaffinity(0, {0}),
        )
        while not (os.path.exists(f"{folder}/on") and os.path.exists(f"{folder}/off")):
            time.sleep(0.02)
        self._loads = {
            name: Load(fastcgi_clients(f"unix:{folder}/{name}", *shape), True)
            for name in ("off", "on")
        }
        # The load generator has sent one request to learn the response.
        self._logged = 1
        for name in self._loads:
            self._run(name, WARM_UP)

    def _run(self, name: str, count: int) -> None:
        self._loads[name].run(count)
        if name == "on":
            self._logged += count

    def spent(self, name: str, count: int) -> float:
        """Return the CPU time of one of its servers per request, in microseconds."""
        self._run(name, count // 5)
        before = cpu_seconds(self._process.pid)
        self._run(name, count)
        return (cpu_seconds(self._process.pid) - before) / count * 1e6

    def stop(self) -> None:
        """Stop it, and check that the log has one line for each request."""
        for each in self._loads.values():
            for client in each.clients:
                client.sock.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        lines = self._log.read_text().count("\n")
        if lines != self._logged:
            raise SystemExit(f"{lines} lines for {self._logged} requests")


def compare(worker: str, processes: int, turns: int, requests: int) -> None:
    """Print a table for one kind of worker."""
    print(f"\n--worker {worker}, on one core\n")
    print("| access log | load | off, us/request | more with it, us | quartiles |")
    print("|---|---|---|---|---|", flush=True)
    for name, format in FORMATS.items():
        for title, shape in SHAPES.items():
            off: list[float] = []
            more: list[float] = []
            for _ in range(processes):
                with tempfile.TemporaryDirectory(prefix="bench-log-") as folder:
                    pair = Pair(folder, worker, format, shape)
                    before = pair.spent("off", requests)
                    for _ in range(turns):
                        on = pair.spent("on", requests)
                        after = pair.spent("off", requests)
                        more.append(on - (before + after) / 2)
                        off.append(after)
                        before = after
                    pair.stop()
            low, _, high = quantiles(more, n=4)
            print(
                f"| {name} | {title} | {median(off):.1f} | {median(more):.1f} "
                f"| {low:.1f} to {high:.1f} |",
                flush=True,
            )


def instructions(worker: str) -> None:
    """Count the instructions of a request, and print a table."""
    print(f"\n--worker {worker}\n\n| access log | instructions/request | of the log |")
    print("|---|---|---|", flush=True)
    off = 0.0
    for name, format in ({"off": None} | FORMATS).items():
        few, many = (collected(name, format, worker, count) for count in (500, 2500))
        each = (many - few) / 2000
        off = off or each
        share = f"{each - off:,.0f} ({(each / off - 1) * 100:.1f} %)" if format else ""
        print(f"| {name} | {each:,.0f} | {share} |", flush=True)


def collected(name: str, format: str | None, worker: str, requests: int) -> int:
    """Return the instructions of a server that answers this many requests and exits."""
    with tempfile.TemporaryDirectory(prefix="bench-callgrind-") as folder:
        out = Path(folder, "out")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", sys.executable]
        command += ["-m", "vsgi_fcgi", "hello:app", "-b", "unix:{socket}", "--worker", worker]
        if format is not None:
            command += ["--access-log", f"{folder}/log", "--access-log-format", format]
        with ending(Measured(name, command, {0, 1})) as server:
            load(server, None, requests=requests, connections=8)
        found = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
        if found is None:
            raise SystemExit("callgrind has not said how many instructions it counted")
        return int(found[1])


@contextmanager
def ending(server: Measured) -> Iterator[Measured]:
    """Stop a server at the end."""
    try:
        yield server
    finally:
        server.stop()


def main() -> None:
    """Measure both workers, or only the named one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--worker", choices=("main", "thread"))
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--format", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.worker, options.format)
        return
    if options.instructions:
        try:
            subprocess.run(["valgrind", "--version"], check=True, capture_output=True)
        except FileNotFoundError:
            raise SystemExit("valgrind is not installed") from None
    else:
        # The load generator runs alone on the other core.
        os.sched_setaffinity(0, {1})
    for worker in [options.worker] if options.worker else ["main", "thread"]:
        if options.instructions:
            instructions(worker)
        else:
            compare(worker, options.processes, options.turns, options.requests)


if __name__ == "__main__":
    main()
