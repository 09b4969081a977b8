"""Render a report as an HTML page and as text.

The page is a single file without scripts. All values in it are escaped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from vsgi_fcgi.doctor.diagnosis import Finding
from vsgi_fcgi.doctor.probes import Trial, TrialResult
from vsgi_fcgi.doctor.report import WARNING, Change, Report

_CHANGES_TITLE: Final = "Changes that the server makes for the app"
_TRIALS_TITLE: Final = "Trials"

_PAGE: Final = Template(files("vsgi_fcgi.doctor").joinpath("page.html").read_text(encoding="utf-8"))


def report_page(report: Report) -> str:
    """Return a report as an HTML page."""
    trial_result = report.trial_result.sentence if report.trial_result is not None else ""
    lead = [f'<p class="lead">{escape(text)}</p>' for text in (report.role, trial_result) if text]
    return _PAGE.substitute(
        warning=escape(WARNING),
        request=escape(report.request),
        verdict=escape(report.verdict),
        lead="\n".join(lead),
        findings=_findings(report.findings),
        facts="\n".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>"
            for name, text in report.facts.items()
        ),
        remarks=_section("Other findings", _findings(report.remarks)),
        trials=_trials(report.trials),
        changes=_changes(report.changes),
        params_count=len(report.params),
        params=_rows(report.params),
        environ_count=len(report.environ),
        environ=_rows(report.environ),
    )


def _section(title: str, text: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{text}" if text else ""


def _findings(findings: Iterable[Finding]) -> str:
    return "\n".join(map(_finding_html, findings))


def _finding_html(finding: Finding) -> str:
    remedies = "\n".join(
        f'<p class="where">{escape(remedy.where)}:</p>\n'
        f'<pre tabindex="0"><code>{escape(remedy.lines)}</code></pre>'
        for remedy in finding.remedies
    )
    return (
        f'<section class="finding {finding.level.name.lower()}" id="{escape(finding.code)}">\n'
        f'<p class="level">{escape(finding.level.value)}</p>\n'
        f"<h3>{escape(finding.seen)}</h3>\n<p>{escape(finding.matters)}</p>\n{remedies}\n</section>"
    )


def _trials(trials: Iterable[Trial]) -> str:
    text = "\n".join(
        f'<div class="trial"><p>{escape(trial.question)}</p>\n'
        f'<pre tabindex="0"><code>{escape(trial.command)}</code></pre></div>'
        for trial in trials
    )
    intro = '<p class="soft">One request does not show everything. Run these commands.</p>\n'
    return _section(_TRIALS_TITLE, intro + text if text else "")


def _changes(changes: Iterable[Change]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(change.name)}</th><td>{escape(change.came)} &#8594;'
        f" {escape(change.became)}<small>{escape(change.why)}</small></td></tr>"
        for change in changes
    )
    table = f'<div class="scroll"><table><tbody>\n{rows}\n</tbody></table></div>'
    return _section(_CHANGES_TITLE, table if rows else "")


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    )


_WIDTH = 96
"""Maximum line length of plain text, which is meant for curl."""


def report_text(report: Report) -> str:
    """Return a report as text."""
    return "\n".join(_lines(report)) + "\n"


def trial_text(trial_result: TrialResult) -> str:
    """Return the result of a trial as text."""
    lines = _wrapped(trial_result.sentence)
    finding = trial_result.finding
    if finding is not None:
        lines += ["", f"{finding.level.value}:", *_finding_lines(finding)]
    return "\n".join(lines) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from _wrapped(WARNING)
    yield ""
    yield report.request
    if report.role:
        yield from _wrapped(report.role)
    if report.trial_result is not None:
        yield from _wrapped(report.trial_result.sentence)
    yield from _wrapped(report.verdict)
    heading = ""
    for finding in (*report.findings, *report.remarks):
        if finding.level.value != heading:
            heading = finding.level.value
            yield from _heading(heading)
        else:
            yield ""
        yield from _finding_lines(finding)
    yield from _heading("The request")
    yield from _table(list(report.facts.items()))
    if report.changes:
        yield from _heading(_CHANGES_TITLE)
        for change in report.changes:
            yield f"{change.name}: {change.came} -> {change.became}"
            yield f"    {change.why}"
    yield from _heading("Params from the web server")
    yield from _table(report.params)
    yield from _heading("Environ of the app")
    yield from _table(report.environ)
    if report.trials:
        yield from _heading(_TRIALS_TITLE)
        for trial in report.trials:
            yield from _wrapped(trial.question)
            yield f"    {trial.command}"


def _finding_lines(finding: Finding) -> Iterator[str]:
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
