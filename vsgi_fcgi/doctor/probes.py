"""Trials: commands that a user runs to find what an ordinary request does not show."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from vsgi_fcgi.doctor.diagnosis import (
    Finding,
    Level,
    authorization_missing,
    cannot_multiplex,
    connections_dropped,
    may_fail_at_once,
    relay,
    remedy,
)
from vsgi_fcgi.doctor.request import Case, shown, visible
from vsgi_fcgi.front_ends.registry import fails_when_shared

_OVERLAP: Final = 1.0
"""Seconds for which a request of the multiplexing trial waits for the others."""

_RECENT: Final = 2.0
"""Seconds within which the requests of the multiplexing trial have begun."""

_ONE_AFTER_THE_OTHER: Final = 5.0
"""Maximum time for all requests of the keep-alive trial, in seconds."""

_PIECES: Final = 4
_PAUSE: Final = 0.5
"""Seconds between two pieces of the response of the streaming trial."""

_SPREAD: Final = 0.5
"""Minimum time in seconds between the first and the last byte of a body that was sent with a pause
and was not buffered on the way."""


_MARK: Final = "doctor"
"""Value of the headers in the header trial."""

_SENT: Final = "X-Trial:"
_PROOF: Final = "HTTP_X_TRIAL"
"""Header that no configuration sets. If it arrives, the client has sent the trial's headers."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Trial that a user can make.

    Attributes:
        name: its name.
        question: the question that it answers.
        command: the command to run.
    """

    name: str
    question: str
    command: str


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Result of a trial.

    Attributes:
        sentence: the observation.
        finding: the problem, or None.
    """

    sentence: str
    finding: Finding | None = None


def trials(case: Case) -> list[Trial]:
    """Return the trials that can be made at the address of a request."""
    found = []
    if case.mount is None:
        found.append(
            Trial(
                "path",
                "Does SCRIPT_NAME depend on the requested path? If another program than the doctor"
                " answers, it does not.",
                f"curl {case.path_trial_url()}",
            )
        )
    found += [
        Trial(
            "authorization",
            "Does the Authorization header reach the app?",
            f"curl -u doctor:doctor {case.trial_url('authorization')}",
        ),
        Trial(
            "header",
            "Can a client set a header that the app trusts? Replace X-Forwarded-Proto with the name"
            " of this header, in both spellings.",
            f"curl -H {_SENT}{_MARK} -H X-Forwarded-Proto:{_MARK} -H X_Forwarded_Proto:{_MARK}"
            f" {case.trial_url('header')}",
        ),
        Trial(
            "upload",
            "Does a body without a length reach the app while it is being sent?",
            f"(echo one; sleep 2; echo two) | curl -X POST -T - {case.trial_url('upload')}",
        ),
        Trial(
            "stream",
            "Does a response reach the client while it is being written?",
            f"curl -N {case.trial_url('stream')}",
        ),
        Trial(
            "keep-alive",
            "Are connections to the app reused?",
            f"curl {case.trial_url('keep-alive', '&n=[1-4]')}",
        ),
    ]
    if case.front.front_end.multiplexes is not False or case.front.relayed:
        url = case.trial_url("multiplexing", "&n=[1-16]")
        found.append(
            Trial(
                "multiplexing",
                "Do requests share a connection?",
                f"curl -Z --parallel-immediate {url}",
            )
        )
    return found


def trial_result(case: Case) -> TrialResult | None:
    """Return the result of the trial that a request belongs to, or None for other requests.

    The streaming trial has no result, because only the client can see it; see `pieces`.
    """
    judge = _JUDGES.get(case.trial)
    return None if judge is None else judge(case)


def _authorization(case: Case) -> TrialResult:
    if case.params.get("HTTP_AUTHORIZATION"):
        return TrialResult("The Authorization header arrived.")
    how = "If this request was sent by the command of the trial, the client sent the header."
    return TrialResult("The Authorization header did not arrive.", authorization_missing(case, how))


def _header(case: Case) -> TrialResult:
    names = {
        name
        for name, value in case.params.items()
        if name.startswith("HTTP_") and _MARK in _values(value)
    }
    if _PROOF not in names:
        return TrialResult("The headers of the trial did not arrive: run its command.")
    names.remove(_PROOF)
    if not names:
        return TrialResult("The app gets no value of the client.")
    front = case.front.front_end
    came = {name: case.params[name] for name in sorted(names)}
    text = " and ".join(f"{visible(name)} {shown(name, value)}" for name, value in came.items())
    joined = any(_values(value) != {_MARK} for value in came.values())
    matters = (
        "An app that trusts the header, as Django's SECURE_PROXY_SSL_HEADER and werkzeug's ProxyFix"
        " do, trusts every client."
    )
    if not joined:
        matters += (
            " If the configuration of the web server sets the header, the value of the client has"
            " precedence. If no app trusts the header, there is no problem."
        )
    lines = remedy(front, "header")
    if lines:
        matters += " For X-Forwarded-Proto, this sets it whatever the client sends:"
    finding = Finding(
        "header-joined" if joined else "header-passes",
        Level.WRONG if joined else Level.MAYBE,
        f"The app gets a value that the client sent: {text}.",
        matters,
        lines,
    )
    return TrialResult("A client's value reaches the app.", finding)


