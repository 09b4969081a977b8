"""Requests with random bodies and responses, some aborted: no byte may belong to another request.

    python benchmarks/soak.py [--requests N] [--connections N] [--greenlets N] [--seed N]

The server is a separate process. Sizes are from 0 to 1 MB, with equal numbers of each magnitude.
Every response contains a digest of its content and of its request's number. The run ends with an
error at the first wrong response, and prints the number of correct ones.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

from servers import Measured

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from support.soak import Soak  # noqa: E402

from vsgi_fcgi.client import FastCGIClient  # noqa: E402


def main() -> None:
    """Run, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--greenlets", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    command = [sys.executable, "-m", "vsgi_fcgi", "--chdir", str(TESTS), "apps.sums:app"]
    server = Measured("soak", [*command, "-b", "unix:{socket}", "--log-level", "warning"], {0, 1})
    began = time.monotonic()
    try:
        address = f"unix:{server.socket}"
        with FastCGIClient(address, connections=options.connections) as client:
            soak = Soak(client, options.seed)
            soak.run(greenlets=options.greenlets, requests=options.requests)
            (upstream,) = client.upstreams.all
            print(f"connections made: {upstream.accepted}, in flight: {upstream.in_flight}")
    finally:
        server.stop()
    seconds = time.monotonic() - began
    for what, count in sorted(soak.counts.items()):
        print(f"{what}: {count}")
    print(f"{soak.bytes / 1e9:.2f} GB in {seconds:.0f} s")
    print(
        f"most memory of the client: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
    )


if __name__ == "__main__":
    main()
