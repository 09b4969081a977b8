"""Send many slow requests at the same time, and print the total time.

    python ask.py [--requests 1000] [--seconds 1] [--port 8080]

Each request has its own HTTP connection to nginx. The number of connections from the relay is
counted by the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time


async def get(port: int, path: str) -> bytes:
    """Send a request to nginx and return the body.

    Raises:
        RuntimeError: the answer is none of the app's.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"{path} was answered {head[:60]!r}")
    return body


async def ask(port: int, requests: int, seconds: float) -> None:
    """Send all requests and print the results."""
    path = f"/?seconds={seconds:g}"
    began = time.monotonic()
    await asyncio.gather(*(get(port, path) for _ in range(requests)))
    took = time.monotonic() - began
    stats = json.loads(await get(port, "/stats"))
    print(f"requests:    {requests}, of {seconds:g} s each")
    print(f"took:        {took:.2f} s")
    print(f"connections: {stats['connections_accepted']}, accepted by the server")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--port", type=int, default=8080, help="nginx's port on loopback")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = options.requests + 100
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(wanted, hard) if hard > 0 else wanted, hard)
        )
    asyncio.run(ask(options.port, options.requests, options.seconds))


if __name__ == "__main__":
    main()
