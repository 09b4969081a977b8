"""What the access log costs: CPU time per request with it and without it.

    python benchmarks/access_log.py [--rounds N] [--requests N] [--worker main|thread]
    python benchmarks/access_log.py --instructions     (needs valgrind)

The figure that counts is the difference to the server without the log, round by round: each
server takes one turn in each round and is started anew for it, because how a process happens to
lie in memory makes a difference of some 20 %, which is more than the log costs. So take many
rounds, and look at the median and at the quartiles. All threads of the server are counted, and
with them the one that writes the file. After each turn the lines in the file are counted too.

Instructions differ less from run to run. They are those of 1,000 requests under valgrind's
callgrind, and the share of the log in them says what it is of the CPU time of a request.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from servers import Measured, load

EVERYTHING = (
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" '
    "%(D)s %(queue)s %(run)s %(id)s %(neighbours)s %(received)s %(sent)s %(end)s"
)
FORMATS = {
    "off": None,
    "combined": "combined",
    "combined and all of ours": EVERYTHING,
    "json": "json",
}
SHAPES = {
    "8 x 1": {"connections": 8, "in_flight": 1},
    "1 x 64": {"connections": 1, "in_flight": 64},
}
WARM_UP = 2000


@contextmanager
def serving(
    name: str, format: str | None, worker: str, cpus: set[int], *prefix: str
) -> Iterator[tuple[Measured, Path]]:
    """A server with an access log in a folder of its own, or without one."""
    with tempfile.TemporaryDirectory(prefix="bench-log-") as folder:
        path = Path(folder, "access.log")
        command = [*prefix, sys.executable, "-m", "vsgi_fcgi", "hello:app", "-b", "unix:{socket}"]
        command += ["--log-level", "warning", "--worker", worker, "--threads", "8"]
        if format is not None:
            command += ["--access-log", str(path), "--access-log-format", format]
        server = Measured(name, command, cpus)
        try:
            yield server, path
        finally:
            server.stop()


def check(path: Path, name: str, count: int) -> None:
    """See that there is a line for each request."""
    lines = path.read_text().count("\n")
    # Each run of the load generator asks once before it begins.
    if lines != count:
        raise SystemExit(f"{name}: {lines} lines for {count} requests")


def rounds(worker: str, cpus: set[int], load_cpu: int | None, count: int, requests: int) -> None:
    """Measure the CPU time, and print a table."""
    spent: dict[tuple[str, str], list[float]] = {}
    for _ in range(count):
        for name, format in FORMATS.items():
            with serving(name, format, worker, cpus) as (server, path):
                load(server, load_cpu, requests=WARM_UP, connections=8)
                for shape, options in SHAPES.items():
                    result = load(server, load_cpu, spin=True, requests=requests, **options)
                    spent.setdefault((name, shape), []).append(result["cpu_us"])
                server.stop_serving()
                if format is not None:
                    asked = WARM_UP + len(SHAPES) * requests + len(SHAPES) + 1
                    check(path, name, asked)
    print(f"\n--worker {worker}, server on cores {sorted(cpus)}, {count} rounds of {requests}\n")
    print("| access log | load | CPU us/request | more than off, us | quartiles |")
    print("|---|---|---|---|---|")
    for (name, shape), each in spent.items():
        more = [one - off for one, off in zip(each, spent["off", shape], strict=True)]
        low, _, high = quantiles(more, n=4) if count > 1 else more * 3
        print(
            f"| {name} | {shape} | {median(each):.1f} | {median(each) - median(spent['off', shape]):.1f}"
            f" / {median(more):.1f} | {low:.1f} to {high:.1f} |"
        )


def instructions(worker: str) -> None:
    """Count the instructions of 1,000 requests, and print a table."""
    print(f"\n--worker {worker}, instructions a request\n\n| access log | all | of the log |")
    print("|---|---|---|")
    off = 0.0
    for name, format in FORMATS.items():
        few, many = (collected(name, format, worker, count) for count in (500, 1500))
        each = (many - few) / 1000
        off = off or each
        print(f"| {name} | {each:,.0f} | {each - off:,.0f} ({(each / off - 1) * 100:.1f} %) |")


def collected(name: str, format: str | None, worker: str, requests: int) -> int:
    """Instructions of a server's life, in which it answers so many requests."""
    with tempfile.TemporaryDirectory(prefix="bench-callgrind-") as folder:
        out = Path(folder, "out")
        prefix = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        with serving(name, format, worker, {0, 1}, *prefix) as (server, _):
            load(server, None, requests=requests, connections=8)
            server.stop_serving()
        found = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
        if found is None:
            raise SystemExit("callgrind has not said how many instructions it counted")
        return int(found[1])


def main() -> None:
    """Measure both workers, or the one that is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--worker", choices=("main", "thread"))
    parser.add_argument("--instructions", action="store_true")
    options = parser.parse_args()
    if options.instructions:
        try:
            subprocess.run(["valgrind", "--version"], check=True, capture_output=True)
        except FileNotFoundError:
            raise SystemExit("valgrind is not installed") from None
    for worker in [options.worker] if options.worker else ["main", "thread"]:
        if options.instructions:
            instructions(worker)
        else:
            rounds(worker, {0}, 1, options.rounds, options.requests)


if __name__ == "__main__":
    main()
