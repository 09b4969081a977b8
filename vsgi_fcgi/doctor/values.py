"""Values of a request, made fit to be seen: every character visible, and without secrets."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from vsgi_fcgi.wsgi.seen import SEEN

MOST_CHARACTERS: Final = 1000
"""Of each value; the rest is left out."""

_SECRET: Final = re.compile(
    "ASSERTION|AUTHORIZATION|COOKIE|CREDENTIAL|JWT|KEY(_|$)|PASS|SECRET|SESSION|SIGNATURE|TOKEN"
    "|X_AUTH|AUTH$",
    re.IGNORECASE,
)
"""What stands in the names of params, and of what is in a query, whose values are hidden."""

_SECRET_IN_QUERIES: Final = frozenset({"code", "pw", "pwd", "sid", "sig"})
"""Names in a query whose values are hidden too."""

_PAIR: Final = re.compile(r"((?:^|[?&;#])([^?&;#=\s]*)=)([^&#]*)")
_NAME: Final = re.compile(r"(?:^|[?&;#])([^?&;#=\s]*)=")
_LOGIN: Final = re.compile(r"(//[^/@?#:\s]*:)[^/@?#\s]+@")
"""The password in an address, such as an environment has for a database."""

_SCHEMES: Final = frozenset({"basic", "bearer", "digest", "negotiate", "ntlm"})
"""Of Authorization that are shown: without one, the first word may be the secret."""


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
    if _SECRET.search(name):
        scheme, _, rest = value.partition(" ")
        if "AUTHORIZATION" in name.upper() and scheme.lower() in _SCHEMES:
            return f"{scheme} (hidden, {len(rest)} characters)"
        return f"(hidden, {len(value)} characters)"
    return brief(without_secrets(value)) or '""'


def without_secrets(text: str) -> str:
    """Hide what is secret by its name in a query, and passwords in addresses.

    A secret that is part of a path has no name.
    """
    return _PAIR.sub(_pair, _LOGIN.sub(r"\1(hidden)@", text))


def _pair(match: re.Match[str]) -> str:
    start, name, value = match.groups()
    inner = unquote(value)
    # An address in an address, such as the one to go back to; or a semicolon for an ampersand.
    secret = _is_secret(unquote(name)) or any(
        _is_secret(found[1]) for found in _NAME.finditer(inner)
    )
    return f"{start}(hidden)" if secret and value else match[0]


def _is_secret(name: str) -> bool:
    return name.lower() in _SECRET_IN_QUERIES or _SECRET.search(name) is not None


def brief(text: str) -> str:
    """As `visible`, and no longer than `MOST_CHARACTERS` of the text."""
    if len(text) > MOST_CHARACTERS:
        return f"{visible(text[:MOST_CHARACTERS])} ({len(text)} characters in all)"
    return visible(text)


def visible(text: str) -> str:
    """Escape what cannot be seen, control characters above all; bytes of UTF-8 are read as such."""
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode()
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def environ_lines(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The keys of an app's environ, in the order of their names, with their values as text."""
    names = sorted(environ.keys() - {SEEN})
    return [(visible(name), shown(name, environ[name])) for name in names]
