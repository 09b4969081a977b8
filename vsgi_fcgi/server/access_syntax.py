"""How a format of the access log is written. Read with the settings, before anything else."""

from __future__ import annotations

import difflib
import re
from typing import Final

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.access_atoms import ATOMS, Atom, request_header, response_header, variable

Parts = list[str | tuple[Atom, str]]
"""Literal text, and atoms with their widths."""

_COMMON: Final = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s'

PRESETS: Final = {
    "combined": f'{_COMMON} "%(f)s" "%(a)s"',
    "common": _COMMON,
    "json": '{"time":"%(time)s","remote_addr":"%(h)s","user":"%(u)s","method":"%(m)s",'
    '"uri":"%(uri)s","protocol":"%(H)s","status":%(s)s,"bytes":%(B)s,"referer":"%(f)s",'
    '"user_agent":"%(a)s","duration_us":%(D)s,"queue_us":%(queue)s,"run_us":%(run)s,'
    '"received":%(received)s,"sent":%(sent)s,"end":"%(end)s","connection":"%(connection)s",'
    '"id":%(id)s,"neighbours":%(neighbours)s}',
}
"""Formats that have a name."""

_PART: Final = re.compile(
    r"%(?:\((?P<name>(?:\{[^{}]*\}.|[^(){}]*))\)(?P<width>-?[0-9]*(?:\.[0-9]+)?)[sd]|(?P<sign>%))"
)
"""``%(name)s``, perhaps with a width, as Python's % operator has it; or ``%%``."""

_APACHE: Final = re.compile(r"%[<>]?(\{[^{}]*\})?([A-Za-z])")


def parse_format(text: str) -> Parts:
    """Cut a format into its parts.

    Raises:
        UsageError: it cannot be used; the message goes on where its setting was named.
    """
    text = PRESETS.get(text, text).rstrip("\n")
    parts: Parts = []
    at = 0
    while at < len(text):
        sign = text.find("%", at)
        if sign != at:
            parts.append(text[at:] if sign < 0 else text[at:sign])
            if sign < 0:
                break
        found = _PART.match(text, sign)
        if found is None:
            raise UsageError(_unreadable(text[sign:]))
        parts.append("%" if found["sign"] else (_atom(found["name"]), found["width"]))
        at = found.end()
    if not any(isinstance(part, tuple) for part in parts):
        names = ", ".join(PRESETS)
        near = _nearest(text, list(PRESETS))
        raise UsageError(f"is {text!r}, which is none of {names} and names no value{near}")
    if "\n" in text:
        raise UsageError("has a line break in the middle, but a request is to be one line")
    return parts


def _atom(name: str) -> Atom:
    """Find an atom by what stands between the parentheses."""
    if name in ATOMS:
        return ATOMS[name]
    if name.startswith("{"):
        kinds = {"i": request_header, "o": response_header, "e": variable}
        inner, kind = name[1:-2], name[-1]
        if kind in kinds and inner:
            return kinds[kind](inner)
        raise UsageError(
            f"has %({name})s, but there is only %({{NAME}}i)s for a request header,"
            " %({NAME}o)s for a response header and %({NAME}e)s for a param of the web server"
        )
    raise UsageError(f"has %({name})s, which is no value of a request{_nearest(name, list(ATOMS))}")


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"


def _unreadable(rest: str) -> str:
    apache = _APACHE.match(rest)
    if apache is not None:
        meant = f"%({apache[1] or ''}{apache[2]})s"
        return f"has {apache[0]}, as Apache writes it; here it is {meant}"
    return f"has {rest[:12]!r}, but a % begins a value, such as %(h)s; %% is the sign itself"
