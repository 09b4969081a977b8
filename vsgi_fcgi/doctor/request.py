"""Request that the doctor examines: its form on the connection, its params and its environ."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote

from vsgi_fcgi.front_ends.base import UNKNOWN, FrontEnd, PathCorrection
from vsgi_fcgi.front_ends.registry import ALL, find_front_end
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.protocol.records import split_repeated
from vsgi_fcgi.wsgi.environ import join_repeated, request_line
from vsgi_fcgi.wsgi.path_info import find_path

# The form of a request on the connection: details that an environ lacks.

WIRE: Final = "vsgi_fcgi.wire"
"""The key of the environ that holds a `WireRequest`."""

_MAX_MOMENTS: Final = 256
"""Maximum starts of requests, and maximum dropped connections, that are remembered."""


class ConnectionUse:
    """Statistics on how a web server uses its connections.

    The main context writes them; any thread may read them.
    """

    __slots__ = ("_drops", "_moments")

    def __init__(self) -> None:
        self._drops: deque[float] = deque(maxlen=_MAX_MOMENTS)
        self._moments: deque[tuple[float, int, int]] = deque(maxlen=_MAX_MOMENTS)

    def dropped(self) -> None:
        """Record that the web server closed a connection after one request, despite KEEP_CONN."""
        self._drops.append(time.monotonic())

    def used_again(self) -> None:
        """Record a second request on a connection: forget the dropped connections."""
        self._drops.clear()

    def drops(self, seconds: float) -> int:
        """Return how many connections in a row the web server has dropped.

        A connection is dropped if the web server sets KEEP_CONN and still closes it after the
        response to its first request.

        Args:
            seconds: the period up to now.
        """
        since = time.monotonic() - seconds
        return sum(moment >= since for moment in self._drops.copy())

    def began(self, total: int, busiest: int) -> None:
        """Record that a request has begun.

        Args:
            total: requests in flight, including this one.
            busiest: requests in flight on the connection that has the most of them.
        """
        self._moments.append((time.monotonic(), total, busiest))

    def at_once(self, seconds: float) -> tuple[int, int]:
        """Return the maximum requests in flight at the same time, in all and on one connection.

        Args:
            seconds: the period up to now.
        """
        since = time.monotonic() - seconds
        moments = [moment for moment in self._moments.copy() if moment[0] >= since]
        return (
            max((total for _, total, _ in moments), default=0),
            max((busiest for _, _, busiest in moments), default=0),
        )


@dataclass(slots=True)
class Arrival:
    """The timing of a request body.

    Attributes:
        began: the monotonic time in seconds when the params were complete.
        ended: the monotonic time in seconds when the last piece of the body arrived.
        size: the size of the body in bytes.
    """

    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    size: int = 0


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request in the form that it had on the connection.

    Attributes:
        pairs: the params in their order; a name may occur more than once.
        role: the role as the web server sent it.
        id: the request id.
        keep_conn: whether the web server set KEEP_CONN.
        connection: the number of the connection, counted from 1.
        turn: the number of the request on its connection, counted from 1.
        neighbours: other requests in flight on the connection when this request began.
        asked_values: whether the web server has sent GET_VALUES on the connection.
        address: the server's address, in the form of ``--bind``; empty if it has no name.
        arrival: the timing of the body.
        connection_use: how the web server uses its connections.
    """

    pairs: tuple[tuple[str, str], ...]
    role: int
    id: int
    keep_conn: bool
    connection: int
    turn: int
    neighbours: int
    asked_values: bool
    address: str
    arrival: Arrival
    connection_use: ConnectionUse


# Recognise the web server of a request by what it says, and by what it does.


@dataclass(frozen=True, slots=True)
class Recognised:
    """The web server of a request.

    Attributes:
        front_end: the kind of web server.
        software: its SERVER_SOFTWARE; may be empty.
        why: the sign by which it was recognised, as the end of a sentence.
        relayed: whether a relay that multiplexes is between the web server, which cannot, and this
            server.
    """

    front_end: FrontEnd
    software: str
    why: str
    relayed: bool


