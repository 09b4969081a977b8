"""Find problems in the way a web server forwarded a request."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from vsgi_fcgi.doctor.request import MAX_CHARACTERS, TRIAL_SEGMENT, Case, brief, shown, visible
from vsgi_fcgi.front_ends.base import FrontEnd, PathCorrection, Remedy
from vsgi_fcgi.front_ends.registry import fails_when_shared
from vsgi_fcgi.front_ends.site import DEFAULT_ADDRESS, Place, is_plain_mount

# What the doctor finds, and the lines that help; those of a web server stand in its own file.


class Level(Enum):
    """How sure a finding is, and how bad; the value is a heading."""

    WRONG = "Problem"
    CORRECTED = "Corrected by the server; better fixed in the web server's configuration"
    MAYBE = "Possible problem"
    NOTE = "Note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was found.

    Attributes:
        code: its name for programs.
        level: how sure it is, and how bad.
        seen: the observation, in a sentence.
        matters: the consequences, in a sentence or more.
        remedies: what helps; several are alternatives.
    """

    code: str
    level: Level
    seen: str
    matters: str
    remedies: tuple[Remedy, ...] = ()

    @property
    def is_problem(self) -> bool:
        """Whether this is a problem for certain."""
        return self.level in (Level.WRONG, Level.CORRECTED)


_OF_MOUNT: Final = ("{{root}}", "{{pattern}}")


def remedy(
    front_end: FrontEnd, subject: str, *, mount: str | None = "", address: str = ""
) -> tuple[Remedy, ...]:
    """Return the lines for a web server.

    Args:
        front_end: the web server.
        subject: what they are about.
        mount: where the app is mounted; empty at the root, None if that is not known.
        address: where this server listens, as ``--bind`` takes it.

    Returns:
        One remedy, or none if there is none.
    """
    variant = f"{subject}-anywhere" if mount is None else f"{subject}-mount" if mount else ""
    found = front_end.remedies.get(variant) or front_end.remedies.get(subject)
    if found is None:
        return ()
    mount = mount or ""
    if not is_plain_mount(mount) and any(word in found.lines for word in _OF_MOUNT):
        # It would have to be quoted in a way of its own for each web server.
        return ()
    lines = front_end.lines(found.lines, Place.at(address, mount))
    return (Remedy(found.where, lines),)


def named_mount(mount: str, *, alone: bool = False) -> tuple[Remedy, ...]:
    """Return the option that tells the server where the app is; nothing if it cannot be typed.

    Args:
        mount: as an environ has it, a byte a character.
        alone: nothing else helps.
    """
    try:
        typed = mount.encode("latin-1").decode()
    except UnicodeError:
        return ()
    if not typed.isprintable() or len(typed) > MAX_CHARACTERS:
        return ()
    value = shlex.quote(typed) if typed else '""'
    where = "start vsgi-fcgi with" if alone else "or start vsgi-fcgi with"
    return (Remedy(where, f"--script-name {value}"),)


def relay(address: str) -> Remedy:
    """Return the command of a relay between a web server and the server of the app."""
    upstream = shlex.quote(address or f"unix:{DEFAULT_ADDRESS}")
    return Remedy(
        "a relay between the two, to whose socket the web server is sent",
        f"vsgi-fcgi relay --bind unix:/run/relay.sock --upstream {upstream}",
    )


_DROPPED: Final = 3
_LATELY: Final = 20.0
"""The web server drops connections if it has closed `_DROPPED` in a row within `_LATELY` seconds,
although it asked to keep them. This is no coincidence, and more recent than most changes of the
configuration."""

_LISTS: Final = frozenset(
    {"HTTP_ACCEPT", "HTTP_COOKIE", "HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_FOR"}
)
"""Headers that are lists by design. Proxies add values to some, and HAProxy adds a header."""

_LINKS = "Routes are matched against PATH_INFO, and links begin with SCRIPT_NAME"

_CORRECTED: Final = {
    PathCorrection.WHOLE: (
        "path-whole",
        "SCRIPT_NAME was the whole path, and there was no PATH_INFO.",
    ),
    PathCorrection.TWICE: ("path-twice", "PATH_INFO began with SCRIPT_NAME."),
    PathCorrection.MISSING: (
        "path-missing",
        "There was no PATH_INFO; the server took it from DOCUMENT_URI.",
    ),
    PathCorrection.SLASH: (
        "path-slash",
        "SCRIPT_NAME ended with the slash that PATH_INFO begins with.",
    ),
    PathCorrection.SEGMENT: (
        "path-segment",
        "SCRIPT_NAME and PATH_INFO were split inside a segment.",
    ),
}


