"""An environ, made fit to be seen: in groups, and without its secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MOST_CHARACTERS = 1000
"""Of each value; the rest is left out."""

_SECRET = ("API_KEY", "AUTHORIZATION", "COOKIE", "PASSWORD", "SECRET", "TOKEN")
"""A param with one of these in its name is hidden."""

_REQUEST = frozenset(
    (
        *("AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "DOCUMENT_URI", "HTTPS", "PATH_INFO"),
        *("PATH_TRANSLATED", "QUERY_STRING", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_IDENT"),
        *("REMOTE_PORT", "REMOTE_USER", "REQUEST_ID", "REQUEST_METHOD", "REQUEST_SCHEME"),
        *("REQUEST_URI", "SCRIPT_NAME", "SERVER_PROTOCOL"),
    )
)


class Entry(NamedTuple):
    """A line of the list.

    Attributes:
        name: the key.
        text: its value as text, every character of which can be seen.
        note: what has to be said beside it or in its place.
    """

    name: str
    text: str
    note: str = ""


def grouped(environ: Mapping[str, Any]) -> dict[str, list[Entry]]:
    """Sort an environ into groups.

    Args:
        environ: a request's.

    Returns:
        The groups that are not empty, by title; the entries of each in the order of their names.
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
    shown = visible(name[:MOST_CHARACTERS])
    if not isinstance(value, str):
        if isinstance(value, bool | int | float | tuple):
            return Entry(shown, repr(value))
        # Its repr() would tell where in memory it is.
        kind = value if isinstance(value, type) else type(value)
        return Entry(shown, f"{kind.__module__}.{kind.__qualname__}")
    if any(word in name.upper() for word in _SECRET):
        return Entry(shown, "", f"hidden, {len(value)} characters")
    if not value:
        return Entry(shown, "", "empty")
    more = f"{len(value)} characters in all" if len(value) > MOST_CHARACTERS else ""
    return Entry(shown, visible(value[:MOST_CHARACTERS]), more)


def visible(text: str) -> str:
    """Escape what cannot be seen: control characters above all."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
