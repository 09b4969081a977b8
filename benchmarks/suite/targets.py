"""Which ratios the server must reach, and whether a run shows that it does."""

from __future__ import annotations

from dataclasses import dataclass

from suite.results import Interval, Results
from suite.workloads import FREE, NGINX, PINNED, STRAIGHT, Cell

Row = tuple[Cell, str]
OURS = "vsgi_fcgi main", "vsgi_fcgi thread"


@dataclass(frozen=True)
class Target:
    """A ratio of CPU time per request that must not be exceeded.

    Attributes:
        text: the comparison in words.
        limit: the highest ratio.
        one: the measured row.
        other: the row that it is compared with.
    """

    text: str
    limit: float
    one: Row
    other: Row

    def ratio(self, results: Results) -> Interval | None:
        """Return the measured ratio, or None if a row was not measured."""
        return results.ratio(self.one, self.other)

    def verdict(self, results: Results) -> str:
        """Return whether the target is met, as far as the noise allows a statement."""
        ratio = self.ratio(results)
        if ratio is None:
            return "not measured"
        if ratio.high <= self.limit:
            return "met"
        if ratio.low > self.limit:
            return "**missed**"
        median = "met" if ratio.median <= self.limit else "missed"
        return f"undecided (median: {median})"


def targets() -> list[Target]:
    """Return all targets."""
    main, thread = OURS
    uwsgi, threads = "uWSGI FastCGI", "uWSGI FastCGI threads"
    found: list[Target] = []

    def add(
        what: str,
        workload: str,
        ours: str,
        limit: float,
        theirs: str,
        route: str = STRAIGHT,
        placement: str = PINNED,
    ) -> None:
        cell = Cell(workload, route, placement)
        text = f"{what}: {ours.removeprefix('vsgi_fcgi ')}, compared with {theirs}"
        found.append(Target(text, limit, (cell, ours), (cell, theirs)))

    add("hello", "hello", main, 0.85, uwsgi)
    add("hello", "hello", thread, 1.1, threads)
    add("hello, no keep-alive", "close", main, 1.3, uwsgi)
    add("hello, not pinned", "hello", thread, 1.4, threads, placement=FREE)
    add("Flask", "flask", main, 0.9, uwsgi)
    add("Flask", "flask", thread, 0.95, uwsgi)
    add("hello behind nginx", "hello", main, 0.75, "granian", NGINX)
    add("hello behind nginx", "hello", thread, 1.0, "granian", NGINX)
    add("Flask behind nginx", "flask", main, 1.0, "bjoern", NGINX)
    add("Flask behind nginx", "flask", main, 1.0, "uWSGI", NGINX)
    add("Flask behind nginx", "flask", thread, 1.0, "granian", NGINX)
    for workload, what in (
        ("body", "100 KB response"),
        ("upload", "1 MB upload"),
        ("stream", "10 MB stream"),
    ):
        add(what, workload, main, 1.2, uwsgi)
        add(what, workload, thread, 1.2, uwsgi)
    add("64 in flight, 50 ms sleep", "sleep", thread, 1.0, threads)
    for ours in (main, thread):
        found.append(
            Target(
                f"64 multiplexed: {ours.removeprefix('vsgi_fcgi ')}, compared with 64 connections",
                0.7,
                (Cell("multiplexed", STRAIGHT, PINNED), ours),
                (Cell("many", STRAIGHT, PINNED), ours),
            )
        )
    for workload, what in (("hello", "hello"), ("flask", "Flask")):
        for ours, limit in ((main, 0.85), (thread, 1.0)):
            add(what, workload, f"{ours} (pure)", limit, f"{ours} (before)")
    return found


def replaced(target: Target, results: Results) -> Target:
    """Return the target with the pure rows where the compiled ones are absent."""

    def row(cell: Cell, peer: str) -> Row:
        absent = peer in OURS and peer in results.absent
        return cell, f"{peer} (pure)" if absent else peer

    return Target(target.text, target.limit, row(*target.one), row(*target.other))


def undecided(results: Results) -> list[Row]:
    """Return the rows that must be measured again before a statement is possible."""
    rows: dict[Row, None] = {}
    for target in targets():
        target = replaced(target, results)
        if target.verdict(results).startswith("undecided"):
            rows |= {target.one: None, target.other: None}
    return list(rows)
