"""What can be seen to be wrong with how a request came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vsgi_fcgi.doctor.case import TRIAL_SEGMENT, Case
from vsgi_fcgi.doctor.finding import Finding, Level
from vsgi_fcgi.doctor.front_end import APACHE_PROXY, HAPROXY, LIGHTTPD
from vsgi_fcgi.doctor.remedies import named_mount, relay, remedy
from vsgi_fcgi.doctor.values import brief
from vsgi_fcgi.wsgi.front_ends import fails_at_once
from vsgi_fcgi.wsgi.paths import Finding as Path

_DROPPED: Final = 3
_LATELY: Final = 20.0
"""As many connections in a row, within so many seconds, were closed although they were to be kept:
that is not by chance, nor from before the configuration was changed."""

FAILS_AT_ONCE: Final = (
    "Where many requests begin at the same time on one connection, HAProxy 2.6 of Debian 12 answers"
    " some with a 500 of its own, above all uploads, and so may other 2.x (its issue 2568); its log"
    " has IH."
)
"""What is to be known before HAProxy is told to share connections."""

_LINKS = "Routes are matched against PATH_INFO, and links begin with SCRIPT_NAME"

_MENDED: Final = {
    Path.WHOLE: ("path-whole", "SCRIPT_NAME was the whole path, and there was no PATH_INFO."),
    Path.TWICE: ("path-twice", "SCRIPT_NAME was in PATH_INFO once more."),
    Path.MISSING: ("path-missing", "There was no PATH_INFO; it was taken from DOCUMENT_URI."),
    Path.SLASH: ("path-slash", "SCRIPT_NAME ended with the slash that PATH_INFO begins with."),
    Path.SEGMENT: ("path-segment", "SCRIPT_NAME and PATH_INFO were split inside a segment."),
}


def diagnose(case: Case) -> list[Finding]:
    """Look into a request.

    Args:
        case: the request.

    Returns:
        What was found, the worst first.
    """
    found = list(_params(case))
    if case.is_responder and "REQUEST_METHOD" in case.params:
        found += _path(case)
        found += _authorization(case)
    found += _connections(case)
    order = list(Level)
    return sorted(found, key=lambda finding: order.index(finding.level))


def _params(case: Case) -> Iterator[Finding]:
    """Params that are missing."""
    params, key = case.params, case.front.front_end.key
    lines = remedy(key, "params")
    if not params.get("REQUEST_METHOD"):
        yield Finding(
            "method-missing",
            Level.WRONG,
            "There is no REQUEST_METHOD.",
            "Nothing says what is asked for: the server answers 400, and the app never runs."
            " The web server sends none of the usual params.",
            lines,
        )
        return
    if params.get("HTTP_CONTENT_TYPE") and not params.get("CONTENT_TYPE"):
        yield Finding(
            "type-missing",
            Level.WRONG,
            "The client has sent a Content-Type, and there is no CONTENT_TYPE.",
            "The app cannot read forms, JSON and uploads.",
            lines,
        )
    if params.get("HTTP_CONTENT_LENGTH") and not params.get("CONTENT_LENGTH"):
        yield Finding(
            "length-missing",
            Level.MENDED,
            "The client has sent a Content-Length, and there is no CONTENT_LENGTH.",
            "The server counts the body by itself, and cannot tell one that broke off.",
            lines,
        )
    if case.lost_port:
        yield Finding(
            "port-missing",
            Level.MAYBE,
            f"HTTP_HOST is {brief(params['HTTP_HOST'])}, and nginx listens on port"
            f" {brief(case.lost_port)}.",
            "If the address in the browser has this port, links that are whole addresses miss it:"
            " Debian's fastcgi_params leaves it out of HTTP_HOST. If another server or a firewall"
            " is in front, it may be right.",
            remedy(key, "host"),
        )
    query = params.get("REQUEST_URI", "").partition("?")[2]
    if query and not params.get("QUERY_STRING") and case.asked == case.script + case.path:
        yield Finding(
            "query-missing",
            Level.WRONG,
            "What follows the question mark of the address is not in QUERY_STRING.",
            "The app sees a request without parameters.",
            lines,
        )


def _path(case: Case) -> Iterator[Finding]:
    """SCRIPT_NAME and PATH_INFO."""
    params, key, address = case.params, case.front.front_end.key, case.seen.address
    if case.found in _MENDED:
        code, seen = _MENDED[case.found]
        lines = remedy(key, "path", mount=case.script, address=address)
        where = f"mounted at {brief(case.script)}" if case.script else "at the root of the site"
        matters = (
            f"The server has put it right for an app {where}. {_LINKS}: if the app is mounted"
            " elsewhere, start the doctor with that place as --script-name, and the lines are"
            " for it."
        )
        yield Finding(code, Level.MENDED, seen, matters, (*lines, *named_mount(case.script)))
    elif case.found is Path.OUTSIDE:
        yield Finding(
            "path-outside",
            Level.WRONG,
            f"The path {brief(case.path)} is not below {brief(case.mount or '/')}, which"
            " --script-name names.",
            "The app gets it as a path of the root, and has a 404 for it as a rule. Either the web"
            " server passes on too much, or the name is wrong.",
            (
                *remedy(key, "path", mount=case.mount or "", address=address),
                *named_mount(""),
            ),
        )
    elif case.mount is None:
        yield from _split(case)
    elif case.found is Path.NAMED and (params.get("SCRIPT_NAME") or "PATH_INFO" not in params):
        lines = remedy(key, "path", mount=case.mount, address=address)
        if lines:
            yield Finding(
                "path-named",
                Level.NOTE,
                "The web server does not say by itself where the app is; --script-name does.",
                "That is enough. With these lines it says so, and --script-name is not needed.",
                lines,
            )


def _split(case: Case) -> Iterator[Finding]:
    """How the path was split, where the server leaves it as it came."""
    script, path, front = case.script, case.path, case.front.front_end
    lines = remedy(front.key, "path", address=case.seen.address)
    before, segment, _ = script.partition(f"/{TRIAL_SEGMENT}")
    if segment:
        if before:
            lines = remedy(front.key, "path", mount=before, address=case.seen.address)
        yield Finding(
            "path-split",
            Level.WRONG,
            f"SCRIPT_NAME is {brief(script)}, a path that was just made up: it follows what is"
            " asked for, and does not say where the app is.",
            f"{_LINKS}: the app sees {brief(path) or 'an empty path'} in place of"
            f" {brief(script[len(before) :] + path)}, and has a 404 for it or another page.",
            (*lines, *named_mount(before)),
        )
        return
    asked = case.asked
    if asked == path and script and path:
        yield Finding(
            "path-hidden",
            Level.WRONG,
            f"SCRIPT_NAME is {brief(script)}, which is not in the address: a rule of the web"
            " server has put it before the path.",
            f"The app's links begin with {brief(script)}.",
            named_mount("", alone=True),
        )
    elif (mount := _taken_off(asked, script + path)) and path != "/":
        yield Finding(
            "path-stripped",
            Level.WRONG,
            f"{brief(mount)} was asked for as well, and is neither in SCRIPT_NAME nor in"
            " PATH_INFO: the web server has taken it off.",
            "The app's links miss it.",
            named_mount(mount + script, alone=True),
        )
    elif script and _may_follow_the_path(case):
        yield Finding(
            "path-unclear",
            Level.MAYBE,
            f"SCRIPT_NAME is {brief(script)}.",
            "It is right if the app is mounted there. If the app is somewhere else, the web server"
            " makes it of whatever is asked for; the trial of the path below tells.",
        )
    elif not script and path.count("/") > 1:
        first = path[: path.index("/", 1)]
        if len(first) > 1:
            yield Finding(
                "path-root",
                Level.NOTE,
                f"SCRIPT_NAME is empty: the app is at the root of the site, and is asked for"
                f" {brief(path)}.",
                f"If it is mounted at {brief(first)}, and has a 404 for this, that is to be said.",
                named_mount(first, alone=True),
            )


def _taken_off(asked: str, path: str) -> str:
    """What of an address is not in the path, if it is the beginning and nothing else differs."""
    segments = asked.split("/")[1:-1]
    if not asked.startswith("/") or not path.startswith("/") or not asked.endswith(path):
        return ""
    if any(segment in ("", ".", "..") for segment in segments):
        # The web server has put that right, and what is left says nothing.
        return ""
    return asked[: len(asked) - len(path)]


def _may_follow_the_path(case: Case) -> bool:
    """Whether this web server would send the same if it took SCRIPT_NAME from the path."""
    front = case.front.front_end
    if case.found is Path.UNCLEAR:
        return True
    if front is LIGHTTPD:
        return True
    # Where ProxyPass has split it, SCRIPT_FILENAME has said so.
    return front is APACHE_PROXY and case.found is Path.RIGHT


def _authorization(case: Case) -> Iterator[Finding]:
    """A password that the web server has seen, and not passed on."""
    params = case.params
    told = case.front.front_end is HAPROXY and "AUTH_TYPE" in params
    if told and "HTTP_AUTHORIZATION" not in params and case.trial != "authorization":
        yield authorization_missing(case, "The client has sent it: HAProxy says AUTH_TYPE.")


def authorization_missing(case: Case, how: str) -> Finding:
    """Authorization does not come.

    Args:
        case: a request that had it.
        how: how that is known, a sentence.
    """
    key = case.front.front_end.key
    lines = remedy(key, "authorization")
    matters = "An app that asks for a password asks for ever."
    if not lines:
        matters += f" {case.front.front_end.name} passes it by itself: look for what takes it off."
    return Finding(
        "authorization-missing",
        Level.WRONG,
        f"There is no HTTP_AUTHORIZATION. {how}",
        matters,
        lines,
    )


def _connections(case: Case) -> Iterator[Finding]:
    """What the web server does with connections."""
    if case.trial in ("keep-alive", "multiplexing"):
        return
    front, seen = case.front.front_end, case.seen
    if case.front.relayed:
        yield Finding(
            "relayed",
            Level.NOTE,
            f"{front.name} cannot share a connection, and this request came on one that is shared.",
            "Something stands between the two, such as vsgi-fcgi relay: what is said of connections"
            " here is about that.",
        )
        return
    if seen.keep_conn and seen.turn == 1 and seen.habits.drops(_LATELY) >= _DROPPED:
        yield connections_dropped(case, _LATELY)
    elif not seen.keep_conn and front.keeps:
        lines = remedy(front.key, "keep", mount=case.place, address=seen.address)
        yield Finding(
            "connection-each",
            Level.NOTE,
            f"{front.name} makes a connection for each request.",
            "It could keep them, which saves both some time.",
            lines,
        )
    if front.multiplexes is False:
        yield cannot_multiplex(case)
    elif seen.neighbours and fails_at_once(case.front.software):
        yield may_fail_at_once()


def connections_dropped(case: Case, seconds: float) -> Finding:
    """Connections are to be kept, and are closed.

    Args:
        case: a request on one of them.
        seconds: how far to look back.
    """
    front, seen = case.front.front_end, case.seen
    return Finding(
        "connections-dropped",
        Level.WRONG,
        "The web server asks to keep connections (KEEP_CONN), and has closed the last"
        f" {seen.habits.drops(seconds)} after one request each.",
        "So none is used again: half of what is needed is configured. Once it is changed, ask"
        " twice.",
        remedy(front.key, "keep", mount=case.place, address=seen.address),
    )


def may_fail_at_once() -> Finding:
    """HAProxy shares connections, and answers 500 now and then."""
    return Finding(
        "multiplexing-fails",
        Level.NOTE,
        "Requests share a connection of a HAProxy that may answer some of them by itself.",
        f"{FAILS_AT_ONCE} Without sharing it does not:",
        remedy(HAPROXY.key, "alone"),
    )


def cannot_multiplex(case: Case) -> Finding:
    """A web server that has one request at a time on a connection."""
    front = case.front.front_end
    keeps = "" if front.keeps else " and makes a new one for each"
    return Finding(
        "no-multiplexing",
        Level.NOTE,
        f"{front.name} has one request at a time on a connection{keeps}.",
        "It does not share them, which is enough for most sites. Where many requests wait for long,"
        " a relay carries them over one connection.",
        (relay(case.seen.address),),
    )
