"""Test a request with Upgrade, which lighttpd passes on."""

from __future__ import annotations

import re
import subprocess
from typing import ClassVar

import pytest
from support.front_ends.servers import ROOT, AppServer, find
from support.front_ends.sites import LighttpdSites
from support.http import connect, receive
from support.processes import ProcessGroup

_SITE = """fastcgi.server = ( "/" => (( "host" => "127.0.0.1", "port" => PORT,
    "check-local" => "disable", "fix-root-scriptname" => "enable", "upgrade" => "enable" )) )"""

_REQUEST = b"""GET /socket HTTP/1.1\r
Host: x\r
Connection: Upgrade\r
Upgrade: websocket\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
\r
"""


class UpgradingLighttpd(LighttpdSites):
    SITES: ClassVar = {"upgrade": _SITE}


def test_the_app_answers_with_another_status(processes: ProcessGroup) -> None:
    """lighttpd does not end STDIN then, and its client gets nothing before END_REQUEST."""
    said = subprocess.run([find("lighttpd"), "-v"], capture_output=True, text=True, check=True)
    found = re.match(r"lighttpd/1\.4\.(\d+)", said.stdout)
    if found is not None and int(found[1]) < 74:
        pytest.skip(f"lighttpd 1.4.{found[1]} removes Upgrade; 1.4.74 is the first that passes it")
    server = AppServer(processes, "apps.behind_http:app", folder=ROOT / "tests")
    port = UpgradingLighttpd(processes, {"auto": server}).port
    with connect(port) as sock:
        sock.sendall(_REQUEST)
        answer, pieces = b"", receive(sock)
        while b'"HTTP_UPGRADE": "websocket"' not in answer:
            answer += next(pieces)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), server.process.log()
