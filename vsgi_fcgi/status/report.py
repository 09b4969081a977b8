"""The report as plain data, which JSON can encode, and from which the pages are made."""

from __future__ import annotations

import time
from typing import Any

from vsgi_fcgi.status.counting import CLASSES, bucket_ends, quantile
from vsgi_fcgi.status.scoreboard import (
    COUNTERS,
    GAUGES,
    PAST,
    PERIOD,
    PERIODS,
    REFUSED,
    SERVING,
    SLOW,
    STATES,
    STUCK,
    Histogram,
    Period,
    Process,
    Running,
    Scoreboard,
    total,
)

_LAST_MINUTE = 60 // PERIOD
"""Number of complete periods in a minute."""

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def make_report(scoreboard: Scoreboard) -> dict[str, Any]:
    """Return what all processes do, and have done.

    Times of day are in seconds since 1970, and durations in seconds.
    """
    # Not at the beginning of this file: the server, which the package exports, uses this module.
    from vsgi_fcgi import __version__

    now, clock = time.time(), time.monotonic_ns()
    processes = scoreboard.read()
    everything = total([process for _, process in processes])
    counters = dict(zip(COUNTERS, everything.counters, strict=True))
    periods = _last_periods(everything, now)
    return {
        "version": __version__,
        "time": now,
        "serving": any(process.state == SERVING for _, process in processes),
        "processes": [
            _process(index, process, now, clock)
            for index, process in processes
            if process.state != PAST
        ],
        "requests": sorted(
            (
                _request(index, process, request, clock)
                for index, process in processes
                for request in process.requests
            ),
            key=lambda request: -request["run"],
        ),
        "now": {
            name: sum(process.gauges[number] for _, process in processes)
            for number, name in enumerate(GAUGES)
        },
        "responses": {name: counters[f"responses_{name}"] for name in CLASSES},
        "refused": {str(status): counters[f"refused_{status}"] for status in REFUSED},
        "totals": {
            name: number
            for name, number in counters.items()
            if not name.startswith(("responses_", "refused_"))
        },
        "queue_wait": _histogram(everything.queue_wait),
        "run_time": _histogram(everything.run_time),
        "bucket_ends": bucket_ends(),
        "last_minute": _sum(periods[-_LAST_MINUTE - 1 : -1]),
        "history": [_period(period) for period in periods],
    }


def _process(index: int, process: Process, now: float, clock: int) -> dict[str, Any]:
    return {
        "number": index,
        "pid": process.pid,
        "state": STATES[process.state],
        "uptime": round(max(now - process.started, 0), 1),
        "age": round(max(clock / 1e9 - process.updated, 0), 2),
        "cpu": round(process.cpu, 2),
        "requests": sum(process.counters[: len(CLASSES)]),
        **dict(zip(GAUGES, process.gauges, strict=True)),
    }


def _request(index: int, process: Process, request: Running, clock: int) -> dict[str, Any]:
    return {
        "id": f"{index}-{request.thread}",
        "process": process.pid,
        "thread": request.thread,
        "method": request.method,
        "target": request.target,
        "client": request.client,
        "queued": round(request.queued / 1e9, 3),
        "run": round(max(clock - request.began, 0) / 1e9, 3),
        "slow": bool(request.marks & SLOW),
        "stuck": bool(request.marks & STUCK),
        "stack": request.stack,
    }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": sum(histogram.counts),
        "total": round(histogram.total, 6),
        "counts": histogram.counts,
        **{name: _rounded(quantile(histogram.counts, share)) for name, share in _QUANTILES.items()},
    }


def _last_periods(everything: Process, now: float) -> list[Period]:
    """Return the periods of the last 15 minutes, also those in which nothing happened."""
    last = int(now) // PERIOD
    by_begin = {period.begin: period for period in everything.periods}
    return [by_begin.get(at) or Period(at) for at in range(last - PERIODS + 1, last + 1)]


def _period(period: Period) -> dict[str, Any]:
    return {
        "time": period.begin * PERIOD,
        "busy": period.busy,
        "queued": period.queued,
        **_sum([period]),
    }


def _sum(periods: list[Period]) -> dict[str, Any]:
    counts = [sum(numbers) for numbers in zip(*(period.run for period in periods), strict=True)]
    return {
        "requests": sum(period.requests for period in periods),
        "errors": sum(period.errors for period in periods),
        **{name: _rounded(quantile(counts, share)) for name, share in _QUANTILES.items()},
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
