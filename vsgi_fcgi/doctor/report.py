"""All that there is to say of a request, whatever it is written in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vsgi_fcgi.doctor.case import Case
from vsgi_fcgi.doctor.changes import Change, changes
from vsgi_fcgi.doctor.diagnosis import diagnose
from vsgi_fcgi.doctor.finding import Finding, Level
from vsgi_fcgi.doctor.trials import Offer, Outcome, offers, outcome
from vsgi_fcgi.doctor.values import environ_lines, shown, visible
from vsgi_fcgi.protocol import Role

WARNING = (
    "This is vsgi-fcgi doctor, and not the app. It shows whoever asks what the web server sends:"
    " stop it when you have found what is wrong."
)

_ROLES = {
    Role.AUTHORIZER: (
        "The web server asks whether a request may pass (the role of an authorizer). The doctor"
        " lets nobody through: this is a 403."
    ),
    Role.FILTER: (
        "The web server sends a file along (the role of a filter). The doctor shows nothing of it."
    ),
}


@dataclass(frozen=True, slots=True)
class Report:
    """A report.

    Attributes:
        request: the request, by its method and URI.
        role: what is to be said of its role; empty for those of web apps.
        facts: what is known of the request and its connection, by name.
        outcome: what came of a trial; None if it belongs to none.
        findings: what is to be changed.
        remarks: what else was found.
        changes: what is not as it came.
        params: the params as they came, fit to be seen.
        environ: the environ, fit to be seen.
        offers: trials that can be made.
    """

    request: str
    role: str
    facts: dict[str, str]
    outcome: Outcome | None
    findings: list[Finding]
    remarks: list[Finding]
    changes: list[Change]
    params: list[tuple[str, str]]
    environ: list[tuple[str, str]]
    offers: list[Offer]

    @property
    def verdict(self) -> str:
        """It all in a sentence."""
        count = len(self.findings)
        if not count:
            return "Nothing wrong can be seen in this request."
        return "1 thing is to be changed." if count == 1 else f"{count} things are to be changed."

    @property
    def sentence(self) -> str:
        """The request and what was found, for the log."""
        text = f"{self.request} from {self.facts['Web server']}: "
        if not self.findings:
            return f"{text}nothing wrong can be seen"
        first = self.findings[0].seen.rstrip(".")
        more = f", and {len(self.findings) - 1} more" if len(self.findings) > 1 else ""
        return f"{text}{first}{more}"

    def as_dict(self) -> dict[str, Any]:
        """It all as values that JSON has."""
        return {
            "warning": WARNING,
            "verdict": self.verdict,
            "request": self.request,
            "role": self.role,
            "outcome": self.outcome.sentence if self.outcome is not None else "",
            "facts": self.facts,
            "findings": [_as_dict(finding) for finding in self.findings],
            "remarks": [_as_dict(finding) for finding in self.remarks],
            "changes": [asdict(change) for change in self.changes],
            "params": self.params,
            "environ": dict(self.environ),
            "offers": [asdict(offer) for offer in self.offers],
        }


def _as_dict(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "level": finding.level.name.lower()}


def report_of(case: Case) -> Report:
    """Say what there is to say."""
    found = diagnose(case)
    tried: Outcome | None = outcome(case) if case.is_responder else None
    if tried is not None and tried.finding is not None:
        found.insert(0, tried.finding)
        found.sort(key=lambda finding: list(Level).index(finding.level))
    return Report(
        request=case.request,
        role=_ROLES.get(Role(case.seen.role), ""),
        facts=_facts(case),
        outcome=tried,
        findings=[finding for finding in found if finding.counts],
        remarks=[finding for finding in found if not finding.counts],
        changes=changes(case),
        params=[(visible(name), shown(name, value)) for name, value in case.seen.pairs],
        environ=environ_lines(case.environ),
        offers=offers(case) if case.is_responder else [],
    )


def _facts(case: Case) -> dict[str, str]:
    seen, front = case.seen, case.front
    name = front.front_end.name
    if front.software and visible(front.software) != name:
        name += f" ({visible(front.software[:100])})"
    if front.relayed:
        name += ", through a relay"
    kept = "to be kept" if seen.keep_conn else "to be closed after this request"
    facts = {
        "Web server": name,
        "Recognised by": front.why,
        "Came to": seen.address,
        "Connection": f"number {seen.connection}, its request {seen.turn}, {kept}",
        "Request id": f"{seen.id}, {_beside(seen.neighbours)}",
        "Asked what is possible": "yes (GET_VALUES)" if seen.asked_values else "no",
        "SCRIPT_NAME": shown("", case.environ.get("SCRIPT_NAME", "")),
        "PATH_INFO": shown("", case.environ.get("PATH_INFO", "")),
        "Body": _body(case),
    }
    return {title: text for title, text in facts.items() if text}


def _beside(neighbours: int) -> str:
    if not neighbours:
        return "alone on its connection"
    return f"beside {neighbours} more on its connection"


def _body(case: Case) -> str:
    arrival = case.seen.arrival
    if not arrival.size:
        return "none"
    return f"{arrival.size} bytes, in {arrival.ended - arrival.began:.1f} s"
