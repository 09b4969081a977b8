"""Compare vsgi_fcgi with other servers: install them, measure all in interleaved rounds, report.

    python benchmarks/peers.py                          install, run, and write the documentation
    python benchmarks/peers.py run --only flask,hello   some workloads
    python benchmarks/peers.py run --add --rounds 2     more rounds for the results that are there
    python benchmarks/peers.py report                   tables and charts from the stored results

Needs Python 3.11, nginx, two cores, and a package index; for some servers a C compiler, libev-dev,
libfcgi-dev or Go. What is missing is named in the results.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

from servers import HERE
from suite import front, report
from suite.environment import ROOT, Environment, default_cache, machine, say
from suite.peers import PEERS, Peer
from suite.results import Results
from suite.rounds import Job, estimate, run_rounds, select
from suite.targets import undecided
from suite.workloads import NGINX, WORKLOADS, Workload, cells

STEPS = ("install", "run", "report")


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)} (all)")
    parser.add_argument("--only", default="", help="workloads, separated by commas")
    parser.add_argument("--peers", default="", help="names of servers, or parts of them")
    parser.add_argument("--routes", default="straight,nginx")
    parser.add_argument("--placements", default="pinned,free")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--more", type=int, default=6, help="further rounds for targets that noise leaves undecided"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the request counts")
    parser.add_argument("--add", action="store_true", help="keep the stored results")
    parser.add_argument("--before", help="a commit of this repository to compare with")
    parser.add_argument("--here", action="store_true", help="use this interpreter; install nothing")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "topics" / "performance", help="folder"
    )
    options = parser.parse_args()
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"unknown step: {', '.join(unknown)}")
    return options


def chosen_peers(words: str) -> list[Peer]:
    """Return the peers whose names contain one of the words, or all."""
    parts = [word.strip().lower() for word in words.split(",") if word.strip()]
    return [peer for peer in PEERS if not parts or any(p in peer.name.lower() for p in parts)]


def chosen_workloads(words: str) -> list[Workload]:
    """Return the workloads with these names, or all.

    Raises:
        SystemExit: if there is no such workload.
    """
    names = [word.strip() for word in words.split(",") if word.strip()]
    known = [workload.name for workload in WORKLOADS]
    if unknown := set(names) - set(known):
        raise SystemExit(f"--only: unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return [workload for workload in WORKLOADS if not names or workload.name in names]


def plan(options: argparse.Namespace, peers: list[Peer]) -> list[Job]:
    """Return what one round measures."""
    routes = options.routes.split(",")
    if NGINX in routes and not front.version():
        say("nginx is not installed, so nothing is measured behind it")
        routes.remove(NGINX)
    return [
        Job(cell, peer, options.scale)
        for workload in chosen_workloads(options.only)
        for cell in cells(workload)
        if cell.route in routes and cell.placement in options.placements.split(",")
        for peer in peers
        if workload.suits(peer, cell.route)
    ]


def run(options: argparse.Namespace, env: Environment, path: Path) -> None:
    """Measure, until the targets are decided or the rounds are used up."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load generator")
    peers = chosen_peers(options.peers)
    env.inspect(peers)
    results = Results.load(path) if options.add and path.exists() else Results()
    results.machine, results.versions = machine(), results.versions | env.versions
    results.began = results.began or time.strftime("%Y-%m-%d %H:%M")
    present = []
    for peer in peers:
        if reason := env.why_absent(peer):
            results.absent[peer.name] = reason
            say(f"{peer.name} is not measured: {reason}")
        else:
            results.absent.pop(peer.name, None)
            results.commands[peer.name] = env.shown(peer)
            results.notes[peer.name] = peer.note
            present.append(peer)
    order = [peer.name for peer in PEERS]
    results.commands = dict(sorted(results.commands.items(), key=lambda item: order.index(item[0])))
    results.save(path)
    jobs = plan(options, present)
    seconds = estimate(jobs) * options.rounds
    say(f"{len(jobs)} measurements in each of {options.rounds} rounds: {seconds / 60:.0f} minutes")
    run_rounds(options.rounds, jobs, env, results, lambda: results.save(path))
    for _ in range(options.more):
        again = select(jobs, undecided(results))
        if not again:
            break
        say(f"{len(again)} measurements again, because noise leaves targets undecided")
        run_rounds(1, again, env, results, lambda: results.save(path))


def write_report(options: argparse.Namespace, env: Environment, path: Path) -> None:
    """Print the tables, and write them and the charts."""
    results = Results.load(path)
    for part in ("about", "glance", "targets"):
        say(report.PARTS[part](results))
    report.write(results, options.output)
    command = [str(env.python("charts")), "-m", "suite.charts"]
    command += [str(path.resolve()), str(options.output.resolve())]
    if subprocess.run(command, cwd=HERE, check=False).returncode:
        raise SystemExit("the charts were not drawn")
    say(f"tables and charts: {options.output}")


def main() -> None:
    """Do the steps of the command line."""
    options = parse()
    steps = options.steps or STEPS
    env = Environment(options.cache, options.here)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "results.json"
    # A signal that stops this process stops the servers and nginx, too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # A thousand idle connections need a descriptor each, in the generator and in the server.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    if "install" in steps and not options.here:
        env.install(chosen_peers(options.peers), options.before)
    if "run" in steps:
        run(options, env, path)
    if "report" in steps:
        write_report(options, env, path)


if __name__ == "__main__":
    main()
