"""Cost of the relay: CPU time per request of nginx, relay and server, with and without the relay.

    python benchmarks/relay.py [--rounds N] [--requests N]

nginx gets hello world from a server, directly or through the relay. It opens a FastCGI connection
for each request (without ``keepalive``), or keeps its connections. The rows take turns, and each
turn starts new processes. The medians are printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from gateway import COMMAND, free_port, measure, started
from servers import HERE

NGINX = """
daemon off;
master_process off;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path body_temp;
    proxy_temp_path proxy_temp;
    fastcgi_temp_path fastcgi_temp;
    uwsgi_temp_path uwsgi_temp;
    scgi_temp_path scgi_temp;
    upstream app {{
        server unix:{socket};
        {keepalive}
    }}
    server {{
        listen 127.0.0.1:{port};
        include {params};
        fastcgi_param PATH_INFO $uri;
        fastcgi_keep_conn {keep};
        location / {{ fastcgi_pass app; }}
    }}
}}
"""
PARAMS = (
    *("QUERY_STRING", "REQUEST_METHOD", "CONTENT_TYPE", "CONTENT_LENGTH", "REQUEST_URI"),
    *("DOCUMENT_URI", "DOCUMENT_ROOT", "SERVER_PROTOCOL", "REMOTE_ADDR", "REMOTE_PORT"),
    *("SERVER_ADDR", "SERVER_PORT", "SERVER_NAME"),
)
ROWS = {
    "directly": (False, False),
    "through the relay": (True, False),
    "directly, kept": (False, True),
    "through the relay, kept": (True, True),
}


def turn(row: str, requests: int, connections: int) -> list[float]:
    """Run one turn of a row; return CPU us/request of nginx, the server and the relay, if any."""
    relayed, kept = ROWS[row]
    port = free_port()
    quiet = ["--log-level", "warning"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server, relay = folder / "app.sock", folder / "relay.sock"
        words = [*COMMAND, "hello:app", "-b", f"unix:{server}", "--threads", "8", *quiet]
        behind = [stack.enter_context(started(words, server))]
        if relayed:
            words = [*COMMAND, "relay", "-b", f"unix:{relay}", "-u", f"unix:{server}", *quiet]
            behind.append(stack.enter_context(started(words, relay)))
        params = folder / "params"
        lines = [f"fastcgi_param {name} ${name.lower()};" for name in PARAMS]
        params.write_text("\n".join(lines))
        config = folder / "nginx.conf"
        config.write_text(
            NGINX.format(
                socket=relay if relayed else server,
                keepalive="keepalive 64;" if kept else "",
                keep="on" if kept else "off",
                port=port,
                params=params,
            )
        )
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
        nginx = shutil.which("nginx", path=path)
        if nginx is None:
            raise SystemExit("nginx is not installed")
        words = [nginx, "-p", str(folder), "-c", str(config), "-e", "stderr"]
        front = stack.enter_context(started(words, port))
        return measure(port, requests, connections, [front, *behind])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4000)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(HERE)
    print("\nHTTP through nginx, hello world; CPU us/request\n")
    print("| nginx asks | connections | nginx | server | relay | all |")
    print("|---|---|---|---|---|---|")
    for connections in (1, 8, 64):
        found: dict[str, list[list[float]]] = {row: [] for row in ROWS}
        for _ in range(options.rounds):
            for row in ROWS:
                found[row].append(turn(row, options.requests, connections))
        for row, turns in found.items():
            cells = [f"{median(cell):.1f}" for cell in zip(*turns, strict=True)]
            cells += [""] * (3 - len(cells))
            total = median(map(sum, turns))
            print(f"| {row} | {connections} | {' | '.join(cells)} | {total:.1f} |", flush=True)


if __name__ == "__main__":
    main()
