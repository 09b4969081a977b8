"""Which web server a request came from: told by what it says, and by what it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vsgi_fcgi.wsgi.seen import Seen


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """A kind of web server.

    Attributes:
        key: its name for programs.
        name: its name.
        keeps: whether it can use a connection for more than one request; None if that is not known.
        multiplexes: whether it can have several requests at once on a connection; None likewise.
    """

    key: str
    name: str
    keeps: bool | None = None
    multiplexes: bool | None = None


NGINX: Final = FrontEnd("nginx", "nginx", keeps=True, multiplexes=False)
LIGHTTPD: Final = FrontEnd("lighttpd", "lighttpd", keeps=False, multiplexes=False)
APACHE_PROXY: Final = FrontEnd(
    "apache-proxy", "Apache with mod_proxy_fcgi", keeps=True, multiplexes=False
)
APACHE_FCGID: Final = FrontEnd(
    "apache-fcgid", "Apache with mod_fcgid", keeps=False, multiplexes=False
)
HAPROXY: Final = FrontEnd("haproxy", "HAProxy", keeps=True, multiplexes=True)
CADDY: Final = FrontEnd("caddy", "Caddy", keeps=False, multiplexes=False)
# It can be told to keep them, and dies as a process then, of an answer that is complete before the
# whole request has been sent (2.2.5).
H2O: Final = FrontEnd("h2o", "h2o", keeps=False, multiplexes=False)
OURS: Final = FrontEnd("gateway", "vsgi-fcgi gateway", keeps=True, multiplexes=True)
UNKNOWN: Final = FrontEnd("unknown", "a web server that is not known here")

_SOCKET_OF_FCGID: Final = re.compile(r"^unix:.*/\d+\.\d+$")
"""mod_fcgid makes a socket for each process that it starts, called by two numbers."""

_BY_SOFTWARE: Final = (
    ("nginx", NGINX),
    ("lighttpd", LIGHTTPD),
    ("haproxy", HAPROXY),
    ("caddy", CADDY),
    ("h2o", H2O),
    ("vsgi_fcgi", OURS),
)


@dataclass(frozen=True, slots=True)
class Recognised:
    """The web server of a request.

    Attributes:
        front_end: its kind.
        software: what it says that it is; may be empty.
        why: what it was recognised by, as the end of a sentence.
        relayed: whether something that multiplexes stands between it and this server, though it
            cannot multiplex itself.
    """

    front_end: FrontEnd
    software: str
    why: str
    relayed: bool


def recognise(params: Mapping[str, str], seen: Seen) -> Recognised:
    """Find out which web server a request came from.

    Args:
        params: the params of the request.
        seen: the request as it was on the line.
    """
    software = params.get("SERVER_SOFTWARE", "")
    front_end, why = _by_software(software, seen.address)
    if front_end is UNKNOWN and not software:
        front_end, why = _by_habits(params)
    shares = seen.id != 1 or seen.neighbours > 0 or seen.asked_values
    return Recognised(front_end, software, why, front_end.multiplexes is False and shares)


def _by_software(software: str, address: str) -> tuple[FrontEnd, str]:
    name = software.lower()
    if name.startswith("apache"):
        # What Apache says of itself names modules that are loaded, whether they take part or not.
        front_end = APACHE_FCGID if _SOCKET_OF_FCGID.search(address) else APACHE_PROXY
        return front_end, "SERVER_SOFTWARE, and by the name of the socket"
    for start, front_end in _BY_SOFTWARE:
        if name.startswith(start):
            return front_end, "SERVER_SOFTWARE"
    return UNKNOWN, "nothing: its SERVER_SOFTWARE is not known here"


def _by_habits(params: Mapping[str, str]) -> tuple[FrontEnd, str]:
    """What is left where SERVER_SOFTWARE is not sent, as by an nginx without its fastcgi_params."""
    if "DOCUMENT_URI" in params and "REDIRECT_STATUS" in params:
        return NGINX, "DOCUMENT_URI and REDIRECT_STATUS, as its fastcgi_params have them"
    if params and all(name.startswith("HTTP_") for name in params):
        return NGINX, "params that are all headers, as it sends them without its fastcgi_params"
    return UNKNOWN, "nothing: there is no SERVER_SOFTWARE"
