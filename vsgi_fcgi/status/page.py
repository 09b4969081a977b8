"""The status as an HTML page. It needs no other file, and works without JavaScript."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from html import escape
from time import localtime, strftime
from typing import Any, Final
from urllib.parse import quote

from vsgi_fcgi.status.scoreboard import PERIOD

_STYLE: Final = """
:root { color-scheme: light dark; --text: #1b1f24; --dim: #59636e; --page: #fff; --line: #d1d9e0;
  --box: #f6f8fa; --one: #0969da; --two: #bc4c00; --bad: #cf222e; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --dim: #9198a1; --page: #0d1117;
  --line: #3d444d; --box: #151b23; --one: #4493f8; --two: #f0883e; --bad: #f85149;
  --good: #3fb950; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page);
  color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; } h2 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
p { margin: .3rem 0; } main > p:last-child { margin-top: 1rem; }
.dim { color: var(--dim); } .bad { color: var(--bad); font-weight: 600; }
.good { color: var(--good); font-weight: 600; }
.boxes { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.box { background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  padding: .4rem .7rem; } .box b { display: block; font-size: 1.25rem; }
.box span { color: var(--dim); font-size: .85rem; }
.charts { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
figure { margin: 0; background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  padding: .5rem .7rem; } figcaption { font-size: .85rem; display: flex; flex-wrap: wrap;
  gap: 0 .8rem; } figcaption span { font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: 5.5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; } th { color: var(--dim); font-weight: 500; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.path { white-space: normal; overflow-wrap: anywhere; min-width: 12rem;
  font-family: ui-monospace, monospace; font-size: .85rem; }
a { color: var(--one); } a.button { border: 1px solid var(--line); border-radius: 6px;
  padding: .1rem .5rem; text-decoration: none; background: var(--box); }
pre { overflow: auto; margin: 0; font-size: .85rem; } dialog { max-width: min(60rem, 95vw);
  color: var(--text); background: var(--page); border: 1px solid var(--line); border-radius: 6px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 0 1.5rem;
  margin: 0; } dl div { display: flex; justify-content: space-between; gap: 1rem;
  border-bottom: 1px solid var(--line); padding: .25rem 0; font-size: .92rem; }
dt { color: var(--dim); } dd { margin: 0; font-variant-numeric: tabular-nums; }
.one { color: var(--one); } .two { color: var(--two); } .red { color: var(--bad); }
@media (max-width: 40rem) { thead { position: absolute; left: -999rem; }
  .rows tr { display: block; border-bottom: 1px solid var(--line); padding: .3rem 0; }
  .rows td { display: flex; justify-content: space-between; gap: 1rem; border: 0;
    padding: .1rem 0; white-space: normal; text-align: right; }
  .rows td::before { content: attr(data-name); color: var(--dim); flex: none; }
  td.path { min-width: 0; } }
"""

_SCRIPT: Final = """
const box = document.querySelector("dialog"), text = box.querySelector("pre");
document.addEventListener("click", async event => {
  const link = event.target.closest("a.button");
  if (!link) return;
  event.preventDefault();
  text.textContent = await (await fetch(link.href)).text();
  box.showModal();
});
async function update() {
  const old = document.querySelector("main"), note = document.querySelector("#note");
  try {
    const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(),
      "text/html");
    const focused = document.activeElement?.id;
    old.replaceWith(document.adoptNode(page.querySelector("main")));
    if (focused) document.getElementById(focused)?.focus();
    note.textContent = "";
  } catch (error) {
    note.textContent = "The server does not answer. These are the last figures.";
  }
  setTimeout(update, 2000);
}
setTimeout(update, 2000);
"""


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_hash(_STYLE)}'; script-src 'sha256-{_hash(_SCRIPT)}';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: only its own style and script, and nothing else."""


def make_page(report: dict[str, Any], base: str) -> str:
    """Return the page of a report.

    Args:
        report: the report, with a part for each process.
        base: the path of the status, without a slash at its end.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<noscript><meta http-equiv="refresh" content="5"></noscript>
<title>vsgi_fcgi: status</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>vsgi_fcgi</h1>
<p id="note" class="bad" role="status"></p>
<main>
{_summary(report)}
{_charts(report["history"])}
{_requests(report["requests"], base)}
{_processes(report["processes"])}
{_totals(report)}
<p class="dim">The same as <a href="{escape(base)}/json">JSON</a>,
<a href="{escape(base)}/metrics">metrics</a> and
<a href="{escape(base)}/stacks">the stacks of all workers</a>.</p>
</main>
<dialog aria-label="stack"><form method="dialog"><pre></pre><p><button>close</button></p></form>
</dialog>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _summary(report: dict[str, Any]) -> str:
    now, totals, recent = report["now"], report["totals"], report["last_minute"]
    serving = report["serving"]
    state = '<b class="good">serving</b>' if serving else '<b class="bad">not serving</b>'
    boxes = [
        f'<div class="box">{state}<span>version {escape(report["version"])}</span></div>',
        _box(f"{recent['requests'] / 60:.1f}/s", "requests in the last minute"),
        _box(f"{now['busy']} of {now['threads']}", "workers are busy"),
        _box(f"{now['queued']}", "requests wait"),
        _box(f"{now['held']}", "requests are held"),
        _box(duration(recent["p95"]), "p95 of the run time in the last minute"),
        _box(
            f"{now['connections']}",
            f"connections: {now['idle_connections']} idle, {now['multiplexed_connections']}"
            " multiplexed",
        ),
        _box(f"{report['responses']['5xx']}", "responses with 5xx"),
        _box(f"{totals['slow']}", "slow requests"),
    ]
    moment = strftime("%Y-%m-%d %H:%M:%S", localtime(report["time"]))
    return f'<p class="dim">{moment}</p>\n<div class="boxes">{"".join(boxes)}</div>'


def _box(value: str, text: str) -> str:
    return f'<div class="box"><b>{escape(value)}</b><span>{escape(text)}</span></div>'


# Charts.

_WIDTH: Final = 270
_HEIGHT: Final = 80


def _charts(history: list[dict[str, Any]]) -> str:
    def of(name: str) -> list[float]:
        return [period[name] or 0 for period in history]

    rates = [number / PERIOD for number in of("requests")]
    errors = [number / PERIOD for number in of("errors")]
    return f"""<h2>The last 15 minutes</h2>
<div class="charts">
{_chart("requests per second", [("all", rates, "one"), ("5xx", errors, "bad")], _number)}
{_chart("run time", [("p50", of("p50"), "one"), ("p99", of("p99"), "two")], duration)}
{_chart("workers", [("busy", of("busy"), "one"), ("waiting", of("queued"), "two")], _number)}
</div>"""


def _chart(
    name: str,
    lines: Sequence[tuple[str, Sequence[float], str]],
    shown: Callable[[float], str],
) -> str:
    top = max((max(values) for _, values, _ in lines), default=0.0)
    parts, legend = [], []
    for label, values, colour in lines:
        step = _WIDTH / max(len(values) - 1, 1)
        points = " ".join(
            f"{number * step:.1f},{_HEIGHT - (value / top * (_HEIGHT - 4) if top else 0):.1f}"
            for number, value in enumerate(values)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="var(--{colour})" stroke-width="1.5"'
            ' vector-effect="non-scaling-stroke"/>'
        )
        kind = "red" if colour == "bad" else colour
        most = escape(shown(max(values)))
        legend.append(f'<span class="{kind}">{escape(label)}: at most {most}</span>')
    title = f"{name} in the last 15 minutes: " + ", ".join(
        f"{label} at most {shown(max(values))}" for label, values, _ in lines
    )
    return (
        f"<figure><figcaption><b>{escape(name)}</b>{''.join(legend)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg></figure>"
    )


# Tables.


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: set[int]) -> str:
    """Return a table. The cells are HTML. On a phone, each row is a list."""
    head = "".join(
        f"<th{' class=n' if number in numbers else ''}>{escape(column)}</th>"
        for number, column in enumerate(columns)
    )
    body = []
    for row in rows:
        cells = []
        for number, cell in enumerate(row):
            kind = " class=n" if number in numbers else ""
            if columns[number] == "path":
                kind = " class=path"
            cells.append(f'<td{kind} data-name="{escape(columns[number])}">{cell}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table class="rows"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _requests(requests: list[dict[str, Any]], base: str) -> str:
    title = f"<h2>Running requests: {len(requests)}</h2>"
    if not requests:
        return title + '<p class="dim">No request runs.</p>'
    columns = ("runs for", "waited", "method", "path", "client", "process", "")
    rows = []
    for request in requests:
        age = escape(duration(request["run"]))
        if request["slow"] or request["stuck"]:
            age = f'<span class="bad">{age}{" stuck" if request["stuck"] else " slow"}</span>'
        link = f"{base}/stack?id={quote(request['id'])}"
        rows.append(
            (
                age,
                escape(duration(request["queued"])),
                escape(request["method"]),
                escape(request["target"]),
                escape(request["client"]),
                str(request["process"]),
                f'<a class="button" id="r{escape(request["id"])}" href="{escape(link)}">stack</a>',
            )
        )
    return title + _table(columns, rows, {0, 1, 5})


def _processes(processes: list[dict[str, Any]]) -> str:
    columns = (
        "process",
        "state",
        "up for",
        "requests",
        "busy",
        "wait",
        "held",
        "connections",
        "memory",
        "CPU time",
        "updated",
    )
    rows = []
    for process in processes:
        state = escape(process["state"])
        if process["state"] != "serving":
            state = f'<span class="bad">{state}</span>'
        rows.append(
            (
                str(process["pid"]),
                state,
                escape(duration(process["uptime"])),
                _number(process["requests"]),
                f"{process['busy']} of {process['threads']}",
                str(process["queued"]),
                str(process["held"]),
                str(process["connections"]),
                escape(size(process["resident_bytes"])),
                escape(duration(process["cpu"])),
                f"{escape(duration(process['age']))} ago",
            )
        )
    return "<h2>Processes</h2>" + _table(columns, rows, {2, 3, 4, 5, 6, 7, 8, 9, 10})


def _totals(report: dict[str, Any]) -> str:
    totals = report["totals"]
    responses = ((f"responses {name}", _number(number)) for name, number in _named(report))
    refused = (
        (f"refused with {status}", _number(number)) for status, number in report["refused"].items()
    )
    rows = [
        *responses,
        *refused,
        ("given up by web servers", _number(totals["aborted"])),
        ("slow requests", _number(totals["slow"])),
        ("request timeouts", _number(totals["request_timeouts"])),
        ("queue timeouts", _number(totals["queue_timeouts"])),
        ("threads that were stuck", _number(totals["stuck_threads"])),
        ("processes that ended unexpectedly", _number(totals["worker_deaths"])),
        ("reloads", _number(totals["reloads"])),
        ("received", escape(size(totals["received_bytes"]))),
        ("sent", escape(size(totals["sent_bytes"]))),
        ("bodies and output in memory", escape(size(report["now"]["buffered_bytes"]))),
        ("bodies and output in files", escape(size(report["now"]["file_bytes"]))),
        *(
            (f"{text}, {name}", escape(duration(report[key][name])))
            for key, text in (("queue_wait", "wait for a worker"), ("run_time", "run time"))
            for name in ("p50", "p95", "p99")
        ),
    ]
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f"<h2>Since the start</h2><dl>{pairs}</dl>"


def _named(report: dict[str, Any]) -> list[tuple[str, int]]:
    return [(name, number) for name, number in report["responses"].items() if name != "none"]


# Values for people.


def duration(seconds: float | None) -> str:
    """Return a duration, such as ``1.2 s``."""
    if seconds is None:
        return "-"
    if not seconds:
        return "0"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = int(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"


def size(count: float) -> str:
    """Return a number of bytes, such as ``1.2 MiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        count /= 1024
    return f"{count:.3g} TiB"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