def diagnose(case: Case) -> list[Finding]:
    """Examine a request.

    Args:
        case: the request.

    Returns:
        The findings, the most severe first.
    """
    found = list(_params(case))
    if case.is_responder and "REQUEST_METHOD" in case.params:
        found += _path(case)
        found += _authorization(case)
    found += _connections(case)
    order = list(Level)
    return sorted(found, key=lambda finding: order.index(finding.level))


def _params(case: Case) -> Iterator[Finding]:
    """Look for missing params."""
    params, front = case.params, case.front.front_end
    lines = remedy(front, "params")
    if not params.get("REQUEST_METHOD"):
        yield Finding(
            "method-missing",
            Level.WRONG,
            "There is no REQUEST_METHOD.",
            "Without a method, the server answers 400 and the app never runs. The web server"
            " sends none of the usual params.",
            lines,
        )
        return
    if params.get("HTTP_CONTENT_TYPE") and not params.get("CONTENT_TYPE"):
        yield Finding(
            "type-missing",
            Level.WRONG,
            "The client sent a Content-Type, but there is no CONTENT_TYPE.",
            "The app cannot read forms, JSON and uploads.",
            lines,
        )
    if case.is_responder and not case.wire.arrival.size:
        yield from _body_not_sent(case)
    elif params.get("HTTP_CONTENT_LENGTH") and not params.get("CONTENT_LENGTH"):
        yield Finding(
            "length-missing",
            Level.CORRECTED,
            "The client sent a Content-Length, but there is no CONTENT_LENGTH.",
            "The server counts the bytes of the body. It cannot detect a truncated body.",
            lines,
        )
    if case.trial != "header":
        yield from _header_joined(case)
    if case.lost_port:
        yield Finding(
            "port-missing",
            Level.MAYBE,
            f"HTTP_HOST is {brief(params['HTTP_HOST'])}, and {front.name} listens on port"
            f" {brief(case.lost_port)}.",
            "If the address in the browser has this port, absolute URLs of the app lack it:"
            f" {front.notes.loses_port} If another server or a firewall is in front of"
            f" {front.name}, this may be correct.",
            remedy(front, "host"),
        )
    query = params.get("REQUEST_URI", "").partition("?")[2]
    if query and not params.get("QUERY_STRING") and case.asked == case.script + case.path:
        yield Finding(
            "query-missing",
            Level.WRONG,
            "The query of the address is not in QUERY_STRING.",
            "The app gets a request without parameters.",
            lines,
        )


def _body_not_sent(case: Case) -> Iterator[Finding]:
    """Look for a CONTENT_LENGTH without a body."""
    length, front = case.params.get("CONTENT_LENGTH", ""), case.front.front_end
    if not length.isdigit() or not int(length):
        return
    yield Finding(
        "body-not-sent",
        Level.NOTE if front.notes.sends_length_anyway else Level.CORRECTED,
        f"CONTENT_LENGTH is {brief(length)}, but no body was sent.",
        f"The app gets an empty body and no CONTENT_LENGTH.{front.notes.body_not_sent}",
        remedy(front, "no-body"),
    )


def _header_joined(case: Case) -> Iterator[Finding]:
    """Look for headers of which the app gets a client's value and maybe one of the configuration.

    Some web servers send what their configuration sets behind the client's headers, as one more
    param of the name. A header that the client has sent twice looks the same.
    """
    front = case.front.front_end
    if not front.notes.header_joined:
        return
    counts = Counter(name for name, _ in case.wire.pairs)
    for name, count in counts.items():
        if count > 1 and name.startswith("HTTP_") and name not in _LISTS:
            yield Finding(
                "header-joined",
                Level.MAYBE,
                f"{visible(name)} came {count} times, and the app gets all values:"
                f" {shown(name, case.params[name])}.",
                front.notes.header_joined,
                remedy(front, "header"),
            )


