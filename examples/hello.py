"""A small WSGI app: it greets, and shows the requested path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer every request with a few lines of text."""
    path = quote(environ["SCRIPT_NAME"] + environ["PATH_INFO"], encoding="latin-1")
    web_server = environ.get("SERVER_SOFTWARE", "a web server")
    lines = [
        "Hello from vsgi_fcgi!",
        f"You asked for: {environ['REQUEST_METHOD']} {path}",
        f"This came through {web_server}.",
    ]
    body = "".join(f"{line}\n" for line in lines).encode("latin-1")
    headers = [
        ("Content-Type", "text/plain; charset=iso-8859-1"),
        ("Content-Length", str(len(body))),
    ]
    start_response("200 OK", headers)
    return [body]
