"""Replace servers under load, and count the results of all requests.

    python benchmarks/restarts.py [--front NAME] [--restarts N] [--every SECONDS] [--clients N]

The servers share one UNIX listener. Each is stopped with SIGTERM while the next one already runs.
Each request is a POST with a number, and the app records the number. The results therefore show
whether the app ran for a failed request, and that it ran only once for an answered one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from support.processes import ProcessGroup  # noqa: E402
from support.restarts import FRONTS, Restarts  # noqa: E402


def main() -> None:
    """Run, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--front", choices=FRONTS, action="append")
    parser.add_argument("--restarts", type=int, default=15)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--largest", type=int, default=100_000)
    options = parser.parse_args()
    for front in options.front or FRONTS:
        with (
            tempfile.TemporaryDirectory(prefix="restarts-") as folder,
            ProcessGroup(Path(folder)) as group,
        ):
            restarts = Restarts(group, front, options.clients, options.largest)
            restarts.run(options.restarts, options.every)
            runs = restarts.runs
            print(f"{front}: {sum(restarts.counts.values())} requests")
            for what, count in restarts.counts.most_common():
                print(f"  {count} x {what}")
            print(f"  exit statuses: {dict(Counter(restarts.statuses))}")
            print(f"  failed although the app ran: {sum(path in runs for path in restarts.failed)}")
            print(f"  ran more than once: {sum(count > 1 for count in runs.values())}", flush=True)


if __name__ == "__main__":
    main()
