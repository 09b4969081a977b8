"""Send requests of each kind by each way while parts fail: no answer may be wrong or lost.

    python benchmarks/soak.py MINUTES [--requests N] [--clients N] [--pause SECONDS] [--seed N]
                              [--svg FILE]

nginx, HAProxy, lighttpd, the relay and the client ask a server with two processes: small requests,
uploads, downloads, held long polls and their items, and streams of events. Every response contains
a digest of its content and of its request's number. Meanwhile the run aborts clients, kills, stops
and reloads processes, fills the disk for temporary files, takes all descriptors, and moves the
clock of the server and the relay. A full disk needs root, and the clock needs libfaketime.

The run ends after so many minutes, or earlier after so many requests. It ends with an error at the
first wrong response, and if an event, a descriptor, a process or a file is lost or left. It prints
the figures, and draws what it did and what the server did.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path
from statistics import median

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from support.chaos import Chaos, Report, run  # noqa: E402

NAMES = {
    "abort": "clients leave",
    "kill": "kill",
    "reload": "reload",
    "stop": "stop, continue",
    "disk": "full disk",
    "descriptors": "no descriptors",
    "move_clock": "clock moved",
}


def main() -> None:
    """Run, print the figures, and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("minutes", type=float)
    parser.add_argument("--requests", type=int, default=sys.maxsize)
    parser.add_argument("--clients", type=int, default=8, help="requests at a time by each way")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two actions")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--svg", type=Path, help="where the timeline is written")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes

    def go_on(chaos: Chaos, number: int) -> bool:
        time.sleep(options.pause)
        goal: int = options.requests
        return time.monotonic() < end and chaos.load.asked < goal

    # It is kept if the run fails, because the logs are in it.
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    report = run(folder, seed=options.seed, clients=options.clients, go_on=go_on, log=print)
    shutil.rmtree(folder)
    show(report)
    if options.svg is not None:
        options.svg.write_text(draw(report))


def show(report: Report) -> None:
    """Print the figures."""
    load = report.load
    for title, counts in (("", load.counts), ("kind ", load.kinds), ("way ", load.ways)):
        for name, count in sorted(counts.items()):
            print(f"{title}{name}: {count:,}")
    print(f"{report.published:,} events for each of {report.subscribers} subscribers")
    answered = [second.answered for second in load.seconds]
    print(f"requests per second: {median(answered):.0f} (median), {max(answered)} (most)")
    for action in sorted({each.name for each in report.chaos.done}):
        done = [each for each in report.chaos.done if each.name == action]
        failed = [count for each, count in report.chaos.failed_by() if each.name == action]
        most = f", failed requests: {sum(failed)}, at most {max(failed)} at once" if failed else ""
        print(f"{NAMES[action]}: {len(done)} times{most}")
    for name, (before, after) in report.memory().items():
        print(f"resident memory of {name}: {before / 2**20:.1f} MiB, then {after / 2**20:.1f} MiB")


def draw(report: Report) -> str:
    """Return the timeline as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from suite.charts import OTHERS, OURS, STYLE, themed

    seconds = report.load.seconds
    at = [second.at - report.began for second in seconds]
    memory = {name: [each / 2**20 for each in values] for name, values in report.resident().items()}
    curves: list[tuple[str, dict[str, list[float]]]] = [
        ("answers per second", {"": [float(second.answered) for second in seconds]}),
        ("p99 in ms", {"": [1000 * second.p99 for second in seconds]}),
        ("resident memory in MiB", memory),
        ("events per second", {"": [float(second.events) for second in seconds]}),
        ("failed per second", {"": [float(second.failed) for second in seconds]}),
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 7.6), layout="constrained")
        heights = [1.6, *[1.0] * len(curves)]
        axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
        done = [name for name in NAMES if any(each.name == name for each in report.chaos.done)]
        for row, name in enumerate(done):
            spans = [
                (each.began - report.began, max(0.3, each.ended - each.began))
                for each in report.chaos.done
                if each.name == name
            ]
            axes[0].broken_barh(spans, (row - 0.35, 0.7), color=OURS)
        axes[0].set_yticks(range(len(done)), [NAMES[name] for name in done], fontsize=8.5)
        axes[0].set_ylim(len(done) - 0.4, -0.6)
        for axis, (title, lines) in zip(axes[1:], curves, strict=True):
            for number, (name, values) in enumerate(lines.items()):
                axis.plot(at, values, color=(OURS, OTHERS)[number > 0], linewidth=1.2)
                if name:
                    axis.annotate(name, (at[-1], values[-1]), fontsize=7.5, ha="right", va="bottom")
            axis.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
            axis.set_ylim(bottom=0)
        axes[-1].set_xlabel("seconds", fontsize=8.5)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return themed(out.getvalue(), "soak", "What the run did, and what the server did")


if __name__ == "__main__":
    main()
