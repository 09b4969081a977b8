"""Find the web servers that have a file in this folder, and the one that a request came from."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Final

from vsgi_fcgi import front_ends
from vsgi_fcgi.front_ends.base import UNKNOWN, BrokenEnd, FrontEnd, Printed, Quirks, parse_software


@lru_cache(maxsize=32)
def find_front_end(software: str, address: object = None) -> FrontEnd:
    """Return the web server that a request came from, or `UNKNOWN`.

    Args:
        software: SERVER_SOFTWARE.
        address: the address of the socket, as ``getsockname`` returns it; None if unknown.
    """
    name = software.lower()
    for item in ALL:
        known = item.software != "" and name.startswith(item.software)
        if known and (item.owns_socket is None or item.owns_socket(address)):
            return item
    return UNKNOWN


@lru_cache(maxsize=32)
def quirks_of(software: str, address: object = None) -> Quirks:
    """Return the quirks of the web server that a request came from.

    Args:
        software: SERVER_SOFTWARE; empty if there is none.
        address: the address of the socket, as ``getsockname`` returns it; None if unknown.
    """
    return find_front_end(software, address).quirks(parse_software(software)[1])


_OTHERS: Final = frozenset({"base", "registry", "site", "systemd"})
"""The files that do not describe a web server."""


def _find_all() -> Iterator[FrontEnd]:
    """Return what each file of this folder has in ``FRONT_ENDS``, in the order of their names."""
    for module in pkgutil.iter_modules(front_ends.__path__):
        if module.name not in _OTHERS:
            yield from import_module(f"{front_ends.__name__}.{module.name}").FRONT_ENDS


ALL: Final = tuple(_find_all())

PROGRAMS: Final[dict[str, Printed]] = {
    item.printed.program: item.printed for item in ALL if item.printed is not None
}
"""All configurations that can be printed, by the name of the program on the command line."""

SYSTEMD: Final = "systemd"
"""Starts the app's server for any web server."""

NAMES: Final = (*PROGRAMS, SYSTEMD)
"""All programs that ``vsgi-fcgi config`` knows."""


# Questions of the server about the web server that a request came from.
#
# The answers are in the files of the web servers. They are found by SERVER_SOFTWARE.


def repeats_headers(software: str | None) -> bool:
    """Return whether the web server sends a repeated request header as repeated params."""
    return quirks_of(software or "").repeats_headers


def configured_first(software: str | None) -> bool:
    """Return whether params of the configuration come before SERVER_SOFTWARE."""
    return quirks_of(software or "").configured_first


def crashes_on_stderr(software: str | None) -> bool:
    """Return whether a STDERR record may crash this web server."""
    return quirks_of(software or "").crashes_on_stderr


def fails_when_shared(software: str | None) -> bool:
    """Return whether the web server may answer 500 itself if requests share a connection."""
    return quirks_of(software or "").fails_when_shared


def broken_end(software: str | None, address: object) -> BrokenEnd:
    """Return the end of a broken response that tells the client that the response is broken.

    ``tests/live/test_broken_answers.py`` has the whole table.

    Args:
        software: SERVER_SOFTWARE, if there is one.
        address: the address of the connection's socket, as ``getsockname`` returns it.
    """
    return quirks_of(software or "", address).broken_end


def advice_on_missing_body(software: str | None) -> str:
    """Return why the web server announces a body and does not send it, and what helps.

    Returns:
        Sentences that follow others, or an empty string if nothing is known.
    """
    found = find_front_end(software or "")
    remedy = found.remedies.get("no-body")
    if remedy is None:
        return found.notes.body_not_sent
    return f"{found.notes.body_not_sent} In {remedy.where}, write {' '.join(remedy.lines.split())}"


def omits_end_of_stdin(params: Mapping[str, str]) -> bool:
    """Return whether STDIN may have no end although CONTENT_LENGTH is 0.

    Args:
        params: the params of the request.
    """
    # lighttpd since 1.4.74, if "upgrade" => "enable" is configured: STDIN would carry the client's
    # bytes after a 101. Only this param shows it, because server.tag changes SERVER_SOFTWARE.
    if "HTTP_UPGRADE" in params:
        return True
    return quirks_of(params.get("SERVER_SOFTWARE", "")).omits_end_of_stdin
