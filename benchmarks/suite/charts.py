"""Draw the charts of a run as SVG, for pages with a light or a dark background.

    cd benchmarks && python -m suite.charts RESULTS.json FOLDER

Text and axes have the colour of the text around the chart, and the bars have colours that can be
told from white and from black. matplotlib is only needed here.
"""

from __future__ import annotations

import re
import sys
from io import StringIO
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from suite.report import GLANCE, WHERE, number
from suite.results import Interval, Results
from suite.workloads import NGINX, PINNED, Cell

# Replaced by the colour of the text; no other part of a chart has this colour.
TEXT = "#010203"
# Both have a contrast of more than 3 to white and to furo's dark background.
OURS, OTHERS = "#2f80d0", "#8a8f98"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vsgi_fcgi",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
CHARTS: dict[str, tuple[str, str, list[tuple[str, Cell]]]] = {
    "cpu": (
        "cpu_us",
        "CPU time per request in µs (less is better)",
        [(title.partition(",")[0], cell) for title, cell in GLANCE],
    ),
    "p99": (
        "p99_us",
        "99th percentile of the response time in ms (less is better)",
        [
            ("hello, 8 connections", Cell("hello", NGINX, PINNED)),
            ("Flask, 8 connections", Cell("flask", NGINX, PINNED)),
            ("Django, 8 connections", Cell("django", NGINX, PINNED)),
            ("hello, while 2 requests compute 5 ms each", Cell("busy", NGINX, PINNED)),
        ],
    ),
}


def draw(results: Results, name: str) -> str:
    """Return one chart as SVG: a panel for each workload, its servers sorted."""
    metric, label, panels = CHARTS[name]
    found = []
    for title, cell in panels:
        peers = results.figures.get(str(cell), {})
        values = {peer: results.get(cell, peer, metric) for peer in peers}
        shown = [(peer, value) for peer, value in values.items() if value and "before" not in peer]
        if bars := sorted(shown, key=lambda bar: bar[1].median):
            found.append((f"{title}, {WHERE[cell.route]}", bars))
    heights = [len(bars) for _, bars in found]
    height = 0.215 * (sum(heights) + 3.2 * len(heights))
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        axes = figure.subplots(len(found), 1, gridspec_kw={"height_ratios": heights}, squeeze=False)
        for axis, (title, bars) in zip(axes[:, 0], found, strict=True):
            panel(axis, title, label, bars, 1000 if metric == "p99_us" else 1)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return themed(out.getvalue(), name, label)


def panel(
    axis: Axes, title: str, label: str, bars: list[tuple[str, Interval]], unit: float
) -> None:
    """Draw one workload: the best server is at the top."""
    names = [name for name, _ in bars]
    medians = [value.median / unit for _, value in bars]
    below = [(value.median - value.lowest) / unit for _, value in bars]
    above = [(value.highest - value.median) / unit for _, value in bars]
    colours = [OURS if name.startswith("vsgi_fcgi") else OTHERS for name in names]
    drawn = axis.barh(
        names,
        medians,
        color=colours,
        height=0.72,
        xerr=(below, above),
        error_kw={"ecolor": TEXT, "elinewidth": 0.8, "capsize": 2},
    )
    longest = max(value.highest / unit for _, value in bars)
    for bar, (_, value) in zip(drawn, bars, strict=True):
        axis.text(
            value.highest / unit + longest * 0.012,
            bar.get_y() + bar.get_height() / 2,
            number(value.median / unit),
            va="center",
            fontsize=8.5,
        )
    for tick in axis.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text().startswith("vsgi_fcgi") else "normal")
    axis.set_ylim(len(bars) - 0.45, -0.55)
    axis.set_xlim(0, longest * 1.09)
    axis.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    axis.set_xlabel(label, fontsize=8.5)
    axis.tick_params(axis="y", length=0)


def themed(svg: str, name: str, label: str) -> str:
    """Let the page choose the colour of text, and name the picture for screen readers."""
    svg = svg[svg.index("<svg") :].replace(TEXT, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    # Coordinates with two decimals make the file smaller by a third.
    svg = re.sub(r'"[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    # The picture is as wide as the text of the page.
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    # Two charts on one page must not share their ids.
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def write(results: Results, folder: Path) -> None:
    """Write all charts."""
    for name, (_, _, panels) in CHARTS.items():
        if any(str(cell) in results.figures for _, cell in panels):
            (folder / f"{name}.svg").write_text(draw(results, name))


if __name__ == "__main__":
    write(Results.load(Path(sys.argv[1])), Path(sys.argv[2]))
