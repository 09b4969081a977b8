"""Reload a supervisor under load, and count the results of all requests.

    python benchmarks/reloads.py [--front NAME] [--reloads N] [--every SECONDS] [--clients N]

Each request is a POST with a number and a random body, and is answered with the digest of its body.
The app records the number. The results therefore show whether a request was lost, whether the app
ran twice for one, and how many of the connections that the web server had opened before the first
reload were closed until the last one. lighttpd opens a connection for each request. HAProxy closes
a connection itself when it has used all request ids, after some ten thousand requests. To see how
often, compare with ``--reloads 0 --every 30``.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from support.processes import ProcessGroup  # noqa: E402
from support.reloads import FRONTS, Reloads  # noqa: E402


def main() -> None:
    """Run, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--front", choices=FRONTS, action="append")
    parser.add_argument("--reloads", type=int, default=15)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--largest", type=int, default=10_000)
    options = parser.parse_args()
    for front in options.front or FRONTS:
        with (
            tempfile.TemporaryDirectory(prefix="reloads-") as folder,
            ProcessGroup(Path(folder)) as group,
        ):
            # HAProxy 2.6 answers 500 to some bodies of more than its buffer, whatever is behind it.
            largest = min(options.largest, 3000) if front == "haproxy" else options.largest
            reloads = Reloads(group, front, options.clients, largest, options.processes)
            began = time.monotonic()
            if options.reloads:
                reloads.run(options.reloads, options.every)
            else:
                reloads.run(1, options.every, act=lambda: None)
            took = time.monotonic() - began
            runs = reloads.runs
            print(f"{front}: {sum(reloads.counts.values())} requests, {took:.0f} s")
            for what, count in reloads.counts.most_common():
                print(f"  {count} x {what}")
            print(f"  reloads: {reloads.log.count('reloaded: ')}")
            moved = sum(map(int, re.findall(r"moved to other processes: (\d+)", reloads.log)))
            print(f"  connections moved: {moved}")
            print(f"  connections closed: {reloads.closed} of {reloads.kept}")
            print(f"  exit statuses: {reloads.statuses}")
            print(f"  failed although the app ran: {sum(path in runs for path in reloads.failed)}")
            print(f"  ran more than once: {sum(count > 1 for count in runs.values())}", flush=True)


if __name__ == "__main__":
    main()
