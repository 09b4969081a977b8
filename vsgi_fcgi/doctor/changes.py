"""What of a request is not as it came, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vsgi_fcgi.doctor.case import Case
from vsgi_fcgi.doctor.values import shown, visible
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.wsgi.paths import Finding as Path

_ABSENT: Final = "(absent)"

_OURS: Final = frozenset({"FCGI_ROLE", "FCGI_DATA_LENGTH"})
"""What the server adds for authorizers and filters."""

_WHY: Final = {
    "HTTP_CONTENT_LENGTH": "CGI calls it CONTENT_LENGTH",
    "HTTP_CONTENT_TYPE": "CGI calls it CONTENT_TYPE",
    "HTTP_PROXY": "a client's header would become a proxy setting (httpoxy)",
    "HTTP_TRANSFER_ENCODING": "the web server has undone it",
    "QUERY_STRING": "an app may count on it",
    "REQUEST_METHOD": "a server that serves answers 400; the doctor goes on",
    "SERVER_NAME": "an app may count on it",
    "SERVER_PORT": "an app may count on it",
    "SERVER_PROTOCOL": "an app may count on it",
}


@dataclass(frozen=True, slots=True)
class Change:
    """A param that the app gets otherwise than it came.

    Attributes:
        name: its name.
        came: what came.
        became: what the app gets.
        why: why, without a full stop.
    """

    name: str
    came: str
    became: str
    why: str


def changes(case: Case) -> list[Change]:
    """Compare what came with what an app gets, in the order of the names."""
    return sorted(_changes(case), key=lambda change: change.name)


def _changes(case: Case) -> Iterator[Change]:
    environ = case.environ
    counts = Counter(name for name, _ in case.seen.pairs)
    for name in {*case.params, *environ}:
        if ("." in name or name in _OURS) and name not in case.params:
            continue
        became = shown(name, environ[name]) if name in environ else _ABSENT
        if counts[name] > 1:
            came = " | ".join(shown(name, value) for key, value in case.seen.pairs if key == name)
            joined = name.startswith("HTTP_") and name != "HTTP_HOST"
            why = "it came more than once: " + ("joined" if joined else "the last one counts")
        else:
            came = shown(name, case.params[name]) if name in case.params else _ABSENT
            if case.params.get(name) == environ.get(name):
                continue
            why = _WHY.get(name, "")
            if name == "CONTENT_LENGTH":
                known = name in environ
                why = "the bytes of the body that came" if known else "without a number it is none"
                if case.seen.role == Role.AUTHORIZER:
                    why = "the body is not for an authorizer"
        if name in ("SCRIPT_NAME", "PATH_INFO") and case.found is not Path.RIGHT:
            why = case.found.value
        elif name in ("SCRIPT_NAME", "PATH_INFO") and not why:
            why = "an app may count on it"
        yield Change(visible(name), came, became, why or "the server's own")
