"""A report as a page, for browsers: one file, without scripts, and everything in it escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from vsgi_fcgi.doctor.changes import Change
from vsgi_fcgi.doctor.finding import Finding
from vsgi_fcgi.doctor.report import WARNING, Report
from vsgi_fcgi.doctor.trials import Offer

_PAGE: Final = Template(files("vsgi_fcgi.doctor").joinpath("page.html").read_text(encoding="utf-8"))


def report_page(report: Report) -> str:
    """Write a report as HTML."""
    outcome = report.outcome.sentence if report.outcome is not None else ""
    lead = [f'<p class="lead">{escape(text)}</p>' for text in (report.role, outcome) if text]
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
        remarks=_section("What else can be seen", _findings(report.remarks)),
        offers=_offers(report.offers),
        changes=_changes(report.changes),
        params_count=len(report.params),
        params=_rows(report.params),
        environ_count=len(report.environ),
        environ=_rows(report.environ),
    )


def _section(title: str, text: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{text}" if text else ""


def _findings(findings: Iterable[Finding]) -> str:
    return "\n".join(map(_finding, findings))


def _finding(finding: Finding) -> str:
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


def _offers(offers: Iterable[Offer]) -> str:
    text = "\n".join(
        f'<div class="trial"><p>{escape(offer.question)}</p>\n'
        f'<pre tabindex="0"><code>{escape(offer.command)}</code></pre></div>'
        for offer in offers
    )
    intro = '<p class="soft">A request does not show everything. These commands do.</p>\n'
    return _section("What this request does not show", intro + text if text else "")


def _changes(changes: Iterable[Change]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(change.name)}</th><td>{escape(change.came)} &#8594;'
        f" {escape(change.became)}<small>{escape(change.why)}</small></td></tr>"
        for change in changes
    )
    table = f'<div class="scroll"><table><tbody>\n{rows}\n</tbody></table></div>'
    return _section("What the app gets otherwise than it came", table if rows else "")


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    )