def recognise(params: Mapping[str, str], wire: WireRequest) -> Recognised:
    """Find out which web server a request came from.

    Args:
        params: the params of the request.
        wire: the request in the form that it had on the connection.
    """
    software = params.get("SERVER_SOFTWARE", "")
    front_end, why = _recognise(params, software, wire.address)
    shares = wire.id != 1 or wire.neighbours > 0 or wire.asked_values
    return Recognised(front_end, software, why, front_end.multiplexes is False and shares)


def _recognise(params: Mapping[str, str], software: str, address: str) -> tuple[FrontEnd, str]:
    if software:
        found = find_front_end(software, address.removeprefix("unix:"))
        if found is UNKNOWN:
            return found, "nothing: its SERVER_SOFTWARE is not known here"
        kinds = sum(item.software == found.software for item in ALL)
        by_socket = ", and by the name of the socket" if kinds > 1 else ""
        return found, f"SERVER_SOFTWARE{by_socket}"
    for item in ALL:
        if item.recognised_by is not None and (why := item.recognised_by(params)):
            return item, why
    return UNKNOWN, "nothing: there is no SERVER_SOFTWARE"


# Functions that return displayable values: every character is visible, and secrets are hidden.

MAX_CHARACTERS: Final = 1000
"""Maximum length of a displayed value; longer values are truncated."""

_SECRET: Final = re.compile(
    "ASSERTION|AUTHORIZATION|COOKIE|CREDENTIAL|JWT|KEY(_|$)|PASS|SECRET|SESSION|SIGNATURE|TOKEN"
    "|X_AUTH|AUTH$",
    re.IGNORECASE,
)
"""Matches names of params and of query fields whose values are hidden."""

_SECRET_IN_QUERIES: Final = frozenset({"code", "pw", "pwd", "sid", "sig"})
"""Further names of query fields whose values are hidden."""

_PAIR: Final = re.compile(r"((?:^|[?&;#])([^?&;#=\s]*)=)([^&#]*)")
_NAME: Final = re.compile(r"(?:^|[?&;#])([^?&;#=\s]*)=")
_LOGIN: Final = re.compile(r"(//[^/@?#:\s]*:)[^/@?#\s]+@")
"""Matches the password in a URL, such as the address of a database."""

_SCHEMES: Final = frozenset({"basic", "bearer", "digest", "negotiate", "ntlm"})
"""Schemes of Authorization that are shown. Without a known scheme, the first word may be secret."""


def shown(name: str, value: object) -> str:
    """Return a value as text. A secret is replaced by its length, and by its scheme if known.

    Args:
        name: name of the param, or key in an environ.
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
    """Hide values of secret query fields, and passwords in URLs.

    A secret that is part of a path has no name and cannot be recognised.
    """
    return _PAIR.sub(_pair, _LOGIN.sub(r"\1(hidden)@", text))


def _pair(match: re.Match[str]) -> str:
    start, name, value = match.groups()
    inner = unquote(value)
    # The value may be a URL with its own query, or may contain fields separated by semicolons.
    secret = _is_secret(unquote(name)) or any(
        _is_secret(found[1]) for found in _NAME.finditer(inner)
    )
    return f"{start}(hidden)" if secret and value else match[0]


def _is_secret(name: str) -> bool:
    return name.lower() in _SECRET_IN_QUERIES or _SECRET.search(name) is not None


def brief(text: str) -> str:
    """Return a text in the form of `visible`, truncated to `MAX_CHARACTERS`."""
    if len(text) > MAX_CHARACTERS:
        return f"{visible(text[:MAX_CHARACTERS])} ({len(text)} characters in total)"
    return visible(text)


def visible(text: str) -> str:
    """Escape control characters and others that are not printable; decode UTF-8 bytes."""
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode()
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def environ_lines(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the keys of an environ in the order of their names, with their values as text."""
    names = sorted(environ.keys() - {WIRE})
    return [(visible(name), shown(name, environ[name])) for name in names]


TRIAL_SEGMENT: Final = "doctor-trial"
"""Path segment at which no app is mounted."""

_HOST_CHARACTERS: Final = "".join(map(chr, range(33, 127)))
"""Characters of a Host header that are not quoted. A terminal could interpret the others."""

