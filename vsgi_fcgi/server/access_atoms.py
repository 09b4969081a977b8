"""What can be said of a request in the access log: the names, and where each value comes from.

A value is a Python expression; `access_format` makes a function of all those that a format names.
They are evaluated when the request has ended. What would be gone by then is noted when it is
handed over: each ``get('NAME')`` of a param, and each of the `NOTES`, that a format needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

NOTES: Final = {
    "moment": "channel.last_active if body is None"
    " else channel.last_active - (clock() - body.began) / 1e9",
    "noted": "clock()",
    "body_began": "0 if body is None else body.began",
    "handed_over": "handed_over",
    "target": "get('REQUEST_URI') or rebuild_target(get)",
    "request_id": "request.id",
    "peer": "channel.peer",
    "requests": "len(channel.connection.requests)",
    "received": "0 if body is None else body.size",
    "role": "request.role",
}
"""What is noted, by names that expressions may use.

`moment` is when the params had come, in seconds of the calendar: what was read last brought the
end of the request. All other times are nanoseconds of time.monotonic_ns; 0 if it never came to it.
Ints, because it takes Python long to make text of a float.
"""

# Further names that expressions may use: `head`, STDOUT, of which the header block is there;
# `body_size`, `sent` and `ending`; `run_began`, `run_ended` and `now`, times; `none`, which stands
# for a text that is not there, and `missing` for a number; `apache`, `iso` and `zone` of the second
# of `moment`; `statuses`, `status_of`, `milliseconds`, `roles`, `header`, `pid` and
# `pid_of_gunicorn`.


@dataclass(frozen=True, slots=True)
class Atom:
    """One value.

    Attributes:
        expression: what gives it.
        text: it comes from outside, and has to be escaped.
        fixed: it is a name that stands for the same in all lines.
    """

    expression: str
    text: bool = False
    fixed: bool = False


def _param(name: str, default: str = "none") -> Atom:
    return Atom(f"get({name!r}) or {default}", text=True)


ATOMS: Final[dict[str, Atom]] = {
    # gunicorn's.
    "h": _param("REMOTE_ADDR"),
    "l": Atom("none", fixed=True),
    "u": _param("REMOTE_USER"),
    "t": Atom("apache"),
    "r": Atom(
        "f\"{get('REQUEST_METHOD') or '-'} {target} {get('SERVER_PROTOCOL') or '-'}\""
        " if target else none",
        text=True,
    ),
    "m": _param("REQUEST_METHOD"),
    "U": Atom("target.partition('?')[0] or none", text=True),
    "q": _param("QUERY_STRING", "''"),
    "H": _param("SERVER_PROTOCOL"),
    # Where it is in most header blocks, or wherever it is.
    "s": Atom("statuses[head[8:11] if head[:8] == b'Status: ' else status_of(head)]"),
    "B": Atom("body_size"),
    "b": Atom("body_size or missing"),
    "f": _param("HTTP_REFERER"),
    "a": _param("HTTP_USER_AGENT"),
    "T": Atom("(now - (body_began or noted)) // 1000000000"),
    "M": Atom("(now - (body_began or noted)) // 1000000"),
    "D": Atom("(now - (body_began or noted)) // 1000"),
    "L": Atom("f'{(now - (body_began or noted)) / 1e9:.6f}'"),
    "p": Atom("pid_of_gunicorn", fixed=True),
    # Ours.
    "time": Atom("f'{iso}{milliseconds[int(moment * 1000) % 1000]}{zone}'"),
    "uri": Atom("target or none", text=True),
    "queue": Atom("((run_began or now) - noted) // 1000 if handed_over else missing"),
    "run": Atom("((run_ended or now) - run_began) // 1000 if run_began else missing"),
    "id": Atom("request_id"),
    "connection": Atom("peer", text=True),
    "neighbours": Atom("requests - 1 if handed_over else missing"),
    "received": Atom("received"),
    "role": Atom("roles[role]"),
    "sent": Atom("sent"),
    "end": Atom("ending"),
    "pid": Atom("pid", fixed=True),
}
"""By their names."""

_STATUS: Final = b"Status: "

_CGI: Final = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
"""Request headers that have names of their own in CGI (RFC 3875, section 4.1)."""


def request_header(name: str) -> Atom:
    """A header of the request: ``%({name}i)s``."""
    name = name.lower()
    return _param(_CGI.get(name) or "HTTP_" + name.upper().replace("-", "_"))


def response_header(name: str) -> Atom:
    """A header of the app's answer: ``%({name}o)s``."""
    wanted = name.lower().encode("latin-1", "replace")
    return Atom(f"header(head, {wanted!r}) or none", text=True)


def variable(name: str) -> Atom:
    """A param as the web server sent it: ``%({name}e)s``."""
    return _param(name)


def rebuild_target(get: Callable[[str], str | None]) -> str:
    """What was asked for, of a web server that sends no REQUEST_URI."""
    path = (get("SCRIPT_NAME") or "") + (get("PATH_INFO") or "")
    query = get("QUERY_STRING")
    return f"{path}?{query}" if query else path


def header(head: bytes, name: bytes) -> str:
    """A header of an answer; of several, their values joined; empty if there is none.

    Args:
        head: STDOUT, which begins with the header block.
        name: the header's name in lower case.
    """
    lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    pairs = (line.partition(b": ") for line in lines if not line.startswith(_STATUS))
    return ", ".join(value.decode("latin-1") for key, _, value in pairs if key.lower() == name)


def status_of(head: bytes) -> bytes:
    """The digits of the status of an answer that is not the first line of its header block.

    Args:
        head: STDOUT, which begins with the header block; or nothing.
    """
    _, found, status = head.partition(b"\r\n\r\n")[0].rpartition(b"\r\n" + _STATUS)
    return status[:3] if found else b""
