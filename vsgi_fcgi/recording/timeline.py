"""A recording as one HTML page, which needs no other file and no JavaScript.

The page is a table. Time runs down, with a row for each record and note, and a lane for each
request id. The height of a row grows with the logarithm of the time before it: a connection may be
idle for minutes between two requests that take milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import log10
from typing import Final

from vsgi_fcgi.protocol import RequestStarted
from vsgi_fcgi.protocol.constants import RecordType
from vsgi_fcgi.protocol.state import Inbound
from vsgi_fcgi.recording import BLOCKED, IN, NOTE, UNBLOCKED
from vsgi_fcgi.recording.file import About
from vsgi_fcgi.recording.records import Record
from vsgi_fcgi.recording.replay import describe, describe_event, drive, make_protocol

_MAX_LANES: Final = 32
"""Maximum number of ids that have a lane: those that occur last."""
_MAX_TEXT: Final = 600
"""Characters of the content of a record that are shown."""

_WAITS: Final = {
    "data": "the server waits for the web server's data",
    "app": "the app runs, or waits for a worker",
    "read": "the web server does not read the response",
}
"""What a request waits for: the class of its lane, and its description."""

# The colours are readable on the light and on the dark background of the browser.
_STYLE: Final = """
:root { color-scheme: light dark; }
body { margin: 1rem; font: 14px/1.4 system-ui, sans-serif; }
table { border-collapse: collapse; }
th, td { padding: 2px 6px; text-align: left; vertical-align: bottom; white-space: nowrap; }
th { position: sticky; top: 0; background: Canvas; }
td { border-bottom: 1px solid #8883; }
td:last-child { white-space: pre-line; overflow-wrap: anywhere; min-width: 20rem; }
td:first-child { font-variant-numeric: tabular-nums; text-align: right; }
b { display: block; padding: 0 5px; border-radius: 3px; color: #fff; background: #cf222e; }
.k1, .k3 { background: #6e7781; } .k4 { background: #8250df; } .k5, .k8 { background: #0969da; }
.k6 { background: #1a7f37; } .k7 { background: #9a6700; }
.data { background: #1f6feb55; } .app { background: #f0883e55; } .read { background: #ff6fb155; }
.note { font-style: italic; }
.broke td { border-bottom: 3px solid #e5534b; font-weight: 600; }
"""


def make_page(about: About, records: list[Record]) -> str:
    """Return the page about a recording, which is ASCII."""
    title = escape("; ".join(about.reasons) or "recorded on demand")
    reasons = "".join(
        f'<li><a href="#broke-{number}">{escape(reason)}</a></li>'
        for number, reason in enumerate(dict.fromkeys(about.reasons))
    )
    ids = dict.fromkeys(record.id for record in reversed(records) if record.direction != NOTE)
    lanes = sorted(list(ids)[:_MAX_LANES])
    heads = "".join(f"<th>{f'id {id}' if id else 'connection'}</th>" for id in lanes)
    dropped = f" {about.dropped} earlier reads and writes were not kept." if about.dropped else ""
    key = "; ".join(f'<span class="{what}">{text}</span>' for what, text in _WAITS.items())
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(about.peer)}</h1>
<p>Recorded by {escape(about.server)}. Time 0 is {escape(about.began)}.{dropped}</p>
<ul>{reasons}</ul>
<p>Each request id has a lane. Time runs down, and is not to scale. Arrows: &rarr; from the web
server, &larr; from the server. The colour of a lane is what its request waited for: {key}.</p>
<table>
<thead><tr><th>seconds</th><th>after</th>{heads}<th>record</th></tr></thead>
<tbody>
{"".join(_rows(about, records, lanes))}</tbody>
</table>
</body>
</html>
"""
    return page.encode("ascii", "xmlcharrefreplace").decode()


def _rows(about: About, records: list[Record], lanes: list[int]) -> Iterator[str]:
    protocol = make_protocol(about)
    # What each open request waits for, and how long each has waited for what.
    waits: dict[int, str] = {}
    waited: dict[int, dict[str, float]] = {}
    marks = {reason: number for number, reason in enumerate(dict.fromkeys(about.reasons))}
    blocked = False
    now = records[0].time if records else 0.0
    for record, events, error in drive(protocol, records):
        gap = max(record.time - now, 0.0)
        now = max(now, record.time)
        for id, what in waits.items():
            waited[id][what] += gap
        before = waits
        if record.text.startswith((BLOCKED, UNBLOCKED)):
            blocked = record.text.startswith(BLOCKED)
        waits = {
            id: "data" if request.inbound < Inbound.ENDED else "read" if blocked else "app"
            for id, request in protocol.requests.items()
            if not request.outbound
        }
        lines = [describe(record), *map(describe_event, events), error, _content(record)]
        for event in events:
            if isinstance(event, RequestStarted):
                params = event.request.params.items()
                lines.append("; ".join(f"{name}={value}" for name, value in params))
        for id in waits:
            waited.setdefault(id, dict.fromkeys(_WAITS, 0.0))
        for id in before.keys() - waits.keys():
            lines.append(_sums(id, waited.pop(id)))
        css = "broke" if error else record.direction
        if record.direction == NOTE and record.text in marks:
            css = f'broke" id="broke-{marks.pop(record.text)}'
        yield _row(css, now, gap, [_cell(record, id, before) for id in lanes], lines)
    lines = ["end of the recording", *(_sums(id, waited[id]) for id in waits)]
    yield _row(NOTE, now, 0.0, ["<td></td>"] * len(lanes), lines)


def _row(css: str, time: float, gap: float, cells: list[str], lines: list[str]) -> str:
    height = 22 + 24 * log10(1 + gap / 0.001)
    after = f"+{_seconds(gap)}" if gap else ""
    text = escape("\n".join(filter(None, lines)))
    return (
        f'<tr class="{css}" style="height: {height:.0f}px"><td>{time:.6f}</td><td>{after}</td>'
        f"{''.join(cells)}<td>{text}</td></tr>\n"
    )


def _cell(record: Record, id: int, waits: dict[int, str]) -> str:
    """Return the cell of a lane: what its request waited for, and the record if it is its own."""
    what, block = waits.get(id, ""), ""
    if record.direction != NOTE and record.id == id:
        arrow = "&rarr;" if record.direction == IN else "&larr;"
        block = f'<b class="k{record.kind}">{arrow} {record.name}</b>'
    return f'<td class="{what}" title="{_WAITS.get(what, "")}">{block}</td>'


def _sums(id: int, waited: dict[str, float]) -> str:
    sums = [f"{_WAITS[what]}: {_seconds(seconds)}" for what, seconds in waited.items() if seconds]
    return f"id {id}, in all: {'; '.join(sums)}" if sums else ""


def _content(record: Record) -> str:
    """Return the content of a record as text, if it is text by itself."""
    if record.kind in (RecordType.PARAMS, RecordType.BEGIN_REQUEST, RecordType.END_REQUEST):
        return ""
    text = record.content.decode("latin-1").replace("\r\n", "\n").strip()
    text = "".join(each if each.isprintable() or each == "\n" else "\u00b7" for each in text)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "\u2026"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.2f} ms"
