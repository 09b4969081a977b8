"""The report in the OpenMetrics format, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

_HELP = {
    "threads": "worker threads",
    "busy": "requests that run",
    "queued": "requests that wait for a worker",
    "held": "requests that are held (--push)",
    "connections": "open connections of web servers",
    "idle_connections": "open connections without a request",
    "multiplexed_connections": "open connections with several requests",
    "resident_bytes": "memory of the processes",
    "buffered_bytes": "bodies and unsent output in memory",
    "file_bytes": "bodies and unsent output in temporary files",
    "received_bytes": "bytes of request bodies",
    "sent_bytes": "bytes of responses",
    "aborted": "requests that web servers gave up",
    "slow": "requests that ran longer than slow_request",
    "request_timeouts": "requests that ran longer than request_timeout",
    "queue_timeouts": "requests that waited longer than queue_timeout",
    "stuck_threads": "threads that were replaced because they were stuck",
    "worker_deaths": "processes that ended unexpectedly",
    "reloads": "reloads",
}


class _Report(Collector):
    def __init__(self, report: dict[str, Any]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report = self._report
        processes = GaugeMetricFamily("vsgi_fcgi_processes", "processes", labels=["state"])
        states = [process["state"] for process in report["processes"]]
        for state in sorted(set(states)):
            processes.add_metric([state], states.count(state))
        yield processes
        for name, value in report["now"].items():
            yield GaugeMetricFamily(f"vsgi_fcgi_{name}", _HELP[name], value)
        responses = CounterMetricFamily(
            "vsgi_fcgi_responses", "requests that ran, by the class of the status", labels=["class"]
        )
        for name, value in report["responses"].items():
            responses.add_metric([name], value)
        yield responses
        refused = CounterMetricFamily(
            "vsgi_fcgi_refused", "requests that reached a limit, by the status", labels=["status"]
        )
        for status, value in report["refused"].items():
            refused.add_metric([status], value)
        yield refused
        for name, value in report["totals"].items():
            yield CounterMetricFamily(f"vsgi_fcgi_{name}", _HELP[name], value)
        for name, text in (
            ("queue_wait", "time that requests waited for a worker"),
            ("run_time", "time that the app ran"),
        ):
            counts = accumulate(report[name]["counts"])
            ends = [*(f"{end:g}" for end in report["bucket_ends"]), "+Inf"]
            buckets = list(zip(ends, counts, strict=True))
            total = report[name]["total"]
            yield HistogramMetricFamily(f"vsgi_fcgi_{name}_seconds", text, buckets, total)


def make_metrics(report: dict[str, Any]) -> str:
    """Return the metrics of a report as text."""
    registry = CollectorRegistry()
    registry.register(_Report(report))
    data: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return data.decode()