_MAX_HOST: Final = 300
"""Maximum length of a displayed Host header in characters; host names have up to 253."""

_TRIAL: Final = re.compile(r"(?:^|&)doctor=([a-z-]{1,40})(?:&|$)")


@dataclass(frozen=True, slots=True)
class Case:
    """Request that the doctor examines.

    Attributes:
        environ: environ of the app.
        wire: the request as the web server sent it.
        params: its params by name; repeated params are joined as the server does.
        mount: configured mount point of the app; None to derive it.
        script: SCRIPT_NAME that the app gets.
        path: PATH_INFO that the app gets.
        found: correction of the two.
        front: the web server.
        trial: name of the trial that the request belongs to; empty for none.
    """

    environ: Mapping[str, Any]
    wire: WireRequest
    params: Mapping[str, str]
    mount: str | None
    script: str
    path: str
    found: PathCorrection
    front: Recognised
    trial: str

    @classmethod
    def of(cls, environ: Mapping[str, Any], mount: str | None) -> Case:
        """Create a case for a request.

        Args:
            environ: environ that the server built.
            mount: configured mount point of the app; None if it is not configured.
        """
        wire: WireRequest = environ[WIRE]
        params, repeated = split_repeated(wire.pairs)
        join_repeated(params, repeated)
        script, path, found = find_path(params, mount)
        query = params.get("QUERY_STRING") or params.get("REQUEST_URI", "").partition("?")[2]
        trial = _TRIAL.search(query)
        return cls(
            environ=environ,
            wire=wire,
            params=params,
            mount=mount,
            script=script,
            path=path,
            found=found,
            front=recognise(params, wire),
            trial=trial[1] if trial else "",
        )

    @property
    def is_responder(self) -> bool:
        """Return True for a request in the role of a responder."""
        return self.wire.role == Role.RESPONDER

    @property
    def request(self) -> str:
        """Return method and URI of the request in displayable form."""
        return brief(without_secrets(request_line(self.params)))

    @property
    def place(self) -> str | None:
        """Return the mount point of the app, or None if this request alone does not prove it."""
        if self.mount is not None:
            return self.mount
        return self.script if not self.script or self.found is PathCorrection.PROXIED else None

    @property
    def asked(self) -> str:
        """Return the decoded path that the client requested; empty if it is unknown."""
        return unquote(self.params.get("REQUEST_URI", "").partition("?")[0], "latin-1")

    def url(self, path: str, query: str = "") -> str:
        """Return a URL on this site.

        Args:
            path: decoded path.
            query: query, without the question mark.
        """
        environ = self.environ
        host = environ.get("HTTP_HOST") or environ["SERVER_NAME"]
        if self.lost_port:
            host += f":{self.lost_port}"
        host = quote(host[:_MAX_HOST], _HOST_CHARACTERS, "latin-1")
        if len(path) > MAX_CHARACTERS:
            path = ""
        scheme = environ["wsgi.url_scheme"]
        quoted = quote(path or "/", "/;=,:@!$&'()*+", "latin-1")
        return f"{scheme}://{host}{quoted}" + (f"?{query}" if query else "")

    @property
    def lost_port(self) -> str:
        """Return the port that HTTP_HOST may lack, or an empty string."""
        host, port = self.params.get("HTTP_HOST", ""), self.params.get("SERVER_PORT", "")
        whole = not self.front.front_end.notes.loses_port or ":" in host.rpartition("]")[2]
        return "" if whole or not host or port in ("", "80", "443") else port

    def trial_url(self, name: str, more: str = "") -> str:
        """Return the URL of a trial, quoted for a shell.

        Args:
            name: name of the trial.
            more: further query fields, with a leading ampersand.
        """
        return shlex.quote(self.url(self.script + self.path, f"doctor={name}{more}"))

    def path_trial_url(self) -> str:
        """Return the URL of the path trial, quoted for a shell."""
        before = self.script.rpartition("/")[0] if self.mount is None else self.script
        return shlex.quote(self.url(f"{before}/{TRIAL_SEGMENT}/path"))
