"""From a WSGI environ to the params of a request (RFC 3875, section 4.1): the way back."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from vsgi_fcgi.wsgi.headers import HOP_BY_HOP

# HTTP_PROXY would be taken for a setting by programs that run as CGI (httpoxy). FCGI_ROLE is what
# the app of this environ was asked as, and no matter of the web server.
_DROPPED: Final = frozenset(
    {"HTTP_PROXY", "FCGI_ROLE", *(f"HTTP_{name.upper().replace('-', '_')}" for name in HOP_BY_HOP)}
)


def params_of(environ: dict[str, Any]) -> list[tuple[str, str]]:
    """Make params of an environ.

    What concerns the connection to the HTTP client is left out (RFC 9110, section 7.6.1), and so
    are the keys that are no CGI variables, such as ``wsgi.input``.

    Args:
        environ: as PEP 3333 has it.
    """
    dropped = _DROPPED
    if "HTTP_CONNECTION" in environ:
        named = str(environ["HTTP_CONNECTION"]).upper().replace("-", "_").split(",")
        dropped = dropped.union(f"HTTP_{name.strip()}" for name in named)
    params = {
        name: value
        for name, value in environ.items()
        if type(value) is str and "." not in name and name not in dropped
    }
    params["GATEWAY_INTERFACE"] = "CGI/1.1"
    if "REQUEST_URI" not in params:
        path = quote(
            params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", ""), "/;=,:@!$&'()*+", "latin-1"
        )
        query = params.get("QUERY_STRING")
        params["REQUEST_URI"] = f"{path}?{query}" if query else path
    scheme = environ.get("wsgi.url_scheme", "http")
    params.setdefault("REQUEST_SCHEME", scheme)
    if scheme == "https":
        params.setdefault("HTTPS", "on")
    return list(params.items())
