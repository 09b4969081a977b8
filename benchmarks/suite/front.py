"""nginx in front of all servers: one port for each, kept connections to those that allow it."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from load import PARAM_LIST
from servers import Measured
from suite.peers import Peer, Protocol

VALUES = {
    "SCRIPT_NAME": '""',
    "PATH_INFO": "$document_uri",
    "REQUEST_SCHEME": "$scheme",
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SERVER_SOFTWARE": "nginx/$nginx_version",
    "REDIRECT_STATUS": "200",
}
# nginx passes the headers of the request without further configuration.
PARAMS = {
    name: VALUES.get(name, f"${name.lower()}")
    for name, _ in PARAM_LIST
    if not name.startswith("HTTP_")
}
PASS: dict[Protocol, list[str]] = {
    "fastcgi": [
        "fastcgi_pass {name};",
        *(f"fastcgi_param {name} {value};" for name, value in PARAMS.items()),
    ],
    "uwsgi": [
        "uwsgi_pass {name};",
        *(f"uwsgi_param {name} {value};" for name, value in PARAMS.items()),
    ],
    "http": [
        "proxy_pass http://{name};",
        "proxy_http_version 1.1;",
        'proxy_set_header Connection "";',
        "proxy_set_header Host $http_host;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-Proto $scheme;",
    ],
}
CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    keepalive_timeout 600s;
    client_max_body_size 16m;
    client_body_buffer_size 2m;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    fastcgi_max_temp_file_size 0;
    proxy_max_temp_file_size 0;
    uwsgi_max_temp_file_size 0;
{servers}
}}
"""
SERVER = """
    upstream {name} {{
        server unix:{socket} max_fails=0;
        {keepalive}
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            {lines}
        }}
    }}
"""


class Front:
    """nginx, with a port for each server.

    Attributes:
        ports: the port of each server.
        process: nginx.
    """

    def __init__(self, servers: Mapping[Peer, Measured]) -> None:
        self.ports = dict(zip(servers, free_ports(len(servers)), strict=True))
        self._folder = tempfile.TemporaryDirectory(prefix="bench-nginx-")
        blocks = []
        for number, (peer, server) in enumerate(servers.items()):
            lines = PASS[peer.protocol].copy()
            if peer.protocol == "fastcgi" and peer.keeps:
                lines.append("fastcgi_keep_conn on;")
            blocks.append(
                SERVER.format(
                    name=f"peer{number}",
                    socket=server.socket,
                    port=self.ports[peer],
                    # The uwsgi protocol has no kept connections.
                    keepalive="keepalive 64;" if peer.keeps and peer.protocol != "uwsgi" else "",
                    lines="\n            ".join(lines).replace("{name}", f"peer{number}"),
                )
            )
        path = Path(self._folder.name, "nginx.conf")
        path.write_text(
            CONFIGURATION.format(
                # As root, nginx would run its workers as a user who cannot open the sockets.
                user="user root;" if os.geteuid() == 0 else "",
                folder=self._folder.name,
                servers="".join(blocks),
            )
        )
        command = ["nginx", "-c", str(path), "-p", self._folder.name]
        self.process = Measured("nginx", command, os.sched_getaffinity(0), wait=False)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while not listens(next(iter(self.ports.values()))):
            if self.process.exited or time.monotonic() > deadline:
                raise SystemExit(f"nginx did not start:\n{self.process.log()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop nginx."""
        self.process.stop()
        self._folder.cleanup()


def listens(port: int) -> bool:
    """Return whether a process accepts connections on a port of loopback."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Return different ports that are not in use."""
    socks = [socket.socket() for _ in range(count)]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
    ports = [int(sock.getsockname()[1]) for sock in socks]
    for sock in socks:
        sock.close()
    return ports


def version() -> str:
    """Return nginx's version, or "" if it is not installed."""
    try:
        done = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stderr.strip().rpartition("/")[2]
