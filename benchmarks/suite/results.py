"""The figures of all rounds: kept as JSON, with medians, and ratios inside a round."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import comb, inf
from pathlib import Path
from statistics import median
from typing import Any

from suite.workloads import Cell

METRICS = ("cpu_us", "p50_us", "p99_us", "per_second")
Figures = dict[str, Any]


@dataclass
class Interval:
    """A median with the range of the values, and the range that the median is in.

    Attributes:
        median: the median.
        lowest: the lowest value.
        highest: the highest value.
        low: the lower end of the interval that contains the true median in 93 of 100 cases,
            unlimited with fewer than five values.
        high: its upper end.
    """

    median: float
    lowest: float
    highest: float
    low: float
    high: float


def interval(values: list[float]) -> Interval:
    """Return the median of some values, and how certain it is.

    The interval comes from the order of the values alone, so it assumes nothing about the noise.
    With five values it goes from the lowest to the highest.
    """
    values = sorted(values)
    count, skip = len(values), 0
    while sum(comb(count, k) for k in range(skip + 2)) * 2 / 2**count <= 0.071:
        skip += 1
    certain = (values[skip], values[-1 - skip]) if count >= 5 else (0.0, inf)
    return Interval(median(values), values[0], values[-1], *certain)


@dataclass
class Results:
    """Everything that a run has found.

    Attributes:
        machine: what it ran on.
        versions: the versions of all parts.
        commands: the command line of each server.
        notes: what a reader of a server's figures must know.
        absent: why a server was not measured.
        began: when the first round began.
        rounds: how many rounds there were.
        figures: for each cell and server the values of its rounds.
    """

    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    began: str = ""
    rounds: int = 0
    figures: dict[str, dict[str, Figures]] = field(default_factory=dict)

    def add(self, cell: Cell, peer: str, number: int, figures: dict[str, float]) -> None:
        """Store the figures of one measurement."""
        row = self._row(cell, peer)
        row.setdefault("rounds", []).append(number)
        for name in METRICS:
            row.setdefault(name, []).append(float(f"{figures[name]:.4g}"))

    def fail(self, cell: Cell, peer: str, reason: str) -> None:
        """Store why a measurement failed."""
        row = self._row(cell, peer)
        row["error"] = reason
        row["failures"] = row.get("failures", 0) + 1

    def hopeless(self, cell: Cell, peer: str) -> bool:
        """Return whether a measurement has failed twice and never succeeded."""
        row = self._row(cell, peer)
        return row.get("failures", 0) > 1 and "cpu_us" not in row

    def _row(self, cell: Cell, peer: str) -> Figures:
        return self.figures.setdefault(str(cell), {}).setdefault(peer, {})

    def get(self, cell: Cell, peer: str, metric: str) -> Interval | None:
        """Return a figure of a server, or None if it was not measured."""
        values = self.figures.get(str(cell), {}).get(peer, {}).get(metric)
        return interval(values) if values else None

    def error(self, cell: Cell, peer: str) -> str:
        """Return why a server's last measurement failed, or ""."""
        reason: str = self.figures.get(str(cell), {}).get(peer, {}).get("error", "")
        return reason

    def ratio(self, one: tuple[Cell, str], other: tuple[Cell, str]) -> Interval | None:
        """Return the ratio of CPU time per request, from rounds in which both were measured."""
        found = []
        for cell, peer in (one, other):
            row = self.figures.get(str(cell), {}).get(peer, {})
            found.append(dict(zip(row.get("rounds", []), row.get("cpu_us", []), strict=True)))
        shared = found[0].keys() & found[1].keys()
        return interval([found[0][n] / found[1][n] for n in shared]) if shared else None

    def spread(self) -> tuple[float, float]:
        """Return by how much rounds differ: the median and the worst tenth, as shares."""
        shares = sorted(
            (max(row["cpu_us"]) - min(row["cpu_us"])) / median(row["cpu_us"])
            for peers in self.figures.values()
            for row in peers.values()
            if len(row.get("cpu_us", [])) > 1
        )
        return (median(shares), shares[len(shares) * 9 // 10]) if shares else (0.0, 0.0)

    def save(self, path: Path) -> None:
        """Write everything as JSON, one line for each server and cell."""
        parts = asdict(self)
        figures = parts.pop("figures")
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in parts.items()]
        cells = []
        for cell, peers in figures.items():
            rows = ",\n".join(f"   {json.dumps(n)}: {json.dumps(row)}" for n, row in peers.items())
            cells.append(f"  {json.dumps(cell)}: {{\n{rows}\n  }}")
        lines.append(' "figures": {\n' + ",\n".join(cells) + "\n }")
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` has written."""
        return cls(**json.loads(path.read_text()))
