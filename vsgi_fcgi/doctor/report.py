"""Report on a request, independent of the output format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from vsgi_fcgi.doctor.diagnosis import Finding, Level, diagnose
from vsgi_fcgi.doctor.probes import Trial, TrialResult, trial_result, trials
from vsgi_fcgi.doctor.request import Case, environ_lines, shown, visible
from vsgi_fcgi.front_ends.base import PathCorrection
from vsgi_fcgi.protocol import Role

_ABSENT: Final = "(absent)"

_OURS: Final = frozenset({"FCGI_ROLE", "FCGI_DATA_LENGTH"})
"""Params that the server adds for authorizers and filters."""

_REQUIRED: Final = "an app may rely on it"

_WHY: Final = {
    "HTTP_CONTENT_LENGTH": "CGI calls it CONTENT_LENGTH",
    "HTTP_CONTENT_TYPE": "CGI calls it CONTENT_TYPE",
    "HTTP_PROXY": "a client's header would become a proxy setting (httpoxy)",
    "HTTP_TRANSFER_ENCODING": "the web server has decoded the body",
    "QUERY_STRING": _REQUIRED,
    "REQUEST_METHOD": "without it, a server for an app answers 400; the doctor continues",
    "SERVER_NAME": _REQUIRED,
    "SERVER_PORT": _REQUIRED,
    "SERVER_PROTOCOL": _REQUIRED,
}
"""Reasons why the server changes params."""


@dataclass(frozen=True, slots=True)
class Change:
    """Param that the server changes before the app gets it.

    Attributes:
        name: its name.
        came: value from the web server.
        became: value that the app gets.
        why: reason, without a full stop.
    """

    name: str
    came: str
    became: str
    why: str


def changes(case: Case) -> list[Change]:
    """Return the differences between the params and the environ, in the order of the names."""
    return sorted(_changes(case), key=lambda change: change.name)


def _merged(values: list[str], became: object) -> str:
    """Return how the server combined several values of a param."""
    if became == values[-1]:
        return "the last value is used"
    if became == values[0]:
        return "the value from the configuration is used"
    return "the values are joined"


def _changes(case: Case) -> Iterator[Change]:
    environ = case.environ
    counts = Counter(name for name, _ in case.wire.pairs)
    for name in {*case.params, *environ}:
        if ("." in name or name in _OURS) and name not in case.params:
            continue
        became = shown(name, environ[name]) if name in environ else _ABSENT
        if counts[name] > 1:
            values = [value for key, value in case.wire.pairs if key == name]
            came = " | ".join(shown(name, value) for value in values)
            why = "it arrived more than once: " + _merged(values, environ.get(name))
        else:
            came = shown(name, case.params[name]) if name in case.params else _ABSENT
            if case.params.get(name) == environ.get(name):
                continue
            why = _WHY.get(name, "")
            if name == "CONTENT_LENGTH":
                known = name in environ
                why = "the actual size of the body" if known else "it is not a number"
                if case.wire.role == Role.AUTHORIZER:
                    why = "an authorizer gets no body"
        if name in ("SCRIPT_NAME", "PATH_INFO") and case.found is not PathCorrection.UNCHANGED:
            why = case.found.value
        elif name in ("SCRIPT_NAME", "PATH_INFO") and not why:
            why = _REQUIRED
        yield Change(visible(name), came, became, why or "set by the server")


WARNING = (
    "This is vsgi-fcgi doctor and not your app. It shows every client what the web server sends."
    " Stop it when you have finished."
)

_ROLES = {
    Role.AUTHORIZER: (
        "The web server asks for authorization of a request (role AUTHORIZER). The doctor denies"
        " every request with 403."
    ),
    Role.FILTER: (
        "The web server also sends a file (role FILTER). The doctor does not show its content."
    ),
}


@dataclass(frozen=True, slots=True)
class Report:
    """Report on a request.

    Attributes:
        request: method and URI of the request.
        role: explanation of its role; empty for responders.
        facts: data about the request and its connection, by name.
        trial_result: result of the trial that the request belongs to, or None.
        findings: problems to fix.
        remarks: other findings.
        changes: params that the server changes for the app.
        params: params from the web server, in displayable form.
        environ: the environ, in displayable form.
        trials: trials that the user can make.
    """

    request: str
    role: str
    facts: dict[str, str]
    trial_result: TrialResult | None
    findings: list[Finding]
    remarks: list[Finding]
    changes: list[Change]
    params: list[tuple[str, str]]
    environ: list[tuple[str, str]]
    trials: list[Trial]

    @property
    def verdict(self) -> str:
        """Return the result in one sentence, with the number of possible problems."""
        problems, unclear = len(self.findings), self._unclear
        if unclear:
            found = _counted(problems, "problem") if problems else "No problem"
            return f"{found} found, {_counted(unclear, 'possible problem')} to check."
        if problems:
            return f"{_counted(problems, 'problem')} found."
        return "No problem found in this request."

    @property
    def _unclear(self) -> int:
        """Return the number of findings that this request can neither confirm nor rule out."""
        return sum(finding.level is Level.MAYBE for finding in self.remarks)

    @property
    def sentence(self) -> str:
        """Return a summary of the report for the log."""
        text = f"{self.request} from {self.facts['Web server']}: "
        if not self.findings:
            return text + self.verdict[0].lower() + self.verdict[1:].rstrip(".")
        first = self.findings[0].seen.rstrip(".")
        more = f", and {len(self.findings) - 1} more" if len(self.findings) > 1 else ""
        if self._unclear:
            more += f", {_counted(self._unclear, 'possible problem')} to check"
        return f"{text}{first}{more}"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON supports."""
        return {
            "warning": WARNING,
            "verdict": self.verdict,
            "request": self.request,
            "role": self.role,
            "trial_result": self.trial_result.sentence if self.trial_result is not None else "",
            "facts": self.facts,
            "findings": [_as_dict(finding) for finding in self.findings],
            "remarks": [_as_dict(finding) for finding in self.remarks],
            "changes": [asdict(change) for change in self.changes],
            "params": self.params,
            "environ": dict(self.environ),
            "trials": [asdict(trial) for trial in self.trials],
        }


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _as_dict(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "level": finding.level.name.lower()}


