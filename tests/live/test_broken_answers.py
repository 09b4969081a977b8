"""Test what a client sees of an incomplete response, behind each web server in each mode."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
from support.front_ends.apache import ApacheFcgid
from support.front_ends.more_servers import H2O, ApacheProxy, Behind, Caddy, LighttpdExternal
from support.front_ends.servers import AppServer, HAProxy, Nginx, WebServer
from support.gates import Gate
from support.http import connect, receive, request
from support.processes import ProcessGroup

APP = "apps.routes:app"
PIECE = bytes(range(256)) * 256
BROKEN, WHOLE, WAITS = "broken", "whole", "waits"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)\r\n")
_CHUNK = re.compile(rb"(?i)([0-9a-f]+)\r\n")


class NginxUnbuffered(Nginx):
    EDITS = (("        fastcgi_keep_conn on;", "fastcgi_keep_conn on; fastcgi_buffering off;"),)


class NginxNotKept(Nginx):
    EDITS = (("        fastcgi_keep_conn on;", "fastcgi_keep_conn off;"),)


class LighttpdHolding(LighttpdExternal):
    EDITS = (("server.stream-response-body = 1", "server.stream-response-body = 0"),)


class HAProxyNotKept(HAProxy):
    EDITS = (("    option keep-conn\n    # One request", "    # One request"),)


class ApacheProxyHolding(ApacheProxy):
    EDITS = ((" flushpackets=on", ""),)


class ApacheProxyNotKept(ApacheProxy):
    EDITS = ((" enablereuse=on", ""),)


class CaddyHolding(Caddy):
    EDITS = (("flush_interval -1", ""),)


class H2OKept(H2O):
    EDITS = (
        (
            "fastcgi.timeout.io: 60000",
            "fastcgi.timeout.io: 60000\n        fastcgi.timeout.keepalive: 10000",
        ),
    )


class ApacheFcgidHolding(ApacheFcgid):
    EDITS = (("FcgidOutputBufferSize 0", "FcgidOutputBufferSize 65536"),)


# By web server and mode (a class, and a path of its example): whether it passes an answer on as it
# comes, and what a client sees of an answer with a Content-Length, and of one without. HAProxy,
# told by END_REQUEST where it multiplexes, waits for the rest until its own timeout. h2o, Caddy
# and mod_fcgid tell their client nothing of an answer without a length, whatever the server sends,
# and lighttpd does not if it has passed on nothing yet.
TABLE: list[tuple[type[WebServer], str, bool, str, str]] = [
    (Nginx, "", False, BROKEN, BROKEN),
    (NginxUnbuffered, "", True, BROKEN, BROKEN),
    (NginxNotKept, "", False, BROKEN, BROKEN),
    (Nginx, "/unbuffered", True, BROKEN, BROKEN),  # not kept
    (LighttpdExternal, "", True, BROKEN, BROKEN),
    (LighttpdHolding, "", False, BROKEN, WHOLE),
    (HAProxy, "", True, WAITS, WHOLE),
    (HAProxy, "/alone", True, BROKEN, BROKEN),
    (HAProxyNotKept, "/alone", True, BROKEN, BROKEN),
    (ApacheProxy, "", True, BROKEN, BROKEN),
    (ApacheProxyHolding, "", False, BROKEN, BROKEN),
    (ApacheProxyNotKept, "", True, BROKEN, BROKEN),
    (ApacheFcgid, "", True, BROKEN, WHOLE),
    (ApacheFcgidHolding, "", False, BROKEN, WHOLE),
    (Caddy, "", True, BROKEN, WHOLE),
    (CaddyHolding, "", False, BROKEN, WHOLE),
    (H2O, "", True, BROKEN, WHOLE),
    (H2OKept, "", True, BROKEN, WHOLE),
]


def body_of(received: bytes) -> tuple[str, bytes]:
    """Return whether an answer that has come to its end looks whole to a client, and its body."""
    head, _, body = received.partition(b"\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n")
    if length is not None:
        return (WHOLE if len(body) == int(length[1]) else BROKEN), body
    if b"chunked" not in head.lower():
        return (WHOLE if head else BROKEN), body
    joined, rest = b"", body
    while chunk := _CHUNK.match(rest):
        size = int(chunk[1], 16)
        if not size:
            return WHOLE, joined
        joined += rest[chunk.end() : chunk.end() + size]
        rest = rest[chunk.end() + size + 2 :]
    return BROKEN, joined


def ask(web: WebServer, path: str, gate: Gate | None) -> tuple[str, bytes]:
    """Send a request, and let its app end when some of the answer came.

    Returns:
        The result that a client sees, and the part of the body that arrived.
    """
    path += f"{'&' if '?' in path else '?'}{gate.query}" if gate else ""
    received = b""
    with connect(web.port) as sock:
        sock.settimeout(5)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        try:
            if gate is not None:
                while not received.partition(b"\r\n\r\n")[2]:
                    received += sock.recv(65536)
                gate.wait_for_app()
                gate.open()
            for data in receive(sock):
                received += data
        except ConnectionResetError:
            return BROKEN, body_of(received)[1]
        except TimeoutError:
            return WAITS, body_of(received)[1]
    return body_of(received)


def start(kind: type[WebServer], processes: ProcessGroup) -> WebServer:
    if issubclass(kind, ApacheFcgid):
        return kind(processes, f"--threads 2 {APP}")
    assert issubclass(kind, Nginx | HAProxy | Behind)
    return kind(processes, AppServer(processes, APP, "--threads", "2"))


@pytest.mark.parametrize(("kind", "prefix", "passes", "short", "failing"), TABLE)
def test_an_answer_that_is_not_whole(
    processes: ProcessGroup,
    kind: type[WebServer],
    prefix: str,
    passes: bool,
    short: str,
    failing: str,
) -> None:
    web = start(kind, processes)
    assert request(web.port, f"{prefix}/echo").status == 200
    pids = web.pids() if isinstance(web, ApacheFcgid) else set()
    with ExitStack() as stack:
        gate = stack.enter_context(Gate(processes.folder)) if passes else None
        # Not a byte that the app did not send.
        seen, body = ask(web, f"{prefix}/short", gate)
        assert (seen, b"less".startswith(body)) == (short, True)
        seen, body = ask(web, f"{prefix}/fail_midway?pieces=1", gate)
        assert (seen, PIECE.startswith(body)) == (failing, True)
    assert request(web.port, f"{prefix}/echo").status == 200
    assert not isinstance(web, ApacheFcgid) or web.pids() == pids


def test_a_broken_answer_costs_no_neighbour_on_the_connection_of_haproxy(
    processes: ProcessGroup,
) -> None:
    server = AppServer(processes, APP, "--threads", "2")
    web = HAProxy(processes, server)
    with Gate(processes.folder) as gate, connect(web.port) as neighbour:
        neighbour.sendall(
            f"GET {gate.url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        received = b""
        while b"before" not in received:
            received += neighbour.recv(65536)
        gate.wait_for_app()
        opened = server.sockets()
        assert ask(web, "/fail_midway?pieces=1", None) == (WHOLE, PIECE)
        assert server.sockets() == opened
        gate.open()
        received += b"".join(receive(neighbour))
    assert body_of(received) == (WHOLE, b"before\nafter\n")
