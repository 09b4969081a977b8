"""Write the tables: Markdown for the terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from suite.results import Interval, Results
from suite.targets import OURS, replaced, targets
from suite.workloads import BY_NAME, FREE, NGINX, PINNED, STRAIGHT, WORKLOADS, Cell, cells

# The columns of the table that compares servers at a glance.
GLANCE = [
    ("hello", Cell("hello", STRAIGHT, PINNED)),
    ("Flask", Cell("flask", STRAIGHT, PINNED)),
    ("hello, nginx", Cell("hello", NGINX, PINNED)),
    ("Flask, nginx", Cell("flask", NGINX, PINNED)),
    ("Django, nginx", Cell("django", NGINX, PINNED)),
]
WHERE = {STRAIGHT: "straight FastCGI", NGINX: "behind nginx"}
AT = {PINNED: "server on one core", FREE: "not pinned"}


def number(value: float) -> str:
    """Write a figure with three digits."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def rows(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    head = list(head)
    table = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in table) + "\n"


def servers(results: Results) -> list[str]:
    """Return the names of all servers, in the order of the list of peers."""
    return list(results.commands)


def glance(results: Results) -> str:
    """Return the medians of the most important workloads."""
    lines = []
    for name in servers(results):
        found = [results.get(cell, name, "cpu_us") for _, cell in GLANCE]
        if any(found) and "before" not in name:
            strong = f"**{name}**" if name.startswith("vsgi_fcgi") else name
            lines.append([strong, *(number(item.median) if item else "-" for item in found)])
    return rows(["server", *(title for title, _ in GLANCE)], lines)


def verdicts(results: Results) -> str:
    """Return the targets, and whether they are met."""
    lines = []
    for target in (replaced(target, results) for target in targets()):
        ratio = target.ratio(results)
        figures = (
            [f"{ratio.median:.2f}", f"{ratio.lowest:.2f}-{ratio.highest:.2f}"]
            if ratio
            else ["-", "-"]
        )
        lines.append([target.text, f"{target.limit:.2f}", *figures, target.verdict(results)])
    return rows(["CPU per request", "target", "ratio", "min-max", "result"], lines)


def everything(results: Results) -> str:
    """Return a table for each workload, route and placement, sorted by CPU time."""
    parts = []
    for workload in WORKLOADS:
        for cell in cells(workload):
            if table := one_cell(results, cell):
                title = f"{workload.title}: {WHERE[cell.route]}, {AT[cell.placement]}"
                parts.append(f"## {title[0].upper()}{title[1:]}\n\n{table}")
    return "\n".join(parts)


def one_cell(results: Results, cell: Cell) -> str:
    """Return the table of a cell, or "" if nothing was measured."""
    found: list[tuple[float, list[str]]] = []
    busy = BY_NAME[cell.workload].busy
    for name in results.figures.get(str(cell), {}):
        cpu = results.get(cell, name, "cpu_us")
        p50, p99 = (results.get(cell, name, metric) for metric in ("p50_us", "p99_us"))
        speed = results.get(cell, name, "per_second")
        if cpu and p50 and p99 and speed:
            # With other requests that compute, the CPU time says nothing about hello world.
            key, first = (p99.median, ["-", "-"]) if busy else (cpu.median, spread(cpu))
            line = [name, *first, *map(number, (p50.median, p99.median)), spread(p99)[1]]
            found.append((key, [*line, number(speed.median)]))
        if error := results.error(cell, name):
            found.append((float("inf"), [name, f"failed: {error}", *["-"] * 5]))
    head = ["server", "CPU us", "min-max", "p50 us", "p99 us", "min-max", "req/s"]
    return rows(head, [line for _, line in sorted(found)]) if found else ""


def spread(value: Interval) -> list[str]:
    """Return the median, and the lowest and highest value."""
    return [number(value.median), f"{number(value.lowest)}-{number(value.highest)}"]


def about(results: Results) -> str:
    """Return the machine, the versions, and how much the rounds differ."""
    middle, worst = results.spread()
    noise = (
        f"The values of a row differ by {middle:.0%} between rounds (median of all rows), and by "
        f"{worst:.0%} in the worst tenth of the rows."
    )
    versions = [f"{name} {version}" for name, version in results.versions.items()]
    lines = [f"{key}: {value}" for key, value in results.machine.items()]
    lines += [f"began: {results.began}", f"rounds: {results.rounds}"]
    text = "".join(f"* {line}\n" for line in lines)
    return f"{text}* versions: {', '.join(versions)}\n\n{noise}\n"


def command_lines(results: Results) -> str:
    """Return the command line of each server, and why others are absent."""
    text = ""
    for name, command in results.commands.items():
        note = results.notes.get(name, "")
        text += f"* {name}{f' ({note})' if note else ''}: `{command}`\n"
    absent = [f"* {name}: {reason}\n" for name, reason in results.absent.items()]
    return text + ("\nNot measured:\n\n" + "".join(absent) if absent else "")


def compiled_note(results: Results) -> str:
    """Return a sentence for the case that the compiled rows are absent."""
    if not any(name in results.absent for name in OURS):
        return ""
    return "The compiled package was not measured, so the targets use the pure one.\n\n"


PARTS: dict[str, Callable[[Results], str]] = {
    "glance": glance,
    "targets": lambda results: compiled_note(results) + verdicts(results),
    "all": everything,
    "about": about,
    "commands": command_lines,
}


def write(results: Results, folder: Path) -> None:
    """Write all parts for the documentation, which includes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        (folder / f"{name}.inc").write_text(part(results))
