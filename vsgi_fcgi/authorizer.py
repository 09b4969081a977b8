"""What an authorizer answers (FastCGI 1.0, section 6.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vsgi_fcgi.exceptions import ResponseError

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STRANGE: Final = re.compile(r"[^\x20-\x7e\x80-\xff]")


def variables(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Make headers of variables that the web server is to pass on with a request.

    They count in an answer ``200 OK`` alone, which lets the request through::

        def auth(environ, start_response):
            start_response("200 OK", variables({"REMOTE_USER": "kim"}))
            return []

    Args:
        values: the values by the names of the variables. Text is that of WSGI, one character a
            byte: ``name.encode().decode("latin-1")`` makes UTF-8 of what holds other characters.

    Raises:
        ResponseError: a name is none of a CGI variable, or a value would not arrive as it is.
    """
    headers = []
    for name, value in values.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ResponseError(f"{name!r} is not the name of a variable, such as REMOTE_USER")
        if not isinstance(value, str):
            raise ResponseError(f"the variable {name} must be str, not {type(value).__name__}")
        strange = _STRANGE.search(value)
        if strange is not None:
            raise ResponseError(f"the variable {name} holds {strange[0]!r}, which no header can")
        if value != value.strip(" "):
            raise ResponseError(f"the variable {name} begins or ends with a space: {value!r}")
        headers.append((f"Variable-{name}", value))
    return headers
