"""What no request shows by itself: the client is told what to send, and the answer is certain."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from vsgi_fcgi.doctor.case import Case
from vsgi_fcgi.doctor.diagnosis import (
    FAILS_AT_ONCE,
    authorization_missing,
    cannot_multiplex,
    connections_dropped,
    may_fail_at_once,
)
from vsgi_fcgi.doctor.finding import Finding, Level
from vsgi_fcgi.doctor.front_end import HAPROXY
from vsgi_fcgi.doctor.remedies import relay, remedy
from vsgi_fcgi.wsgi.front_ends import fails_at_once

_OVERLAP: Final = 1.0
"""Seconds for which a request of the trial of multiplexing waits for the others."""

_ONE_AFTER_THE_OTHER: Final = 5.0
"""Seconds that the requests of the trial of keep-alive take at most."""

_PIECES: Final = 4
_PAUSE: Final = 0.5
"""Seconds between two pieces of the answer of the trial of streaming."""

_SPREAD: Final = 0.5
"""Seconds that a body takes at least that was sent with pauses and came as it was sent."""


_HELD: Final = {
    "lighttpd": (
        " lighttpd 1.4.69 cannot do otherwise: with server.stream-request-body it answers 411 to a"
        " body that is still coming and has no length, and passes on piece by piece only those"
        " that have one."
    ),
    "haproxy": (
        " HAProxy waits for all of a body without a length, which has to fit its buffer of 16 KiB"
        " (tune.bufsize)."
    ),
    "apache-fcgid": " mod_fcgid reads the whole of each body first.",
    "gateway": " The gateway passes a body on in pieces of 64 KiB.",
}
"""Why some web servers hold back a body, where there is no line to change."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A trial that can be made.

    Attributes:
        name: its name.
        question: what it answers.
        command: what to run.
    """

    name: str
    question: str
    command: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial.

    Attributes:
        sentence: what was seen.
        finding: what is wrong, if something is.
    """

    sentence: str
    finding: Finding | None = None


def offers(case: Case) -> list[Offer]:
    """The trials that can be made from where a request came to."""
    found = []
    if case.mount is None:
        found.append(
            Offer(
                "path",
                "Does SCRIPT_NAME follow what is asked for? If this is not answered by the doctor,"
                " it does not.",
                f"curl {case.path_trial_url()}",
            )
        )
    found += [
        Offer(
            "authorization",
            "Does Authorization reach the app?",
            f"curl -u doctor:doctor {case.trial_url('authorization')}",
        ),
        Offer(
            "upload",
            "Does a body without a length reach the app as it is sent?",
            f"(echo one; sleep 2; echo two) | curl -X POST -T - {case.trial_url('upload')}",
        ),
        Offer(
            "stream",
            "Does an answer reach the client as it is written?",
            f"curl -N {case.trial_url('stream')}",
        ),
        Offer(
            "keep-alive",
            "Is a connection to the app used again?",
            f"curl {case.trial_url('keep-alive', '&n=[1-4]')}",
        ),
    ]
    if case.front.front_end.multiplexes is not False or case.front.relayed:
        url = case.trial_url("multiplexing", "&n=[1-16]")
        found.append(
            Offer(
                "multiplexing",
                "Do requests share a connection?",
                f"curl -Z --parallel-immediate {url}",
            )
        )
    return found


def outcome(case: Case) -> Outcome | None:
    """Judge a request that belongs to a trial; None for all others.

    The trial of streaming is another matter; see `pieces`.
    """
    judge = _JUDGES.get(case.trial)
    return None if judge is None else judge(case)


def _authorization(case: Case) -> Outcome:
    if case.params.get("HTTP_AUTHORIZATION"):
        return Outcome("Authorization came.")
    how = "It was sent, if this was asked for by the command of the trial."
    return Outcome("Authorization did not come.", authorization_missing(case, how))


