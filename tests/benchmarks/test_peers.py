"""The comparison with other servers runs, decides its targets, and draws its charts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.pages import DOCS, ROOT
from support.processes import unmeasured

pytestmark = pytest.mark.process

BENCHMARKS = ROOT / "benchmarks"
STORED = DOCS / "topics" / "performance" / "results.json"


def run(*words: str) -> str:
    """Run a command in the folder of the benchmarks, and return what it printed."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        timeout=50,
        env=unmeasured(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def compare(folder: Path, *words: str) -> Any:
    """Measure the servers of this environment with few requests, and return the results."""
    few = ["--here", "--more", "0", "--scale", "0.02", "--rounds", "1"]
    where = ["--output", str(folder), "--cache", str(folder / "cache")]
    peers = ["--peers", "vsgi_fcgi main,vsgi_fcgi thread"]
    run("peers.py", "run", *few, *where, *peers, "--routes", "straight", *words)
    return json.loads((folder / "results.json").read_text())


needs_two_cores = pytest.mark.skipif(
    (os.cpu_count() or 1) < 2, reason="the server and the load generator need a core each"
)


@needs_two_cores
def test_two_servers_are_compared_and_parts_are_added(tmp_path: Path) -> None:
    words = ("--only", "hello", "--placements", "pinned")
    found = compare(tmp_path, *words)
    rows = found["figures"]["hello/straight/pinned"]
    assert {"vsgi_fcgi main", "vsgi_fcgi thread"} <= rows.keys()
    for row in rows.values():
        assert row["rounds"] == [1]
        assert row["cpu_us"][0] > 0
        assert "error" not in row
    found = compare(tmp_path, "--add", *words)
    for row in found["figures"]["hello/straight/pinned"].values():
        assert row["rounds"] == [1, 2]
        assert len(row["cpu_us"]) == 2


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = ["--output", str(tmp_path), "--cache", str(tmp_path / "cache")]
    out = run("peers.py", "run", "--peers", "bjoern", "--rounds", "0", "--more", "0", *folder)
    assert "bjoern is not measured: not installed" in out
    assert json.loads((tmp_path / "results.json").read_text())["absent"]["bjoern"]


def test_a_statement_needs_enough_rounds() -> None:
    verdicts = [
        ([0.5, 0.6, 0.7, 0.75, 0.8], "met"),
        ([0.9, 0.95, 1.0, 1.1, 1.2], "**missed**"),
        ([0.5, 0.6, 0.7, 0.8, 0.9], "undecided (median: met)"),
        ([0.8, 0.84, 0.9, 0.95, 1.0], "undecided (median: missed)"),
        ([0.5, 0.5, 0.5, 0.5], "undecided (median: met)"),
        # One round of nine that was disturbed does not forbid a statement.
        ([0.5, 0.5, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 3.0], "met"),
    ]
    script = (
        "from suite.results import Results\n"
        "from suite.targets import Target\n"
        "from suite.workloads import Cell\n"
        "cell = Cell('hello', 'straight', 'pinned')\n"
        f"for ratios in {[ratios for ratios, _ in verdicts]}:\n"
        "    results = Results()\n"
        "    for number, ratio in enumerate(ratios):\n"
        "        for peer, cpu in (('one', ratio * 100), ('other', 100.0)):\n"
        "            figures = {'cpu_us': cpu, 'p50_us': 1, 'p99_us': 1, 'per_second': 1}\n"
        "            results.add(cell, peer, number, figures)\n"
        "    print(Target('', 0.85, (cell, 'one'), (cell, 'other')).verdict(results))\n"
    )
    assert run("-c", script).splitlines() == [verdict for _, verdict in verdicts]


def test_the_tables_of_the_page_belong_to_its_results(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from suite import report\n"
        "from suite.results import Results\n"
        "report.write(Results.load(Path(sys.argv[1])), Path(sys.argv[2]))\n"
    )
    run("-c", script, str(STORED), str(tmp_path))
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    stored = {path.name: path.read_text() for path in STORED.parent.glob("*.inc")}
    assert written == stored, "run: python benchmarks/peers.py report"


def test_charts(tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        message = "matplotlib is not installed: pip install 'vsgi-fcgi[test]'"
        if os.environ.get("REQUIRE_FRONT_ENDS") == "1":
            pytest.fail(f"{message}, and REQUIRE_FRONT_ENDS is 1")
        pytest.skip(message)
    run("-m", "suite.charts", str(STORED), str(tmp_path))
    rows = json.loads(STORED.read_text())["figures"]
    for name, cell in (("cpu", "hello/straight/pinned"), ("p99", "hello/nginx/pinned")):
        text = (tmp_path / f"{name}.svg").read_text()
        words = {node.text for node in ElementTree.fromstring(text).iter() if node.text}
        # An earlier version is compared in the table of goals only.
        drawn = {name for name, row in rows[cell].items() if "cpu_us" in row}
        assert {name for name in drawn if "(before)" not in name} <= words
        # The page decides the colour of text, for its light and for its dark scheme.
        assert "currentColor" in text
        assert not re.search(r"fill: #(?:000000|ffffff)", text)
