"""A recording as one HTML page, which needs no other file and no JavaScript.

Time runs to the right, but not to scale: a connection may be idle for minutes between two requests
that take milliseconds. The distance of two moments grows with the logarithm of the time between
them, and the page shows the time itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from math import log10
from typing import Final

from vsgi_fcgi.exceptions import ParamsError
from vsgi_fcgi.protocol.constants import RecordType, Role
from vsgi_fcgi.protocol.records import decode_pairs
from vsgi_fcgi.recording import BLOCKED, UNBLOCKED
from vsgi_fcgi.recording.file import About
from vsgi_fcgi.recording.records import IN, NOTE, Record
from vsgi_fcgi.recording.replay import describe

_MAX_LANES: Final = 200
"""Maximum number of ids that are drawn."""
_MAX_TEXT: Final = 600
"""Characters of the content of a record that are shown."""

_LANE: Final = 46
_BLOCK: Final = 18
_LEFT: Final = 64
_TOP: Final = 58
"""Sizes in pixels: of a lane, of a block, and of the space on the left and above the lanes."""

DATA: Final = "data"
APP: Final = "app"
READ: Final = "read"
_WAITS: Final = {
    DATA: "the server waits for the web server's data",
    APP: "the app runs, or waits for a worker",
    READ: "the web server does not read the response",
}

_KINDS: Final = {
    RecordType.BEGIN_REQUEST: ("begin", "B"),
    RecordType.ABORT_REQUEST: ("bad", "A"),
    RecordType.END_REQUEST: ("begin", "E"),
    RecordType.PARAMS: ("params", "P"),
    RecordType.STDIN: ("in", "I"),
    RecordType.DATA: ("in", "D"),
    RecordType.STDOUT: ("out", "O"),
    RecordType.STDERR: ("err", "X"),
}
"""The class and the letter of the blocks."""

_STYLE: Final = """
:root { color-scheme: light dark; --text: #1b1f24; --dim: #59636e; --page: #fff; --line: #d1d9e0;
  --box: #f6f8fa; --bad: #cf222e; --begin: #8c959f; --params: #8250df; --in: #0969da;
  --out: #1a7f37; --err: #9a6700; --w-data: #b6d8ff; --w-app: #ffd8a8; --w-read: #ffc1cc; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --dim: #9198a1; --page: #0d1117;
  --line: #3d444d; --box: #151b23; --bad: #f85149; --begin: #6e7681; --params: #8957e5;
  --in: #1f6feb; --out: #238636; --err: #9e6a03; --w-data: #12375f; --w-app: #5a3a10;
  --w-read: #6b1f2d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--page);
  color: var(--text); font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; } h2 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
p, ul { margin: .3rem 0; } .dim { color: var(--dim); } .bad { color: var(--bad); }
.reasons { font-weight: 600; color: var(--bad); padding-left: 1.2rem; }
.reasons a { color: inherit; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px;
  background: var(--box); }
