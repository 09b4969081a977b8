"""The responses about a server: pages, JSON, metrics, and the checks of container platforms."""

from __future__ import annotations

import json
import os
from typing import Protocol
from urllib.parse import parse_qs

from vsgi_fcgi.status.page import POLICY, make_page
from vsgi_fcgi.status.report import make_report
from vsgi_fcgi.status.scoreboard import Scoreboard
from vsgi_fcgi.wsgi.environ import printable
from vsgi_fcgi.wsgi.response import encode_header_block

PATHS = ("/", "/json", "/metrics", "/stack", "/stacks", "/ready", "/alive")
"""All paths below the path of the status."""

_TEXT = "text/plain; charset=utf-8"


class Process(Protocol):
    """The process that responds."""

    @property
    def scoreboard(self) -> Scoreboard:
        """The scoreboard that the processes share."""

    def stack(self, ident: int) -> str:
        """Return the stack of a thread of this process."""

    def stacks(self) -> str:
        """Return the stacks of this process's workers."""


Response = tuple[str, list[tuple[str, str]], bytes]
"""A status line, headers and a body."""


def respond(process: Process, path: str, query: str, base: str) -> Response:
    """Respond to a request.

    Args:
        process: the process that responds.
        path: the path of the request, one of `PATHS`.
        query: the query string.
        base: the path of the status, without a slash at its end.
    """
    if path == "/alive":
        return _response("alive\n")
    if path == "/stacks":
        return _response(_all_stacks(process))
    report = make_report(process.scoreboard)
    if path == "/":
        return _response(make_page(report, base), "text/html; charset=utf-8")
    if path == "/json":
        return _response(json.dumps(report) + "\n", "application/json")
    if path == "/ready":
        if report["serving"]:
            return _response("ready\n")
        return _response("not ready\n", status="503 Service Unavailable")
    if path == "/stack":
        wanted = parse_qs(query).get("id", [""])[0]
        for request in report["requests"]:
            if request["id"] == wanted:
                return _response(_stack(process, request))
        return _response("this request has ended\n", status="404 Not Found")
    if path == "/metrics":
        try:
            from vsgi_fcgi.status.metrics import CONTENT_TYPE, make_metrics
        except ImportError:
            text = "metrics need prometheus_client: pip install 'vsgi-fcgi[metrics]'\n"
            return _response(text, status="501 Not Implemented")
        return _response(make_metrics(report), CONTENT_TYPE)
    return _response("not found\n", status="404 Not Found")


def respond_as_cgi(response: Response) -> bytes:
    """Return a response as a CGI program writes it."""
    line, headers, body = response
    return encode_header_block(line, headers)[0] + body


def _response(text: str, content_type: str = _TEXT, status: str = "200 OK") -> Response:
    body = text.encode("utf-8", "replace")
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
    ]
    return status, headers, body


def _stack(process: Process, request: dict[str, object]) -> str:
    line = printable(f"{request['method']} {request['target']}")
    name = f"{line} has run for {request['run']} seconds"
    if request["process"] == os.getpid():
        stack = process.stack(int(str(request["thread"])))
    else:
        stack = str(request["stack"]) or "  other processes show it after one second"
    return f"process {request['process']}, {name}\n{stack}\n"


def _all_stacks(process: Process) -> str:
    """Return the stacks of this process, and of long requests of the others."""
    others = [
        _stack(process, request)
        for request in make_report(process.scoreboard)["requests"]
        if request["process"] != os.getpid()
    ]
    return "\n".join([process.stacks(), *others])
