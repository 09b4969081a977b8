"""A report as plain text, for curl."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from vsgi_fcgi.doctor.finding import Finding
from vsgi_fcgi.doctor.report import WARNING, Report
from vsgi_fcgi.doctor.trials import Outcome

_WIDTH = 96


def report_text(report: Report) -> str:
    """Write a report as text."""
    return "\n".join(_lines(report)) + "\n"


def trial_text(outcome: Outcome) -> str:
    """Write what came of a trial, and nothing else."""
    lines = _wrapped(outcome.sentence)
    finding = outcome.finding
    if finding is not None:
        lines += ["", f"{finding.level.value}:", *_finding(finding)]
    return "\n".join(lines) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from _wrapped(WARNING)
    yield ""
    yield report.request
    if report.role:
        yield from _wrapped(report.role)
    if report.outcome is not None:
        yield from _wrapped(report.outcome.sentence)
    yield from _wrapped(report.verdict)
    heading = ""
    for finding in (*report.findings, *report.remarks):
        if finding.level.value != heading:
            heading = finding.level.value
            yield from _heading(heading)
        else:
            yield ""
        yield from _finding(finding)
    yield from _heading("The request")
    yield from _table(list(report.facts.items()))
    if report.changes:
        yield from _heading("What the app gets otherwise than it came")
        for change in report.changes:
            yield f"{change.name}: {change.came} -> {change.became}"
            yield f"    {change.why}"
    yield from _heading("The params as they came")
    yield from _table(report.params)
    yield from _heading("The environ made of them")
    yield from _table(report.environ)
    if report.offers:
        yield from _heading("What this request does not show")
        for offer in report.offers:
            yield from _wrapped(offer.question)
            yield f"    {offer.command}"


def _finding(finding: Finding) -> Iterator[str]:
    yield from _wrapped(f"{finding.seen} {finding.matters}")
    for remedy in finding.remedies:
        yield f"  {remedy.where}:"
        yield ""
        yield textwrap.indent(remedy.lines, "    ")
        yield ""


def _heading(title: str) -> Iterator[str]:
    yield ""
    yield title
    yield "-" * len(title)


def _table(rows: list[tuple[str, str]]) -> Iterator[str]:
    width = min(max((len(name) for name, _ in rows), default=0), 24)
    for name, value in rows:
        yield f"{name:<{width}}  {value}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
