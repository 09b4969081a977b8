"""Main page and error page of the demonstration."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import threading
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request, Response

from vsgi_fcgi import __version__
from vsgi_fcgi.demo.trials import MAX_SECONDS, MAX_TEXT, MAX_TICKS, can_hold

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


# Files of the page: style sheet, script and icon.

FOLDER = files("vsgi_fcgi.demo")


class File:
    """View of a file in the package, which is kept in memory.

    Args:
        name: name of the file.
        content_type: its content type.

    Attributes:
        query: query that identifies the version. A URL with this query may be cached forever.
    """

    def __init__(self, name: str, content_type: str) -> None:
        self._data = FOLDER.joinpath(name).read_bytes()
        self._content_type = content_type
        self._tag = hashlib.sha256(self._data).hexdigest()[:12]
        self.query = f"v={self._tag}"

    def __call__(self, request: Request) -> Response:
        """Return the file, or 304 if the client has it in its cache."""
        forever = request.query_string.decode("latin-1") == self.query
        cache = "public, max-age=31536000, immutable" if forever else "no-cache"
        headers = {"Cache-Control": cache}
        response = Response(self._data, content_type=self._content_type, headers=headers)
        response.set_etag(self._tag)
        return response.make_conditional(request)


STYLE = File("demo.css", "text/css; charset=utf-8")
SCRIPT = File("demo.js", "text/javascript; charset=utf-8")
ICON = File("icon.svg", "image/svg+xml")


# Functions that format an environ for display, in groups and without secrets.

MAX_CHARACTERS = 1000
"""Maximum length of a displayed value; longer values are truncated."""

_SECRET = ("API_KEY", "AUTHORIZATION", "COOKIE", "PASSWORD", "SECRET", "TOKEN")
"""Values of params with one of these words in their names are hidden."""

_REQUEST = frozenset(
    (
        *("AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "DOCUMENT_URI", "HTTPS", "PATH_INFO"),
        *("PATH_TRANSLATED", "QUERY_STRING", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_IDENT"),
        *("REMOTE_PORT", "REMOTE_USER", "REQUEST_ID", "REQUEST_METHOD", "REQUEST_SCHEME"),
        *("REQUEST_URI", "SCRIPT_NAME", "SERVER_PROTOCOL"),
    )
)


class Entry(NamedTuple):
    """Line of the displayed environ.

    Attributes:
        name: the key.
        text: its value as text with only printable characters.
        note: note after the value or instead of it.
    """

    name: str
    text: str
    note: str = ""


def grouped(environ: Mapping[str, Any]) -> dict[str, list[Entry]]:
    """Sort the entries of an environ into groups.

    Args:
        environ: environ of a request.

    Returns:
        The non-empty groups by title, with the entries in the order of their names.
    """
    groups: dict[str, list[Entry]] = {
        "Request": [],
        "HTTP headers": [],
        "Web server": [],
        "WSGI": [],
    }
    for name in sorted(environ):
        groups[_group(name)].append(_entry(name, environ[name]))
    return {title: entries for title, entries in groups.items() if entries}


def _group(name: str) -> str:
    if "." in name:
        return "WSGI"
    if name in _REQUEST:
        return "Request"
    return "HTTP headers" if name.startswith("HTTP_") else "Web server"


def _entry(name: str, value: object) -> Entry:
    shown = visible(name[:MAX_CHARACTERS])
    if not isinstance(value, str):
        if isinstance(value, bool | int | float | tuple):
            return Entry(shown, repr(value))
        # repr() would reveal a memory address.
        kind = value if isinstance(value, type) else type(value)
        return Entry(shown, f"{kind.__module__}.{kind.__qualname__}")
    if any(word in name.upper() for word in _SECRET):
        return Entry(shown, "", f"hidden, {len(value)} characters")
    if not value:
        return Entry(shown, "", "empty")
    more = f"{len(value)} characters in total" if len(value) > MAX_CHARACTERS else ""
    return Entry(shown, visible(value[:MAX_CHARACTERS]), more)


def visible(text: str) -> str:
    """Escape all characters that are not printable, such as control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_PAGE = Template(FOLDER.joinpath("page.html").read_text(encoding="utf-8"))
_MESSAGE = Template(FOLDER.joinpath("message.html").read_text(encoding="utf-8"))

_ALONE = (
    '<p class="note">This server runs one request at a time: other requests wait for this one.</p>'
)


_TALK = Template(
    '<form id="talk" class="card" action="$root/talk" method="post">\n'
    "<h3>Two tabs</h3>\n"
    "<p>Open this page in another tab. A text that you send appears in both. The server holds their"
    " streams, and no worker waits.</p>\n"
    '<p class="field"><label for="text">Text</label> <input id="text" name="text"'
    ' maxlength="$length" autocomplete="off" required> <button>Send</button></p>\n'
    '<div class="result" role="status"></div>\n'
    "</form>"
)


def page(request: Request) -> Response:
    """Return the main page."""
    environ = request.environ
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
        max_seconds=MAX_SECONDS,
        max_ticks=MAX_TICKS,
        alone="" if environ["wsgi.multithread"] else _ALONE,
        talk=_talk(environ),
        environ="\n".join(_table(title, rows) for title, rows in grouped(environ).items()),
    )
    return Response(text, mimetype="text/html")


def error_page(request: Request, error: HTTPException) -> Response:
    """Return the page for an HTTP error, with the headers that werkzeug defines for it."""
    text = _MESSAGE.substitute(
        _links(request.environ), title=error.name, sentence=escape(error.description or "")
    )
    return Response(text, f"{error.code} {error.name}", error.get_headers())


def _links(environ: WSGIEnvironment) -> dict[str, str]:
    """Return the links of a page, which begin with the mount point of the app."""
    # A link with two leading slashes would lead to another host.
    mount = environ.get("SCRIPT_NAME", "").strip("/")
    root = escape(quote(f"/{mount}" if mount else "", encoding="latin-1", errors="replace"))
    return {
        "root": root,
        "style": f"{root}/demo.css?{STYLE.query}",
        "script": f"{root}/demo.js?{SCRIPT.query}",
        "icon": f"{root}/icon.svg?{ICON.query}",
    }


def _talk(environ: WSGIEnvironment) -> str:
    if not can_hold(environ):
        return ""
    return _TALK.substitute(root=_links(environ)["root"], length=MAX_TEXT)


def _is_ours(environ: WSGIEnvironment) -> bool:
    """Return True if vsgi_fcgi serves the app, and not another WSGI server."""
    return "vsgi_fcgi.main_context" in environ


def _gateway(environ: WSGIEnvironment) -> str:
    """Return the interface between the web server and the WSGI server."""
    if environ["wsgi.run_once"]:
        return "CGI"
    return "FastCGI" if _is_ours(environ) else "WSGI"


def _facts(environ: WSGIEnvironment) -> dict[str, str]:
    """Return facts about the server and this request."""
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
    """Return the version of gevent, or an empty string if it is not loaded, as under plain CGI."""
    version: str = getattr(sys.modules.get("gevent"), "__version__", "")
    return version


def _worker(environ: WSGIEnvironment) -> str:
    if environ["wsgi.run_once"]:
        return "a process for this request only"
    if environ["wsgi.multithread"]:
        return "native threads or greenlets, several requests at a time"
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
