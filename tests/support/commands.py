"""Run the command as a user runs it, with separate standard streams."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.fcgi.peer import Client
from support.processes import wait_until


@dataclass(frozen=True)
class Output:
    """What a process has left behind."""

    status: int
    out: str
    err: str


def run_command(folder: Path, *arguments: str) -> Output:
    """Run the command in a folder to its end."""
    run = subprocess.run(
        [sys.executable, "-m", "vsgi_fcgi", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    return Output(run.returncode, run.stdout, run.stderr)


def complaint(folder: Path, *arguments: str) -> str:
    """What the command says when it cannot start: one line on stderr, nothing else."""
    output = run_command(folder, *arguments)
    assert output.status == 2, output
    assert output.out == ""
    assert output.err.startswith("vsgi-fcgi: ")
    assert output.err.count("\n") == 1
    return output.err.removeprefix("vsgi-fcgi: ").rstrip("\n")


_SEVERAL = """
import json, sys
from vsgi_fcgi.cli import main

for line in json.loads(sys.argv[1]):
    status = main(line)
    assert status == 2, (line, status)
"""


def complaints(folder: Path, lines: Iterable[Sequence[str]]) -> list[str]:
    """What the command says to each of several command lines with which it cannot start.

    One process runs them all, because its start takes most of the time of each.
    """
    lines = list(lines)
    run = subprocess.run(
        [sys.executable, "-c", _SEVERAL, json.dumps(lines)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    said = run.stderr.splitlines()
    assert len(said) == len(lines), run.stderr
    assert all(line.startswith("vsgi-fcgi: ") for line in said), run.stderr
    return [line.removeprefix("vsgi-fcgi: ") for line in said]


def serve(folder: Path, *arguments: str, paths: Iterable[str] = ("/",)) -> Output:
    """Run the command in a folder, send it some requests one by one, and stop it."""
    path = folder / "app.sock"
    with subprocess.Popen(
        [sys.executable, "-m", "vsgi_fcgi", "-s", str(path), *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            # A socket's file is there a moment before anybody can connect.
            wait_until(lambda: _listens(path) or process.poll() is not None, "the server")
            if process.poll() is None:
                with Client(str(path)) as client:
                    for item in paths:
                        assert client.get(item).status in (200, 500)
                process.terminate()
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    return Output(process.returncode, out, err)


def _listens(path: Path) -> bool:
    with contextlib.suppress(OSError), Client(str(path)):
        return True
    return False
