"""Responses of an authorizer (FastCGI specification, section 6.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vsgi_fcgi.exceptions import ResponseError

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STRANGE: Final = re.compile(r"[^\x20-\x7e\x80-\xff]")


def variables(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return headers for variables that the web server adds to an authorized request.

    The web server uses them only in a ``200 OK`` response, which allows the request::

        def auth(environ, start_response):
            start_response("200 OK", variables({"REMOTE_USER": "kim"}))
            return []

    Args:
        values: values of the variables, by their names. As everywhere in WSGI, a string has one
            character per byte. For other characters, pass UTF-8 as
            ``name.encode().decode("latin-1")``.

    Raises:
        ResponseError: a name is not valid for a CGI variable, or a value would not arrive
            unchanged.
    """
    headers = []
    for name, value in values.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ResponseError(f"{name!r} is not a valid variable name; use one like REMOTE_USER")
        if not isinstance(value, str):
            raise ResponseError(f"variable {name}: must be str, not {type(value).__name__}")
        strange = _STRANGE.search(value)
        if strange is not None:
            raise ResponseError(f"variable {name}: a header cannot contain {strange[0]!r}")
        if value != value.strip(" "):
            raise ResponseError(f"variable {name}: {value!r} begins or ends with a space")
        headers.append((f"Variable-{name}", value))
    return headers