def report_of(case: Case) -> Report:
    """Return the report on a request."""
    found = diagnose(case)
    tried: TrialResult | None = trial_result(case) if case.is_responder else None
    if tried is not None and tried.finding is not None:
        found.insert(0, tried.finding)
        found.sort(key=lambda finding: list(Level).index(finding.level))
    return Report(
        request=case.request,
        role=_ROLES.get(Role(case.wire.role), ""),
        facts=_facts(case),
        trial_result=tried,
        findings=[finding for finding in found if finding.is_problem],
        remarks=[finding for finding in found if not finding.is_problem],
        changes=changes(case),
        params=[(visible(name), shown(name, value)) for name, value in case.wire.pairs],
        environ=environ_lines(case.environ),
        trials=trials(case) if case.is_responder else [],
    )


def _facts(case: Case) -> dict[str, str]:
    wire, front = case.wire, case.front
    name = front.front_end.name
    if front.software and visible(front.software) != name:
        name += f" ({visible(front.software[:100])})"
    if front.relayed:
        name += ", behind a relay"
    kept = "to keep open" if wire.keep_conn else "to close after this request"
    facts = {
        "Web server": name,
        "Recognised by": front.why,
        "Listener": wire.address,
        "Connection": f"number {wire.connection}, request {wire.turn} on it, {kept}",
        "Request id": f"{wire.id}, {_sharing(wire.neighbours)}",
        "GET_VALUES": "sent" if wire.asked_values else "not sent",
        "SCRIPT_NAME": shown("", case.environ.get("SCRIPT_NAME", "")),
        "PATH_INFO": shown("", case.environ.get("PATH_INFO", "")),
        "Body": _body(case),
    }
    return {title: text for title, text in facts.items() if text}


def _sharing(neighbours: int) -> str:
    if not neighbours:
        return "alone on its connection"
    return f"shares its connection with {_counted(neighbours, 'request')}"


def _body(case: Case) -> str:
    arrival = case.wire.arrival
    if not arrival.size:
        return "none"
    return f"{arrival.size} bytes, in {arrival.ended - arrival.began:.1f} s"