def _upload(case: Case) -> Outcome:
    arrival, length = case.seen.arrival, case.params.get("CONTENT_LENGTH")
    if not arrival.size:
        return Outcome("There was no body: run the command of the trial.")
    if arrival.ended - arrival.began >= _SPREAD:
        return Outcome("The body came as it was sent, piece by piece.")
    front = case.front.front_end
    lines = remedy(front.key, "upload")
    matters = (
        "An app with uploads that it shows the progress of, or that never end, sees nothing until"
        " all has come."
    )
    if not lines:
        matters += _HELD.get(front.key, f" Nothing is known here that {front.name} could be told.")
    given = f", with a CONTENT_LENGTH of {length}" if length and length != "-1" else ""
    finding = Finding(
        "upload-held",
        Level.WRONG if lines else Level.NOTE,
        f"The body was sent with a pause, and came all at once{given}.",
        matters,
        lines,
    )
    return Outcome("The web server gathers a body before it passes it on.", finding)


def _keep_alive(case: Case) -> Outcome:
    front, seen = case.front.front_end, case.seen
    number = f"This is request {seen.turn} of connection {seen.connection}"
    if seen.turn > 1:
        return Outcome(f"{number}: connections are used again.")
    if seen.keep_conn:
        if seen.habits.drops(_ONE_AFTER_THE_OTHER) >= 2:
            return Outcome(f"{number}.", connections_dropped(case, _ONE_AFTER_THE_OTHER))
        return Outcome(f"{number}, which is to be kept: the next ones tell.")
    if front.keeps is False:
        return Outcome(f"{number}.", cannot_multiplex(case))
    finding = Finding(
        "connection-each",
        Level.WRONG,
        f"{front.name} makes a connection for each request: it does not ask to keep it"
        " (KEEP_CONN).",
        "Each request costs a connection more.",
        remedy(front.key, "keep", mount=case.place, address=seen.address),
    )
    return Outcome(f"{number}.", finding)


def _multiplexing(case: Case) -> Outcome:
    time.sleep(_OVERLAP)
    total, most = case.seen.habits.at_once(2 * _OVERLAP)
    fails = fails_at_once(case.front.software)
    if most > 1:
        return Outcome(
            f"Of {total} requests at the same time, {most} shared a connection.",
            may_fail_at_once() if fails else None,
        )
    if total == 1:
        return Outcome(
            "No other request came meanwhile: run the command of the trial, with a curl that knows"
            " -Z."
        )
    front = case.front.front_end
    if front.multiplexes is False:
        return Outcome(f"{total} requests came on {total} connections.", cannot_multiplex(case))
    # Who asks what the server can do shares connections as well: then it is something else.
    asked = case.seen.asked_values
    matters = "Each request that runs keeps a connection to itself."
    if front is HAPROXY:
        matters += (
            " Each thread of HAProxy has connections of its own: if it has as many threads as there"
            " were requests, this says nothing."
        )
    level = Level.MAYBE if asked else Level.WRONG
    if fails:
        # Not to share is what is advised, and what `vsgi-fcgi config haproxy` writes.
        level = Level.NOTE
        matters += (
            f" That is as it should be for most sites: {FAILS_AT_ONCE} If the app has many requests"
            " that wait for long, and no client minds a 500, these lines let them share:"
        )
    finding = Finding(
        "no-multiplexing",
        level,
        f"{total} requests at the same time came on {total} connections.",
        matters,
        remedy(front.key, "multiplexing") or (relay(case.seen.address),),
    )
    return Outcome("The requests did not share a connection.", finding)


_JUDGES: Final[dict[str, Callable[[Case], Outcome]]] = {
    "authorization": _authorization,
    "upload": _upload,
    "keep-alive": _keep_alive,
    "multiplexing": _multiplexing,
}


def pieces(case: Case) -> Iterator[bytes]:
    """The answer of the trial of streaming: lines with pauses, then what they say."""
    for number in range(1, _PIECES + 1):
        yield f"line {number} of {_PIECES}, written at {time.strftime('%H:%M:%S')}\n".encode()
        if number < _PIECES:
            time.sleep(_PAUSE)
    front = case.front.front_end
    lines = remedy(front.key, "stream", mount=case.place, address=case.seen.address)
    text = "\nDid they come one by one, twice a second? Then answers pass as they are written.\n"
    if lines:
        text += "If they came all at once, they are held back. The lines to change:\n"
        text += f"\n  {lines[0].where}:\n\n{textwrap.indent(lines[0].lines, '    ')}\n"
    else:
        text += f"If they came all at once, {front.name} holds them back.\n"
    yield text.encode()
