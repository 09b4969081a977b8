"""The pages: the one that there is, and those that say that there is no other."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Iterable
from html import escape
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import quote

from vsgi_fcgi import __version__
from vsgi_fcgi.demo.environ_view import Entry, grouped, visible
from vsgi_fcgi.demo.files import FOLDER, ICON, SCRIPT, STYLE
from vsgi_fcgi.demo.responses import HTML, respond
from vsgi_fcgi.demo.trials import MOST_SECONDS, MOST_TICKS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_PAGE = Template(FOLDER.joinpath("page.html").read_text(encoding="utf-8"))
_MESSAGE = Template(FOLDER.joinpath("message.html").read_text(encoding="utf-8"))

_ALONE = '<p class="note">This server runs one request at a time: others wait for this one.</p>'


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the page."""
    text = _PAGE.substitute(
        _links(environ),
        version=escape(__version__),
        client_protocol=_text(environ.get("SERVER_PROTOCOL", "HTTP")),
        front=_text(environ.get("SERVER_SOFTWARE") or "a web server"),
        gateway=_gateway(environ),
        server=f"vsgi_fcgi {__version__}" if _is_ours(environ) else "another WSGI server",
        facts="\n".join(
            f"<div><dt>{escape(name)}</dt><dd>{_text(value)}</dd></div>"
            for name, value in _facts(environ).items()
        ),
        most_seconds=MOST_SECONDS,
        most_ticks=MOST_TICKS,
        alone="" if environ["wsgi.multithread"] else _ALONE,
        environ="\n".join(_table(title, rows) for title, rows in grouped(environ).items()),
    )
    return respond(environ, start_response, text, content_type=HTML)


def not_found(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer that there is nothing at this path."""
    text = _message(environ, "Not found", "There is nothing at this address.")
    return respond(environ, start_response, text, status="404 Not Found", content_type=HTML)


def not_allowed(
    environ: WSGIEnvironment, start_response: StartResponse, methods: tuple[str, ...]
) -> Iterable[bytes]:
    """Answer that this path does not know the method.

    Args:
        environ: the request's.
        start_response: as PEP 3333 has it.
        methods: those that it knows.
    """
    allowed = ", ".join(methods)
    text = _message(environ, "Method not allowed", f"This address answers {allowed}.")
    return respond(
        environ,
        start_response,
        text,
        ("Allow", allowed),
        status="405 Method Not Allowed",
        content_type=HTML,
    )


def _message(environ: WSGIEnvironment, title: str, sentence: str) -> str:
    return _MESSAGE.substitute(_links(environ), title=title, sentence=sentence)


def _links(environ: WSGIEnvironment) -> dict[str, str]:
    """The addresses on a page, all of which begin with where the app is mounted."""
    # A slash too many at the start would make them addresses on another host.
    mount = environ.get("SCRIPT_NAME", "").strip("/")
    root = escape(quote(f"/{mount}" if mount else "", encoding="latin-1", errors="replace"))
    return {
        "root": root,
        "style": f"{root}/demo.css?{STYLE.query}",
        "script": f"{root}/demo.js?{SCRIPT.query}",
        "icon": f"{root}/icon.svg?{ICON.query}",
    }


def _is_ours(environ: WSGIEnvironment) -> bool:
    """Whether vsgi_fcgi serves this, and not another server that happens to run the app."""
    return "vsgi_fcgi.main_context" in environ


def _gateway(environ: WSGIEnvironment) -> str:
    """What the web server and the server have between them."""
    if environ["wsgi.run_once"]:
        return "CGI"
    return "FastCGI" if _is_ours(environ) else "WSGI"


def _facts(environ: WSGIEnvironment) -> dict[str, str]:
    """What the request was served with."""
    facts = {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "gevent": _gevent(),
        "Gateway interface": environ.get("GATEWAY_INTERFACE", ""),
        "Worker": _worker(environ),
        "Process": str(os.getpid()),
        "Thread": threading.current_thread().name,
        "Request id": environ.get("REQUEST_ID") or environ.get("HTTP_X_REQUEST_ID", ""),
    }
    return {name: value for name, value in facts.items() if value}


def _gevent() -> str:
    """The version of gevent, if there is one here: under plain CGI it is not loaded."""
    version: str = getattr(sys.modules.get("gevent"), "__version__", "")
    return version


def _worker(environ: WSGIEnvironment) -> str:
    if environ["wsgi.run_once"]:
        return "a process for this request alone"
    if environ["wsgi.multithread"]:
        return "native threads, requests side by side"
    return "the main context, one request at a time"


def _table(title: str, entries: list[Entry]) -> str:
    rows = "\n".join(_row(entry) for entry in entries)
    return (
        f'<details open>\n<summary><h3>{escape(title)}</h3> <span class="count">{len(entries)}'
        f"</span></summary>\n<table>\n<tbody>\n{rows}\n</tbody>\n</table>\n</details>"
    )


def _row(entry: Entry) -> str:
    parts = [f"<code>{escape(entry.text)}</code>"] if entry.text else []
    if entry.note:
        parts.append(f'<span class="note">{escape(entry.note)}</span>')
    return f'<tr><th scope="row">{escape(entry.name)}</th><td>{" ".join(parts)}</td></tr>'


def _text(value: str) -> str:
    return escape(visible(value[:200]))