def _path(case: Case) -> Iterator[Finding]:
    """Check SCRIPT_NAME and PATH_INFO."""
    params, front, address = case.params, case.front.front_end, case.wire.address
    if case.mount is None and _is_unsplit(case):
        yield from _split(case)
    elif case.found in _CORRECTED:
        code, seen = _CORRECTED[case.found]
        lines = remedy(front, "path", mount=case.script, address=address)
        where = f"mounted at {brief(case.script)}" if case.script else "at the root of the site"
        matters = (
            f"The server corrected this for an app {where}. {_LINKS}. If the app is mounted"
            " elsewhere, start the doctor with this path as --script-name to get the right lines."
        )
        yield Finding(code, Level.CORRECTED, seen, matters, (*lines, *named_mount(case.script)))
    elif case.found is PathCorrection.OUTSIDE:
        yield Finding(
            "path-outside",
            Level.WRONG,
            f"The path {brief(case.path)} is not below {brief(case.mount or '/')}, which"
            " --script-name names.",
            "The app gets the path as if it were mounted at the root, and usually answers 404."
            " Either the web server forwards too many paths, or --script-name is wrong.",
            (
                *remedy(front, "path", mount=case.mount or "", address=address),
                *named_mount(""),
            ),
        )
    elif case.mount is None:
        yield from _split(case)
    elif case.found is PathCorrection.NAMED and (
        params.get("SCRIPT_NAME") or "PATH_INFO" not in params
    ):
        lines = remedy(front, "path", mount=case.mount, address=address)
        if lines:
            yield Finding(
                "path-named",
                Level.NOTE,
                "The web server does not send the mount point of the app; --script-name sets it.",
                "This is sufficient. With these lines, --script-name is not needed.",
                lines,
            )


def _split(case: Case) -> Iterator[Finding]:
    """Check how a path was split that the server did not correct."""
    script, path, front = case.script, case.path, case.front.front_end
    lines = remedy(front, "path", address=case.wire.address)
    before, segment, _ = script.partition(f"/{TRIAL_SEGMENT}")
    if segment:
        if before:
            lines = remedy(front, "path", mount=before, address=case.wire.address)
        yield Finding(
            "path-split",
            Level.WRONG,
            f"SCRIPT_NAME is {brief(script)}, which is part of the requested path and not the mount"
            " point of the app.",
            f"{_LINKS}. The app gets {brief(path) or 'an empty path'} instead of"
            f" {brief(script[len(before) :] + path)}, and answers 404 or with another page.",
            (*lines, *named_mount(before)),
        )
        return
    asked = case.asked
    if asked == path and script and path:
        yield Finding(
            "path-hidden",
            Level.WRONG,
            f"SCRIPT_NAME is {brief(script)}, which is not in the requested address: a rule of the"
            " web server added it to the path.",
            f"The app's links wrongly begin with {brief(script)}.",
            named_mount("", alone=True),
        )
    elif (mount := _taken_off(asked, script + path)) and path != "/":
        yield Finding(
            "path-stripped",
            Level.WRONG,
            f"The requested path begins with {brief(mount)}, which is neither in SCRIPT_NAME nor in"
            " PATH_INFO: the web server removed it.",
            "The app's links lack this prefix.",
            named_mount(mount + script, alone=True),
        )
    elif script and _may_follow_the_path(case):
        cause = ""
        if _is_unsplit(case):
            cause = front.notes.whole_path_cause
        yield Finding(
            "path-unclear",
            Level.MAYBE,
            f"SCRIPT_NAME is {brief(script)}.",
            "This is correct if the app is mounted there. If it is mounted elsewhere, the web"
            " server derives SCRIPT_NAME from the requested path. The path trial below shows which"
            f" is the case.{cause}",
        )
    elif not script and path.count("/") > 1:
        first = path[: path.index("/", 1)]
        if len(first) > 1:
            yield Finding(
                "path-root",
                Level.NOTE,
                f"SCRIPT_NAME is empty: the app is mounted at the root of the site, and the"
                f" requested path is {brief(path)}.",
                f"If the app is mounted at {brief(first)} and answers 404, set its mount point.",
                named_mount(first, alone=True),
            )


def _taken_off(asked: str, path: str) -> str:
    """Return the prefix of a requested path that the path of the app lacks.

    Returns:
        The prefix; empty if there is none, or if the paths differ in anything else.
    """
    segments = asked.split("/")[1:-1]
    if not asked.startswith("/") or not path.startswith("/") or not asked.endswith(path):
        return ""
    if any(segment in ("", ".", "..") for segment in segments):
        # The web server has normalized the path, so a difference proves nothing.
        return ""
    return asked[: len(asked) - len(path)]


