"""Held requests: memory, CPU time while they wait, and delivery of one item to all of them.

    python benchmarks/held.py [--count 10000] [--seconds 10]

Clients send requests that the server holds. Then one item is published for all of them, and the
time is noted at which each client gets it. Clients share 10 FastCGI connections, or each of them
has an HTTP connection to nginx. For comparison, gevent.pywsgi keeps a greenlet for each request,
and Pushpin, if it is installed, holds them as an HTTP proxy in front of the same app.

Other requests to the same server are measured with the load generator of the other benchmarks.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from load import connect, http_request_bytes, request_bytes
from servers import Measured, load, tree_cpu_seconds, vsgi
from suite.front import free_ports, listens

ITEM = b"the published item"
"""What `hello:held` publishes; each client looks for it."""

_AT_ONCE = 200
"""Connections that are opened without a pause of 0.05 s."""

_AT_ONCE_TO_PUSHPIN = 10
"""The same for Pushpin, which answers 502 if more come than its parts hand over to each other."""

NGINX = """
{user}
daemon off;
worker_processes 2;
worker_rlimit_nofile 16384;
error_log {folder}/error.log;
pid {folder}/pid;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    fastcgi_temp_path {folder}/fastcgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            include /etc/nginx/fastcgi_params;
            fastcgi_param SCRIPT_NAME "";
            fastcgi_param PATH_INFO $document_uri;
            fastcgi_read_timeout 600s;
            fastcgi_buffering off;
            fastcgi_pass unix:{socket};
        }}
    }}
}}
"""

PUSHPIN = """
[global]
include={folder}/internal.conf
rundir={folder}
ipc_prefix=bench-
port_offset=0
stats_connection_ttl=120