def _values(value: str) -> set[str]:
    return {part.strip() for part in value.split(",")}


def _upload(case: Case) -> TrialResult:
    arrival, length = case.wire.arrival, case.params.get("CONTENT_LENGTH")
    if not arrival.size:
        return TrialResult("There was no body: run the command of the trial.")
    if arrival.ended - arrival.began >= _SPREAD:
        return TrialResult("The body arrived piece by piece, while it was being sent.")
    front = case.front.front_end
    lines = remedy(front, "upload")
    matters = (
        "An app gets nothing of an upload before the whole body has arrived. It cannot show the"
        " progress, and uploads without an end do not work."
    )
    if not lines:
        matters += (
            front.notes.upload_held
            or f" The doctor knows no setting of {front.name} that changes this."
        )
    given = f", with a CONTENT_LENGTH of {length}" if length and length != "-1" else ""
    finding = Finding(
        "upload-held",
        Level.WRONG if lines else Level.NOTE,
        f"The body was sent with a pause, but arrived all at once{given}.",
        matters,
        lines,
    )
    return TrialResult("The web server buffers the whole body before it forwards it.", finding)


def _keep_alive(case: Case) -> TrialResult:
    front, wire = case.front.front_end, case.wire
    number = f"This is request {wire.turn} of connection {wire.connection}"
    if wire.turn > 1:
        return TrialResult(f"{number}: connections are reused.")
    if wire.keep_conn:
        if wire.connection_use.drops(_ONE_AFTER_THE_OTHER) >= 2:
            return TrialResult(f"{number}.", connections_dropped(case, _ONE_AFTER_THE_OTHER))
        return TrialResult(
            f"{number}, which should stay open: see the results of the next requests."
        )
    if front.keeps is False:
        return TrialResult(f"{number}.", cannot_multiplex(case))
    finding = Finding(
        "connection-each",
        Level.WRONG,
        f"{front.name} opens a connection for each request: it does not ask to keep it"
        " (KEEP_CONN).",
        "Each request costs an additional connection.",
        remedy(front, "keep", mount=case.place, address=wire.address),
    )
    return TrialResult(f"{number}.", finding)


def _multiplexing(case: Case) -> TrialResult:
    time.sleep(_OVERLAP)
    total, shared = case.wire.connection_use.at_once(_RECENT)
    fails = fails_when_shared(case.front.software)
    if shared > 1:
        return TrialResult(
            f"Of {total} requests at the same time, {shared} shared a connection.",
            may_fail_at_once(case) if fails else None,
        )
    if total == 1:
        return TrialResult(
            "No other request arrived at the same time: run the command of the trial, with a curl"
            " that supports -Z."
        )
    front = case.front.front_end
    if front.multiplexes is False:
        return TrialResult(f"{total} requests came on {total} connections.", cannot_multiplex(case))
    # A web server that sends GET_VALUES can share connections, so the cause is something else.
    asked = case.wire.asked_values
    matters = "Each running request occupies a connection."
    matters += front.notes.not_shared
    level = Level.MAYBE if asked else Level.WRONG
    if fails:
        # Not sharing is recommended here, and `vsgi-fcgi config haproxy` writes it.
        level = Level.NOTE
        matters += (
            f" This is best for most sites: {front.notes.sharing_fails} If the app has many"
            " requests that wait for a long time, and its clients tolerate a 500, these lines"
            " enable sharing:"
        )
    elif front.notes.sharing_costs and not asked:
        level = Level.NOTE
        matters += (
            f" Sharing saves connections, but {front.notes.sharing_costs} These lines enable"
            " sharing:"
        )
    finding = Finding(
        "no-multiplexing",
        level,
        f"{total} requests at the same time came on {total} connections.",
        matters,
        remedy(front, "multiplexing") or (relay(case.wire.address),),
    )
    return TrialResult("The requests did not share a connection.", finding)


_JUDGES: Final[dict[str, Callable[[Case], TrialResult]]] = {
    "authorization": _authorization,
    "header": _header,
    "upload": _upload,
    "keep-alive": _keep_alive,
    "multiplexing": _multiplexing,
}


def pieces(case: Case) -> Iterator[bytes]:
    """Yield the response of the streaming trial: lines with pauses, then their explanation."""
    for number in range(1, _PIECES + 1):
        yield f"line {number} of {_PIECES}, written at {time.strftime('%H:%M:%S')}\n".encode()
        if number < _PIECES:
            time.sleep(_PAUSE)
    front = case.front.front_end
    lines = remedy(front, "stream", mount=case.place, address=case.wire.address)
    text = "\nIf the lines arrived one by one, twice a second, responses are not buffered.\n"
    if lines:
        text += "If they arrived all at once, responses are buffered. The lines to change:\n"
        text += f"\n  {lines[0].where}:\n\n{textwrap.indent(lines[0].lines, '    ')}\n"
    else:
        text += f"If they arrived all at once, {front.name} buffers responses.\n"
    yield text.encode()
