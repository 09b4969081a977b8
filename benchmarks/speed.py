"""CPU time per request, in interleaved rounds.

    python benchmarks/speed.py [--reference BARE_RESPONDER.py] [--rounds N] [--requests N]

Every server takes one turn in each round, so a change of the machine's speed affects all of them.
Each turn starts a new process, because the memory layout of a process also makes a difference.
Ratios to the first row are computed within each round, and their median is printed. This removes
the speed of the machine. A load of "8 x 1" is 8 connections with
one request in flight on each. With ``--reference``, the first row is the mode ``inline`` of the
minimal responder; without it, ``--worker main`` of vsgi_fcgi.

If the load generator runs alone on a core, it spins instead of sleeping. Otherwise each ``send`` of
a server that is slower than the generator must wake it. This costs the server about 3 us per
request, and nothing if the server keeps the generator busy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from servers import Measured, load, reference, vsgi

Rows = dict[tuple[str, str], list[dict[str, Any]]]

SHAPES = {
    "8 x 1": {"connections": 8, "in_flight": 1},
    "64 x 1": {"connections": 64, "in_flight": 1},
    "1 x 64": {"connections": 1, "in_flight": 64},
}


def rounds(
    starters: dict[str, Callable[[], Measured]],
    load_cpu: int | None,
    count: int,
    requests: int,
    spin: bool,
) -> Rows:
    """Measure each server with each shape of load, ``count`` times."""
    rows: Rows = {}
    for _ in range(count):
        for name, start in starters.items():
            server = start()
            try:
                load(server, load_cpu, requests=2000, connections=8)
                for shape, options in SHAPES.items():
                    result = load(server, load_cpu, spin=spin, requests=requests, **options)
                    rows.setdefault((name, shape), []).append(result)
            finally:
                server.stop()
    return rows


def show(title: str, rows: Rows, base: str) -> None:
    """Print a table."""
    print(f"\n{title}\n")
    print("| server | load | CPU us/request | x base | min-max | req/s | p50 us | p99 us |")
    print("|---|---|---|---|---|---|---|---|")
    unit = [result["cpu_us"] for result in rows[base, "8 x 1"]]
    for (name, shape), results in rows.items():
        cpu = [result["cpu_us"] for result in results]
        ratios = [one / other for one, other in zip(cpu, unit, strict=True)]
        per_second, p50, p99 = (
            median(result[key] for result in results) for key in ("per_second", "p50_us", "p99_us")
        )
        print(
            f"| {name} | {shape} | {median(cpu):.1f} | {median(ratios):.2f} "
            f"| {min(ratios):.2f}-{max(ratios):.2f} | {per_second:.0f} | {p50:.0f} | {p99:.0f} |"
        )
    for name in dict.fromkeys(name for name, _ in rows):
        shared, single = rows[name, "1 x 64"], rows[name, "64 x 1"]
        ratio = median(
            one["cpu_us"] / many["cpu_us"] for one, many in zip(shared, single, strict=True)
        )
        print(f"\n{name}: 64 in flight on one connection cost {ratio:.2f} x of 64 connections")


def main() -> None:
    """Run both configurations: the server on one core, and on two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", help="path of the bare responder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--threads", default="8")
    parser.add_argument("--no-spin", action="store_true", help="let the load generator sleep")
    options = parser.parse_args()
    settings: list[tuple[str, set[int], int | None]] = [
        ("Server on one core, load generator on the other", {0}, 1),
        ("Both on two cores", {0, 1}, None),
    ]
    for title, cpus, load_cpu in settings:
        starters: dict[str, Callable[[], Measured]] = {}
        if options.reference:
            for mode in ("inline", "thread"):
                name = f"reference {mode}"
                starters[name] = partial(reference, name, options.reference, mode, cpus)
        starters["main"] = partial(vsgi, "main", "app", cpus, "--worker", "main")
        starters["thread"] = partial(vsgi, "thread", "app", cpus, "--threads", options.threads)
        starters["greenlet"] = partial(vsgi, "greenlet", "app", cpus, "--worker", "greenlet")
        rows = rounds(starters, load_cpu, options.rounds, options.requests, not options.no_spin)
        show(title, rows, next(iter(starters)))


if __name__ == "__main__":
    main()