[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port={port}
logdir={folder}
log_level=0
client_buffer_size=8192
client_maxconn=20000
allow_compression=false

[proxy]
routesfile={folder}/routes
debug=false
auto_cross_origin=false
accept_x_forwarded_protocol=false
set_x_forwarded_protocol=proto-only

[handler]
push_in_http_addr=127.0.0.1
push_in_http_port={control}
push_in_http_max_headers_size=10000
push_in_http_max_body_size=1000000
ipc_file_mode=777
message_rate=100000
message_hwm=100000
"""


class Clients:
    """All clients, in this process.

    Args:
        address: the address that they connect to.
        connections: the number of connections.
        each: the bytes that are sent on each connection.
        count: the number of clients.
        first: what each client gets before the item; empty for nothing.
        at_once: the number of connections that are opened without a pause.
    """

    def __init__(
        self,
        address: str,
        connections: int,
        each: bytes,
        count: int,
        first: bytes,
        at_once: int = _AT_ONCE,
    ) -> None:
        self._count = count
        self._poll = select.epoll()
        self._socks: dict[int, socket.socket] = {}
        for number in range(connections):
            if number % at_once == at_once - 1:
                # nginx answers 502 if the backlog of the server is full.
                time.sleep(0.05)
            sock = connect(address)
            sock.sendall(each)
            self._socks[sock.fileno()] = sock
            self._poll.register(sock.fileno(), select.EPOLLIN)
        for sock in self._socks.values():
            sock.setblocking(False)
        if first:
            self.wait_for(first, 60)

    def wait_for(self, text: bytes, seconds: float) -> list[float]:
        """Return the times at which the clients have got a text."""
        times: list[float] = []
        rest = dict.fromkeys(self._socks, b"")
        deadline = time.monotonic() + seconds
        while len(times) < self._count and time.monotonic() < deadline:
            for fd, _ in self._poll.poll(0.1):
                try:
                    data = self._socks[fd].recv(1 << 20)
                except BlockingIOError:
                    continue
                if not data:
                    self._poll.unregister(fd)
                    continue
                data = rest[fd] + data
                found = data.count(text)
                times += [time.monotonic()] * found
                # The text may be cut.
                rest[fd] = data[data.rfind(text) + len(text) :] if found else data[-len(text) :]
        return times

    def close(self) -> None:
        """Close all connections."""
        for sock in self._socks.values():
            sock.close()
        self._poll.close()


def measure(
    name: str,
    server: Measured,
    clients: Callable[[], Clients],
    publish: Callable[[], None],
    count: int,
    seconds: float,
    meanwhile: Callable[[], object] | None = None,
) -> None:
    """Hold requests, let them wait, and publish one item.

    This prints a row: resident memory for each held request; CPU time while they wait; the clients
    that did not get the item; the seconds until 99 % of them, and all of them, had got it; and the
    CPU time of the delivery for each client.
    """
    before = server.rss()
    all_clients = clients()
    try:
        # Garbage of the start is collected by then, and all requests are held.
        time.sleep(2)
        kib = (server.rss() - before) / count / 1024
        began = tree_cpu_seconds(server.pid)
        time.sleep(seconds)
        idle = 100 * (tree_cpu_seconds(server.pid) - began) / seconds
        if meanwhile is not None:
            meanwhile()
        began, published = tree_cpu_seconds(server.pid), time.monotonic()
        publish()
        times = sorted(moment - published for moment in all_clients.wait_for(ITEM, 30))
        cpu = 1e6 * (tree_cpu_seconds(server.pid) - began) / count
    finally:
        all_clients.close()
    lost = count - len(times)
    p99 = times[int(0.99 * len(times)) - 1] if times else float("inf")
    last = times[-1] if times else float("inf")
    row = f"| {name} | {kib:.1f} | {idle:.2f} | {lost} | {p99:.3f} | {last:.3f} | {cpu:.1f} |"
    print(row, flush=True)


def fastcgi_clients(server: Measured, mode: str, count: int) -> Clients:
    """Return clients that share 10 connections."""
    each = b"".join(request_bytes(id, path=f"/{mode}") for id in range(1, count // 10 + 1))
    first = b"begun" if mode == "stream" else b""
    return Clients(f"unix:{server.socket}", 10, each, count, first)


def http_clients(port: int, mode: str, count: int, at_once: int = _AT_ONCE) -> Clients:
    """Return clients with a connection each."""
    first = b"begun" if mode == "stream" else b""
    request = http_request_bytes(path=f"/{mode}")
    return Clients(f"127.0.0.1:{port}", count, request, count, first, at_once)


def ask(address: str, request: bytes) -> None:
    """Send a request on a new connection, and read the answer."""
    with contextlib.closing(connect(address)) as sock:
        sock.sendall(request)
        sock.recv(65536)


@contextlib.contextmanager
def program(name: str, files: dict[str, str], command: list[str], port: int) -> Iterator[Measured]:
    """Run another server with files in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-held-") as folder:
        for file, text in files.items():
            Path(folder, file).write_text(text.replace("{folder}", folder))
        argv = [part.replace("{folder}", folder) for part in command]
        server = Measured(name, argv, os.sched_getaffinity(0), wait=False)
        try:
            deadline = time.monotonic() + 20
            while not listens(port):
                if server.exited or time.monotonic() > deadline:
                    raise SystemExit(f"{name} did not start:\n{server.log()}")
                time.sleep(0.05)
            yield server
        finally:
            server.stop()


def held_by_vsgi(mode: str) -> Measured:
    """Start this server."""
    options = ("--push", "--threads", "8", "--max-queued", "20000", "--max-connections", "16000")
    return vsgi("vsgi_fcgi", "held", os.sched_getaffinity(0), *options, "--backlog", "4096")


def straight(mode: str, count: int, seconds: float) -> None:
    """Measure 10 multiplexed connections, and other requests."""
    server = held_by_vsgi(mode)
    try:
        load(server, None, requests=5000, connections=8)
        costs: dict[str, list[dict[str, float]]] = {"alone": [], "meanwhile": []}

        def run(kind: str) -> None:
            for _ in range(5):
                costs[kind].append(load(server, None, requests=10000, connections=8))

        run("alone")
        measure(
            f"vsgi_fcgi, {mode}, 10 connections",
            server,
            lambda: fastcgi_clients(server, mode, count),
            lambda: ask(f"unix:{server.socket}", request_bytes(1, path="/publish")),
            count,
            seconds,
            lambda: run("meanwhile"),
        )
        for key in ("cpu_us", "p99_us"):
            alone, held = (median(row[key] for row in costs[kind]) for kind in costs)
            ratio = held / alone
            print(f"  others: {key} {alone:.1f} alone, {held:.1f} with held ones ({ratio:.2f} x)")
    finally:
        server.stop()


def behind_nginx(mode: str, count: int, seconds: float) -> None:
    """Measure a connection for each client. The figures are those of this server, not of nginx."""
    server = held_by_vsgi(mode)
    (port,) = free_ports(1)
    user = "user root;" if os.geteuid() == 0 else ""
    text = NGINX.replace("{socket}", server.socket).replace("{user}", user)
    text = text.replace("{port}", str(port)).replace("{{", "{").replace("}}", "}")
    command = ["nginx", "-c", "{folder}/nginx.conf", "-p", "{folder}"]
    try:
        with program("nginx", {"nginx.conf": text}, command, port):
            measure(
                f"vsgi_fcgi, {mode}, behind nginx",
                server,
                lambda: http_clients(port, mode, count),
                lambda: ask(f"127.0.0.1:{port}", http_request_bytes(path="/publish")),
                count,
                seconds,
            )
    finally:
        server.stop()


def pywsgi(mode: str, count: int, seconds: float) -> None:
    """Measure gevent.pywsgi, in which a greenlet waits for each request."""
    (port,) = free_ports(1)
    script = (
        "from gevent import pywsgi; import hello;"
        f"pywsgi.WSGIServer(('127.0.0.1', {port}), hello.waiting, log=None, backlog=4096)"
        ".serve_forever()"
    )
    with program("pywsgi", {}, [sys.executable, "-c", script], port) as server:
        measure(
            f"gevent.pywsgi, {mode}",
            server,
            lambda: http_clients(port, mode, count),
            lambda: ask(f"127.0.0.1:{port}", http_request_bytes(path="/publish")),
            count,
            seconds,
        )


def pushpin(mode: str, count: int, seconds: float) -> None:
    """Measure Pushpin. The figures are those of its processes, not of the app behind it."""
    if shutil.which("pushpin") is None:
        print("| Pushpin is not installed | | | | | | |")
        return
    port, control, app_port = free_ports(3)
    app = subprocess.Popen(
        [
            *(sys.executable, "-m", "vsgi_fcgi", "hello:held", "--http", f"127.0.0.1:{app_port}"),
            *("--log-level", "warning", "--max-http-connections", "1000"),
        ],
        cwd=Path(__file__).parent,
        env={**os.environ, "GRIP_URL": f"http://127.0.0.1:{control}"},
    )
    # Debian's Pushpin uses a zurl that the system runs. Here it starts its own.
    internal = Path("/usr/lib/pushpin/internal.conf").read_text()
    files = {
        "internal.conf": internal.replace("ipc:///var/run/zurl/", "ipc://{rundir}/{ipc_prefix}"),
        "pushpin.conf": PUSHPIN.format(folder="{folder}", port=port, control=control),
        "routes": f"* 127.0.0.1:{app_port}\n",
    }
    command = ["pushpin", "--config={folder}/pushpin.conf"]
    item = (
        b'{"items": [{"channel": "held", "formats": {"http-stream": {"content": "%s"},'
        b' "http-response": {"body": "%s"}}}]}' % (ITEM, ITEM)
    )
    request = b"POST /publish/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(item)
    try:
        with program("pushpin", files, command, port) as server:
            measure(
                f"Pushpin, {mode}",
                server,
                lambda: http_clients(port, mode, count, _AT_ONCE_TO_PUSHPIN),
                lambda: ask(f"127.0.0.1:{control}", request + item),
                count,
                seconds,
            )
    finally:
        app.terminate()
        app.wait()


TURNS = {"straight": straight, "nginx": behind_nginx, "pywsgi": pywsgi, "pushpin": pushpin}


def main() -> None:
    """Measure all servers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", choices=TURNS, help="one server alone")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("| server | KiB each | idle CPU % | lost | p99 s | last s | CPU us each |")
    print("|---|---|---|---|---|---|---|")
    for name, turn in TURNS.items():
        if options.only in (None, name):
            for mode in ("poll", "stream"):
                turn(mode, options.count, options.seconds)


if __name__ == "__main__":
    main()