def _is_unsplit(case: Case) -> bool:
    """Return whether the web server sent the whole path as SCRIPT_NAME, and an empty PATH_INFO."""
    sends_whole_path = case.front.front_end.notes.whole_path
    return sends_whole_path is not None and sends_whole_path(case.params)


def _may_follow_the_path(case: Case) -> bool:
    """Return whether this web server would send the same if SCRIPT_NAME followed the path."""
    if case.found is PathCorrection.UNCLEAR or _is_unsplit(case):
        return True
    return case.found in case.front.front_end.notes.follows_path


def _authorization(case: Case) -> Iterator[Finding]:
    """Look for a password that the web server received and did not forward."""
    params = case.params
    how = case.front.front_end.notes.authorization
    known = how != "" and "AUTH_TYPE" in params
    if known and "HTTP_AUTHORIZATION" not in params and case.trial != "authorization":
        yield authorization_missing(case, how)


def authorization_missing(case: Case, how: str) -> Finding:
    """Return the finding that the Authorization header does not reach the app.

    Args:
        case: a request that had the header.
        how: sentence that explains how this is known.
    """
    lines = remedy(case.front.front_end, "authorization")
    matters = "An app that asks for a password asks again and again."
    if not lines:
        matters += (
            f" {case.front.front_end.name} forwards it by default: look for a setting that removes"
            " it."
        )
    return Finding(
        "authorization-missing",
        Level.WRONG,
        f"There is no HTTP_AUTHORIZATION. {how}",
        matters,
        lines,
    )


def _connections(case: Case) -> Iterator[Finding]:
    """Check how the web server uses connections."""
    if case.trial in ("keep-alive", "multiplexing"):
        return
    front, wire = case.front.front_end, case.wire
    if case.front.relayed:
        yield Finding(
            "relayed",
            Level.NOTE,
            f"{front.name} cannot share a connection, but this request came on a shared one.",
            "There is a program between the web server and the doctor, such as vsgi-fcgi relay."
            " The report on connections is about this program.",
        )
        return
    if wire.keep_conn and wire.turn == 1 and wire.connection_use.drops(_LATELY) >= _DROPPED:
        yield connections_dropped(case, _LATELY)
    elif not wire.keep_conn and front.keeps:
        lines = remedy(front, "keep", mount=case.place, address=wire.address)
        yield Finding(
            "connection-each",
            Level.NOTE,
            f"{front.name} opens a connection for each request.",
            "It can keep connections, which saves time on both sides.",
            lines,
        )
    if front.multiplexes is False:
        yield cannot_multiplex(case)
    elif wire.neighbours and fails_when_shared(case.front.software):
        yield may_fail_at_once(case)


def connections_dropped(case: Case, seconds: float) -> Finding:
    """Return the finding that the web server closes connections that it asked to keep.

    Args:
        case: a request on such a connection.
        seconds: length of the period to look at.
    """
    front, wire = case.front.front_end, case.wire
    return Finding(
        "connections-dropped",
        Level.WRONG,
        "The web server asks to keep connections (KEEP_CONN), but closed the last"
        f" {wire.connection_use.drops(seconds)} after one request each.",
        "No connection is reused, because only half of the needed configuration is there. After"
        " the change, send two requests to check.",
        remedy(front, "keep", mount=case.place, address=wire.address),
    )


def may_fail_at_once(case: Case) -> Finding:
    """Return the finding that a web server sometimes answers 500 on shared connections."""
    front = case.front.front_end
    return Finding(
        "multiplexing-fails",
        Level.NOTE,
        f"Requests share a connection, and this {front.name} may answer some with an error.",
        f"{front.notes.sharing_fails} These lines disable sharing, which avoids the errors:",
        remedy(front, "alone"),
    )


def cannot_multiplex(case: Case) -> Finding:
    """Return the finding that a web server sends one request at a time on a connection."""
    front = case.front.front_end
    keeps = "" if front.keeps else " and opens a new one for each"
    return Finding(
        "no-multiplexing",
        Level.NOTE,
        f"{front.name} sends one request at a time on a connection{keeps}.",
        "It does not share connections, which is sufficient for most sites. If many requests wait"
        " for a long time, a relay can send them over one connection.",
        (relay(case.wire.address),),
    )