svg { display: block; }
svg text { font: 11px system-ui, sans-serif; fill: var(--text); }
svg .dim { fill: var(--dim); } svg .letter { fill: #fff; text-anchor: middle; font-weight: 600; }
svg .broke { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .note { stroke: var(--dim); stroke-dasharray: 1 4; } svg .rule { stroke: var(--line); }
svg text.bad { fill: var(--bad); font-weight: 600; }
.begin { fill: var(--begin); } .params { fill: var(--params); } .in { fill: var(--in); }
.out { fill: var(--out); } .err { fill: var(--err); } rect.bad { fill: var(--bad); }
.w-data { fill: var(--w-data); } .w-app { fill: var(--w-app); } .w-read { fill: var(--w-read); }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .5rem 0; font-size: .88rem; }
.key svg { display: inline-block; vertical-align: -2px; margin-right: .35rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { color: var(--dim); font-weight: 500; white-space: nowrap; }
td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.text { font-family: ui-monospace, monospace; font-size: .8rem; white-space: pre-line;
  min-width: 14rem; }
"""


@dataclass
class _Request:
    """A request, and what it waited for.

    Attributes:
        waits: the reasons to wait, each with its first and last time.
        end: how it ended.
    """

    id: int
    began: float
    role: int
    name: str = ""
    end: str = ""
    waits: list[tuple[float, float, str]] = field(default_factory=list)

    def total(self, what: str) -> float:
        return sum(end - begin for begin, end, kind in self.waits if kind == what)


def make_page(about: About, records: list[Record]) -> str:
    """Return the page about a recording."""
    requests = _follow(records)
    title = "; ".join(about.reasons) or "recorded on demand"
    reasons = "".join(
        f'<li><a href="#broke-{number}">{escape(reason)}</a></li>'
        for number, reason in enumerate(about.reasons)
    )
    dropped = ""
    if about.dropped:
        dropped = f" {about.dropped} earlier reads and writes were not kept."
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(about.peer)}</h1>
<p class="dim">Recorded by {escape(about.server)}. Time 0 is {escape(about.began)}.{dropped}</p>
<ul class="reasons">{reasons}</ul>
<h2>Timeline</h2>
<p class="dim">A lane for each request id. Above: records of the web server; below: records of the
server. Time is not to scale; long waits are shortened.</p>
{_key()}
<div class="wide">{_drawing(about, records, requests)}</div>
<h2>Requests</h2>
<div class="wide"><table><thead><tr><th>id</th><th>began</th><th>request</th><th>end</th>
<th>waited for data</th><th>app</th><th>not read</th></tr></thead>
<tbody>{"".join(map(_request_row, requests))}</tbody></table></div>
<h2>Records</h2>
<div class="wide"><table><thead><tr><th>time</th><th></th><th>record</th><th>content</th></tr>
</thead><tbody>{"".join(map(_record_row, records))}</tbody></table></div>
</body>
</html>
"""


def _follow(records: list[Record]) -> list[_Request]:
    """Return the requests that began in a recording, with their waits."""
    requests: list[_Request] = []
    # The open requests by id: since when, and for what, each waits.
    open_ids: dict[int, tuple[_Request, float, str]] = {}
    blocked = False

    def wait(id: int, now: float, what: str | None) -> None:
        request, since, before = open_ids[id]
        shown = READ if blocked and before == APP else before
        if now > since:
            request.waits.append((since, now, shown))
        if what is None:
            del open_ids[id]
        else:
            open_ids[id] = request, now, what

    for record in records:
        id, kind, now = record.id, record.kind, record.time
        if record.direction == NOTE:
            if record.text.startswith((BLOCKED, UNBLOCKED)):
                for each in list(open_ids):
                    wait(each, now, open_ids[each][2])
                blocked = record.text.startswith(BLOCKED)
        elif kind == RecordType.BEGIN_REQUEST:
            role = int.from_bytes(record.content[:2], "big")
            request = _Request(id, now, role, end="had not ended")
            requests.append(request)
            open_ids[id] = request, now, DATA
        elif id in open_ids:
            request, _, state = open_ids[id]
            if kind == RecordType.PARAMS and not request.name:
                request.name = _target(record)
            last = {Role.AUTHORIZER: RecordType.PARAMS, Role.FILTER: RecordType.DATA}.get(
                Role(request.role) if request.role in (2, 3) else Role.RESPONDER, RecordType.STDIN
            )
            if kind == RecordType.END_REQUEST:
                status = int.from_bytes(record.content[:4], "big")
                if request.end == "had not ended":
                    request.end = f"END_REQUEST, application status {status}"
                wait(id, now, None)
            elif kind == RecordType.ABORT_REQUEST:
                request.end = "aborted by the web server"
                wait(id, now, state)
            else:
                complete = record.direction == IN and kind == last and not record.length
                wait(id, now, APP if complete or state == APP else DATA)
                if record.until > now:
                    wait(id, record.until, open_ids[id][2])
    for id in list(open_ids):
        wait(id, records[-1].time, None)
    return requests


def _target(record: Record) -> str:
    pairs = _pairs(record)
    return f"{pairs.get('REQUEST_METHOD', '')} {pairs.get('REQUEST_URI', '')}".strip()


def _pairs(record: Record) -> dict[str, str]:
    """Return the pairs of a PARAMS record; empty if it is only a part of the stream."""
    try:
        return decode_pairs(record.content, len(record.content))[0]
    except ParamsError:
        return {}


class _Scale:
    """Where each moment is drawn.

    Args:
        records: the records, which need room at their times.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        room: dict[float, dict[tuple[int, str], int]] = defaultdict(lambda: defaultdict(int))
        for record in records:
            room[record.time][record.id, record.direction] += record.direction != NOTE
            _ = room[record.until]
        self._room = room
        self.times = sorted(room)
        self._at: list[float] = []
        at, before = float(_LEFT), None
        for time in self.times:
            if before is not None:
                at += 8 + 24 * log10(1 + (time - before) / 0.0001)
            self._at.append(at)
            before = time
            at += self.room_at(time)
        self.width = at + 160

    def room_at(self, time: float) -> float:
        """Return the width of the blocks that are drawn at a moment."""
        return _BLOCK * max(self._room[time].values(), default=0)

    def x(self, time: float) -> float:
        """Return the place of a moment, which is the time of a record or the end of one."""
        return self._at[min(bisect_left(self.times, time), len(self._at) - 1)]


def _drawing(about: About, records: list[Record], requests: list[_Request]) -> str:
    if not records:
        return "<p>The recording is empty.</p>"
    ids = list(dict.fromkeys(record.id for record in reversed(records) if record.direction != NOTE))
    ids = sorted(ids[:_MAX_LANES])
    lanes = {id: _TOP + number * _LANE for number, id in enumerate(ids)}
    scale = _Scale(records)
    bottom = _TOP + len(ids) * _LANE
    out = [
        f'<svg width="{scale.width:.0f}" height="{bottom + 12}" role="img"'
        ' aria-label="Timeline of the records">'
    ]
    shown = -100.0
    for time in scale.times:
        x = scale.x(time)
        if x - shown >= 64:
            out.append(f'<text class="dim" x="{x:.0f}" y="{_TOP - 6}">{time:.6f}</text>')
            shown = x
    for id, y in lanes.items():
        out.append(f'<line class="rule" x1="0" x2="{scale.width:.0f}" y1="{y}" y2="{y}"/>')
        label = f"id {id}" if id else "connection"
        out.append(f'<text x="6" y="{y + 27}">{label}</text>')
    for request in requests:
        if request.id in lanes:
            out += _waits(request, scale, lanes[request.id])
    used: dict[tuple[int, str, float], int] = defaultdict(int)
    marks = {reason: number for number, reason in enumerate(about.reasons)}
    for record in records:
        if record.direction == NOTE:
            number = marks.get(record.text)
            out.append(_mark(record, scale, bottom, number))
        elif record.id in lanes:
            place = record.id, record.direction, record.time
            out.append(_block(record, scale, lanes[record.id], used[place]))
            used[place] += 1
    out.append("</svg>")
    if len(lanes) == _MAX_LANES:
        out.append("<p>Further ids are not drawn.</p>")
    return "\n".join(out)


def _waits(request: _Request, scale: _Scale, y: int) -> Iterable[str]:
    for begin, end, what in request.waits:
        x = scale.x(begin)
        width = scale.x(end) - x
        title = f"{_WAITS[what]}: {_seconds(end - begin)}"
        yield (
            f'<rect class="w-{what}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}"'
            f' height="{_LANE - 6}"><title>{title}</title></rect>'
        )
        text = _seconds(end - begin)
        if width - scale.room_at(begin) > 7 * len(text):
            yield (
                f'<text class="dim" text-anchor="end" x="{x + width - 4:.1f}"'
                f' y="{y + 27}">{text}</text>'
            )


def _block(record: Record, scale: _Scale, y: int, number: int) -> str:
    css, letter = (
        _KINDS.get(RecordType(record.kind), ("begin", "?"))
        if record.name in (RecordType.__members__)
        else ("bad", "?")
    )
    x = scale.x(record.time) + number * _BLOCK
    width = max(_BLOCK - 2.0, scale.x(record.until) - x - 2)
    top = y + (5 if record.direction == IN else _LANE // 2 + 1)
    title = f"{record.time:.6f} {describe(record)}\n{_text(record)}".rstrip()
    return (
        f'<g><title>{escape(title)}</title><rect class="{css}" x="{x:.1f}" y="{top}"'
        f' width="{width:.1f}" height="{_LANE // 2 - 7}" rx="2"/>'
        f'<text class="letter" x="{x + 8:.1f}" y="{top + 12}">{letter}</text></g>'
    )


def _mark(record: Record, scale: _Scale, bottom: int, reason: int | None) -> str:
    """Draw a note.

    Args:
        record: the note.
        scale: where each moment is drawn.
        bottom: where the lanes end.
        reason: the number of the reason for the recording that it is; None if it is none.
    """
    x = scale.x(record.time)
    css = "note" if reason is None else "broke"
    y = _TOP if reason is None else 14 * (reason % 2 + 1)
    title = escape(f"{record.time:.6f} {record.text}")
    name = "" if reason is None else f' id="broke-{reason}"'
    line = (
        f'<g{name}><title>{title}</title><line class="{css}" x1="{x:.1f}" x2="{x:.1f}"'
        f' y1="{y}" y2="{bottom}"/></g>'
    )
    if reason is None:
        return line
    anchor, x = ("end", x - 4) if x > 400 else ("start", x + 4)
    text = f'<text class="bad" text-anchor="{anchor}" x="{x:.1f}" y="{y}">'
    return f"{line}{text}{escape(record.text[:100])}</text>"


def _key() -> str:
    parts = [(f"w-{what}", text) for what, text in _WAITS.items()]
    parts += [
        ("begin", "B BEGIN_REQUEST, E END_REQUEST"),
        ("params", "P PARAMS"),
        ("in", "I STDIN, D DATA"),
        ("out", "O STDOUT"),
        ("err", "X STDERR"),
        ("bad", "A ABORT_REQUEST, or no valid record"),
    ]
    items = "".join(
        f'<span><svg width="12" height="12"><rect class="{css}" width="12" height="12" rx="2"/>'
        f"</svg>{text}</span>"
        for css, text in parts
    )
    return f'<div class="key">{items}</div>'


def _request_row(request: _Request) -> str:
    cells = [_seconds(request.total(what)) if request.total(what) else "" for what in _WAITS]
    css = ' class="bad"' if not request.end.endswith("status 0") else ""
    return (
        f'<tr><td class="n">{request.id}</td><td class="n">{request.began:.6f}</td>'
        f'<td class="text">{escape(request.name)}</td><td{css}>{request.end}</td>'
        + "".join(f'<td class="n">{cell}</td>' for cell in cells)
        + "</tr>"
    )


def _record_row(record: Record) -> str:
    time = f'<tr><td class="n">{record.time:.6f}</td>'
    if record.direction == NOTE:
        return f'{time}<td></td><td colspan="2">{escape(record.text)}</td></tr>'
    return (
        f'{time}<td class="n">{record.direction}</td><td class="n">{escape(describe(record))}</td>'
        f'<td class="text">{escape(_text(record))}</td></tr>'
    )


def _text(record: Record) -> str:
    """Return the content of a record as text, cut after some hundred characters."""
    pairs = _pairs(record) if record.kind == RecordType.PARAMS else {}
    text = "; ".join(f"{name}={value}" for name, value in pairs.items())
    if not pairs and record.kind not in (RecordType.BEGIN_REQUEST, RecordType.END_REQUEST):
        text = record.content.decode("latin-1").replace("\r\n", "\n")
    text = "".join(each if each.isprintable() or each == "\n" else "·" for each in text)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.2f} ms"
