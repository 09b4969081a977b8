"""A small HTTP client: one request at a time, and a browser with cookies and forms."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

TIMEOUT = 20.0

Body = bytes | Iterable[bytes] | None


@dataclass(frozen=True)
class Answer:
    """The response to a request."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One kept connection to a web server.

    Args:
        port: its port on loopback.
    """

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)

    def request(
        self,
        method: str,
        path: str,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; a body that is no bytes is sent in chunks, without Content-Length.

        Raises:
            OSError: the connection broke.
            HTTPException: the answer did (`IncompleteRead` among others).
        """
        self._connection.request(method, path, body=body, headers=headers or {})
        response = self._connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def request(
    port: int,
    path: str = "/",
    *,
    method: str = "GET",
    body: Body = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request over a connection of its own."""
    with Client(port) as client:
        return client.request(method, path, body, headers)


def connect(port: int) -> socket.socket:
    """A bare connection, for clients that misbehave."""
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def receive(sock: socket.socket) -> Iterator[bytes]:
    """Yield the data from a bare connection until its end."""
    while data := sock.recv(65536):
        yield data


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """Read from a bare connection until a text has come; return everything."""
    received = b""
    while end not in received:
        piece = sock.recv(65536)
        assert piece, received
        received += piece
    return received


def multipart(fields: Mapping[str, str], files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """A form with files, and its Content-Type."""
    boundary = "----a-boundary-that-is-in-no-test-file"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for name, data in files.items():
        disposition = f'form-data; name="{name}"; filename="{name}.bin"'
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n"
        head += "Content-Type: application/octet-stream\r\n\r\n"
        parts += [head.encode(), data, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


class Browser:
    """Keeps cookies between requests.

    Args:
        port: the web server's port on loopback.
        prefix: where the app is mounted.
    """

    def __init__(self, port: int, prefix: str = "") -> None:
        self._port = port
        self._prefix = prefix
        self.cookies: dict[str, str] = {}

    def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = ""
    ) -> Answer:
        headers = {"Content-Type": content_type} if content_type else {}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = request(self._port, self._prefix + path, method=method, body=body, headers=headers)
        for line in answer.headers.get_all("Set-Cookie", []):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.coded_value
        return answer

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, **fields: str) -> Answer:
        body = urlencode(fields).encode()
        return self.request("POST", path, body, "application/x-www-form-urlencoded")

    def upload(self, path: str, files: Mapping[str, bytes], **fields: str) -> Answer:
        body, content_type = multipart(fields, files)
        return self.request("POST", path, body, content_type)
