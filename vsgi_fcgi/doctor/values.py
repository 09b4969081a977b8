"""Values of a request, made fit to be seen: every character visible, and without secrets."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

MOST_CHARACTERS: Final = 1000
"""Of each value; the rest is left out."""

_SECRET: Final = ("API_KEY", "AUTHORIZATION", "COOKIE", "PASSWORD", "SECRET", "TOKEN")
"""A param with one of these in its name is hidden."""


def shown(name: str, value: object) -> str:
    """A value as text; of a secret only its length, and of Authorization its scheme.

    Args:
        name: the name of the param, or of the key of an environ.
        value: its value.
    """
    if not isinstance(value, str):
        if isinstance(value, bool | int | float | tuple):
            return repr(value)
        kind = value if isinstance(value, type) else type(value)
        return f"({kind.__module__}.{kind.__qualname__})"
    if any(word in name.upper() for word in _SECRET):
        scheme, space, rest = value.partition(" ")
        if "AUTHORIZATION" in name.upper() and space and scheme.isalnum():
            return f"{scheme} (hidden, {len(rest)} characters)"
        return f"(hidden, {len(value)} characters)"
    if not value:
        return '""'
    if len(value) > MOST_CHARACTERS:
        return f"{visible(value[:MOST_CHARACTERS])} ({len(value)} characters in all)"
    return visible(value)


def visible(text: str) -> str:
    """Escape what cannot be seen, control characters above all; bytes of UTF-8 are read as such."""
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode()
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def environ_lines(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The keys of an environ, in the order of their names, with their values as text."""
    return [(visible(name), shown(name, environ[name])) for name in sorted(environ)]
