"""Fuzz: ``cd tests && python -m fuzz all --seconds 60``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from fuzz.driver import (
    BrokenInvariant,
    Figures,
    Target,
    endless_is_an_error,
    run_atheris,
    run_plain,
)

FAILED = 3
"""The exit status if an invariant is broken."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", help="a target, live-server, live-processes, or all")
    parser.add_argument("--seconds", type=float, default=10, help="for each target (10)")
    parser.add_argument("--minutes", type=float, help="for all targets together, in place of it")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the mutations")
    parser.add_argument("--input", type=Path, help="run only the input in this file")
    parser.add_argument("--plain", action="store_true", help="do not use atheris")
    parser.add_argument(
        "--folder", type=Path, default=Path("../build/fuzz"), help="for failing inputs and corpora"
    )
    given = parser.parse_args()
    if given.target.startswith("live-"):
        return _run_live(given)
    guided = not given.plain and not given.input and given.target != "all" and _instrument()
    targets: dict[str, Target] = importlib.import_module("fuzz.targets").TARGETS
    if given.target == "all":
        return _run_all([*targets, "live-server", "live-processes"], given)
    if given.target not in targets:
        parser.error(f"{given.target}: write all, or one of {', '.join(targets)}")
    target = targets[given.target]
    figures = Figures()

    def wanted() -> bool:
        return time.monotonic() < figures.began + float(given.seconds)

    def report(broken: BrokenInvariant | None) -> int:
        if broken is None:
            driver = "atheris" if guided else "plain"
            sys.stdout.write(f"{target.name:<14} {driver}, seed {given.seed}: {figures}\n")
            return 0
        traceback.print_exception(broken.__cause__)
        given.folder.mkdir(parents=True, exist_ok=True)
        path = given.input or given.folder / f"{target.name}-{given.seed}.failed"
        path.write_bytes(broken.data)
        sys.stderr.write(
            f"{target.name}: an invariant is broken after {figures}\n"
            f"repeat it with: python -m fuzz {target.name} --input {path}\n"
        )
        return FAILED

    with endless_is_an_error(figures):
        try:
            if given.input:
                figures.execute(target, given.input.read_bytes())
            elif guided:
                folder = given.folder / target.name
                run_atheris(
                    target, given.seed, figures, wanted, folder, lambda error: _exit(report(error))
                )
            else:
                run_plain(target, given.seed, figures, wanted)
        except BrokenInvariant as error:
            return report(error)
    return report(None)


def _exit(status: int) -> NoReturn:
    """End the process without waiting for threads that the package has started."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _instrument() -> bool:
    """Import the package so that atheris sees its branches; return whether atheris is there."""
    try:
        import atheris
    except ImportError:
        return False
    # It writes a line for each module.
    with (
        contextlib.redirect_stderr(io.StringIO()),
        atheris.instrument_imports(include=["vsgi_fcgi"], enable_loader_override=False),
    ):
        importlib.import_module("fuzz.targets")
    return True


def _run_live(given: argparse.Namespace) -> int:
    """Drive running servers; what is left behind or logged is an error with a traceback."""
    os.environ["VSGI_FCGI_CHECK_CONTRACT"] = "1"
    live = importlib.import_module("fuzz.live")
    logger = logging.getLogger("vsgi_fcgi")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    began = steps = 0.0

    def wanted(count: int) -> bool:
        nonlocal began, steps
        # The servers need some time to start.
        began = began or time.monotonic()
        steps = count
        return time.monotonic() < began + float(given.seconds)

    with tempfile.TemporaryDirectory() as folder:
        try:
            counts = live.LIVE[given.target](Path(folder), given.seed, wanted)
        except BaseException:
            # The threads of the servers may still run.
            traceback.print_exc()
            sys.stderr.write(f"{given.target}: failed with --seed {given.seed}\n")
            return FAILED
    sys.stdout.write(f"{given.target:<14} seed {given.seed}: {steps} steps, {dict(counts)}\n")
    return 0


def _run_all(names: list[str], given: argparse.Namespace) -> int:
    """Run each target in a process of its own, as many at a time as there are cores."""
    cores = len(os.sched_getaffinity(0))
    seconds = given.seconds
    if given.minutes is not None:
        seconds = given.minutes * 60 * cores / len(names)

    def run(name: str) -> int:
        argv = [sys.executable, "-m", "fuzz", name, "--seconds", str(seconds)]
        argv += ["--seed", str(given.seed), "--folder", str(given.folder)]
        # libFuzzer writes many lines there, which matter only if it fails.
        done = subprocess.run(
            argv + ["--plain"] * given.plain, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            sys.stderr.write(f"{name} failed:\n{done.stderr}")
        return done.returncode

    with ThreadPoolExecutor(cores) as pool:
        # Each is negative if a signal has ended the process.
        return FAILED if any(list(pool.map(run, names))) else 0


if __name__ == "__main__":
    _exit(main())
