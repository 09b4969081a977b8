"""One request of the matrix, and the parts of its response that a test compares."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

from support.http import Answer, connect, receive

Seen = Mapping[str, object]

MOUNT = "{mount}"
"""What stands for the mount point in values that are expected."""

PORT = "{port}"
"""What stands for the web server's port in them."""

ANY = "{any}"
"""What stands for a value that cannot be foreseen."""

BROKEN = "broken off"
"""The status of a request that got no whole answer."""


@dataclass(frozen=True)
class Ask:
    """A request on the wire.

    Attributes:
        target: what follows the method, below the mount point. It is not touched.
        method: the method.
        headers: names and values, in this order; Host and Connection are added.
        body: the body.
        chunked: whether it is sent in two chunks, without a Content-Length.
        whole: the target is all of it, wherever the app is mounted.
    """

    target: bytes = b"/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    chunked: bool = False
    whole: bool = False

    def encoded(self, mount: str, port: int) -> bytes:
        """The bytes that are sent."""
        target = self.target if self.whole else mount.encode() + self.target
        headers = [("Host", f"127.0.0.1:{port}"), ("Connection", "close"), *self.headers]
        body = self.body or b""
        if self.chunked:
            headers.append(("Transfer-Encoding", "chunked"))
            pieces = [piece for piece in (body[:3], body[3:]) if piece] + [b""]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        elif self.body is not None:
            headers.append(("Content-Length", str(len(body))))
        lines = [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers]
        head = b"%b %b HTTP/1.1\r\n" % (self.method.encode(), target)
        return head + b"".join(lines) + b"\r\n" + body


@dataclass(frozen=True)
class Case:
    """A request and what PEP 3333 and CGI/1.1 make of it.

    Attributes:
        name: what the exceptions know it by.
        ask: the request.
        expect: the expected values, by the names that `see` knows.
        mounted: there is no such request for an app at the root of a site.
    """

    name: str
    ask: Ask
    expect: Seen
    mounted: bool = False


def wire(method: str, *headers: tuple[str, str], body: bytes | None = None) -> Ask:
    """A request for the app's root."""
    return Ask(method=method, headers=headers, body=body)


def answering(**wanted: object) -> tuple[str, str]:
    """The header that tells the app what to answer."""
    return "X-Answer", json.dumps(wanted)


class _Received:
    """What `HTTPResponse` needs of a socket."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def makefile(self, mode: str) -> io.BytesIO:
        assert mode == "rb"
        return self.file


def exchange(port: int, data: bytes, method: str) -> Answer | None:
    """Send a request, and read until the end of the connection.

    Returns:
        The answer; None if there is no whole one.
    """
    received = b""
    with connect(port) as sock:
        try:
            sock.sendall(data)
            for piece in receive(sock):
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            # It answered before it had read everything, and left.
            pass
    return parse(received, method)


def parse(received: bytes, method: str) -> Answer | None:
    """Take an answer apart, behind which there must be nothing."""
    socket = _Received(received)
    response = HTTPResponse(socket, method=method)  # type: ignore[arg-type]
    try:
        response.begin()
        headers, status = response.headers, response.status
        rest = socket.file.read() if response.length == 0 else b""
        assert not rest, f"{method} {status} has a body: {rest[:100]!r}"
        return Answer(status, headers, response.read())
    except HTTPException:
        return None


def see(answer: Answer | None, names: Mapping[str, object]) -> dict[str, object]:
    """Look at an answer.

    Args:
        answer: the answer.
        names: the wanted values: ``status``; a key of the environ, which is None if it is not
            there; ``length`` and ``sha256`` of the body that the app got; a header of the answer
            with a colon behind its name; ``body`` for the length of the answer's, and ``digest``.

    Returns:
        The actual values, by these names.
    """
    seen: dict[str, object] = {"status": BROKEN if answer is None else answer.status}
    if answer is None:
        return seen
    asked: dict[str, Any] = {}
    if answer.status == 200 and answer.headers.get("Content-Type") == "application/json":
        asked = answer.json() if answer.body else {}
    for name in names:
        if name.endswith(":"):
            found = answer.headers.get_all(name[:-1])
            seen[name] = found[0] if found and len(found) == 1 else found
        elif name == "body":
            seen[name] = len(answer.body)
        elif name == "digest":
            seen[name] = hashlib.sha256(answer.body).hexdigest()
        elif name.endswith(" or 0"):
            seen[name] = asked.get(name.removesuffix(" or 0"), "0")
        elif name != "status":
            seen[name] = asked.get(name)
    return seen


def check(port: int, mount: str, wanted: Iterable[tuple[Case, Seen]]) -> None:
    """Send the requests of cases, and check the results.

    Args:
        port: the web server's.
        mount: where the app is.
        wanted: cases, with the expected values of each; a tuple is a choice.
    """
    wrong = {}
    for case, expect in wanted:
        answer = exchange(port, case.ask.encoded(mount, port), case.ask.method)
        seen = see(answer, expect)
        different = {
            name: f"{seen.get(name)!r:.200} instead of {value!r:.200}"
            for name, value in expect.items()
            if not _fits(seen.get(name), value, case.expect.get(name), mount, port)
        }
        if different:
            wrong[case.name] = different
    assert not wrong, wrong


def _fits(seen: object, value: object, usual: object, mount: str, port: int) -> bool:
    if isinstance(value, tuple):
        return seen in value
    if value == ANY:
        return seen not in (None, usual)
    if isinstance(value, str):
        value = value.replace(MOUNT, mount).replace(PORT, str(port))
    return seen == value
