"""``vsgi-fcgi status`` and ``stacks``: what a running server does, in a terminal."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from vsgi_fcgi.addresses import InetAddress, UnixAddress, parse_bind
from vsgi_fcgi.cli.settings.command_line import PROGRAM, CommandLine, parse
from vsgi_fcgi.cli.settings.resolve import resolve
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.log.handlers import escape_controls
from vsgi_fcgi.settings import setting
from vsgi_fcgi.status.page import duration, size
from vsgi_fcgi.wsgi.environ import printable

_TIMEOUT = 10.0
"""Seconds in which the server must respond."""

_INTERVAL = 2.0
"""Seconds between two updates with ``--watch``."""


@dataclass(frozen=True, kw_only=True)
class StacksOptions:
    """Options of both commands."""

    status_address: str | None = setting(
        None,
        "HOST:PORT or unix:PATH of the server's --status-bind",
        group="app",
        metavar="ADDRESS",
        default_text="the one in the environment or the configuration file",
    )


@dataclass(frozen=True, kw_only=True)
class StatusOptions(StacksOptions):
    """Options of ``status``."""

    json: bool = setting(False, "print the data as JSON", group="status")
    watch: bool = setting(False, "update the output every two seconds", group="status")


def status(line: CommandLine) -> int:
    """Print what a server does, and return the exit status: 0 if it serves."""
    options = resolve(line, os.environ).options
    address = _address(options, line)
    if not options.watch:
        text, report = _get_report(address)
        width = shutil.get_terminal_size().columns
        lines = _lines(report, width, sys.stdout.isatty())
        sys.stdout.write(text if options.json else "\n".join(lines) + "\n")
        return 0 if report["serving"] else 1
    try:
        _show(*_get_report(address), options.json)
        while True:
            time.sleep(_INTERVAL)
            try:
                text, report = _get_report(address)
            except UsageError as error:
                # The server may be restarting.
                _complain(f"{error}; trying again", options.json)
            else:
                _show(text, report, options.json)
    except KeyboardInterrupt:
        return 0


def _show(text: str, report: dict[str, Any], as_json: bool) -> None:
    """Replace the content of the terminal by a report, or append to the output."""
    if not as_json:
        is_terminal = sys.stdout.isatty()
        columns, rows = shutil.get_terminal_size()
        lines = _lines(report, columns, is_terminal)
        # The cursor is in the last row, and more lines would move the first ones away.
        if is_terminal and len(lines) > rows - 1 > 0:
            lines[rows - 2 :] = [f"… and {len(lines) - rows + 2} more lines"]
        text = "\n".join(lines) + "\n"
    _replace(text)


def _complain(problem: str, as_json: bool) -> None:
    """Show why there is no report, but not where a program expects JSON."""
    if as_json:
        sys.stderr.write(f"{PROGRAM}: {problem}\n")
    else:
        _replace(f"{problem}\n")


def _replace(text: str) -> None:
    # The cursor goes to the upper left corner, and the rest of the screen is cleared.
    sys.stdout.write("\x1b[H\x1b[J" + text if sys.stdout.isatty() else text)
    sys.stdout.flush()


def stacks(line: CommandLine) -> int:
    """Print the stacks of a server's workers."""
    options = resolve(line, os.environ).options
    text = _get(_address(options, line), "/stacks")
    sys.stdout.write("\n".join(map(escape_controls, text.split("\n"))))
    return 0


def _address(options: StacksOptions, line: CommandLine) -> InetAddress | UnixAddress:
    text = options.status_address
    if text is None:
        words = [] if line.config is None else ["--config", line.config]
        found = resolve(parse(words), os.environ).options.status_bind
        if not found:
            raise UsageError(
                "ADDRESS is missing; name the address of the server's --status-bind, as in"
                f" {PROGRAM} status 127.0.0.1:9100"
            )
        text = found[0]
    address = parse_bind(text)
    if not isinstance(address, (InetAddress, UnixAddress)):
        raise UsageError(f"{text} is not the address of a status; write HOST:PORT or unix:PATH")
    return address


def _get_report(address: InetAddress | UnixAddress) -> tuple[str, dict[str, Any]]:
    """Return the report of a server, as the text of a JSON document and as its content.

    Raises:
        UsageError: the server does not respond, or is another one.
    """
    text = _get(address, "/json")
    try:
        report = json.loads(text)
        _ = report["serving"]
    except (ValueError, TypeError, KeyError):
        raise UsageError(
            f"{address}: the response is not a status; name the address of the server's"
            " --status-bind"
        ) from None
    return text, report


def _get(address: InetAddress | UnixAddress, path: str) -> str:
    """Return the body of a response of the status.

    Raises:
        UsageError: the server does not respond.
    """
    try:
        if isinstance(address, UnixAddress):
            connection = HTTPConnection("localhost", timeout=_TIMEOUT)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(_TIMEOUT)
            connection.sock.connect(address.path)
        else:
            connection = HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        connection.close()
    except (OSError, HTTPException) as error:
        raise UsageError(
            f"{address}: the status cannot be read: {error or 'no response'};"
            " check the server's --status-bind"
        ) from error
    if response.status != 200:
        raise UsageError(f"{address}: the response is {response.status} {response.reason}")
    return text


def _lines(report: dict[str, Any], width: int, colours: bool) -> list[str]:
    """Return the lines of a report, none of which is wider than the terminal."""
    now, recent, totals = report["now"], report["last_minute"], report["totals"]
    state = "serving" if report["serving"] else "not serving"
    lines = [
        f"vsgi_fcgi {report['version']} is {state}: {recent['requests'] / 60:.1f} requests/s, "
        f"p95 {duration(recent['p95'])}",
        f"workers busy: {now['busy']} of {now['threads']}; requests waiting: {now['queued']}, "
        f"held: {now['held']}; connections: {now['connections']} "
        f"({now['idle_connections']} idle)",
        f"5xx {report['responses']['5xx']}, slow {totals['slow']}, "
        f"timeouts {totals['request_timeouts'] + totals['queue_timeouts']}, "
        f"refused {sum(report['refused'].values())}, given up {totals['aborted']}",
        "",
    ]
    bold = {len(lines)}
    rows: list[tuple[str, ...]] = [
        (
            str(each["pid"]),
            each["state"],
            duration(each["uptime"]),
            str(each["requests"]),
            f"{each['busy']}/{each['threads']}",
            str(each["queued"]),
            str(each["held"]),
            size(each["resident_bytes"]),
            duration(each["cpu"]),
        )
        for each in report["processes"]
    ]
    names = ("PROCESS", "STATE", "UP", "REQUESTS", "BUSY", "WAIT", "HELD", "MEMORY", "CPU")
    lines += _columns([names, *rows])
    if report["requests"]:
        lines.append("")
        bold.add(len(lines))
        rows = [
            (
                duration(each["run"]),
                duration(each["queued"]),
                str(each["process"]),
                printable(each["client"]),
                printable(f"{each['method']} {each['target']}"),
            )
            for each in report["requests"]
        ]
        lines += _columns([("RUNS FOR", "WAITED", "PROCESS", "CLIENT", "REQUEST"), *rows])
    lines = [text if len(text) <= width else text[: width - 1] + "…" for text in lines]
    if colours:
        lines = [
            f"\x1b[1m{text}\x1b[0m" if number in bold or not number else text
            for number, text in enumerate(lines)
        ]
    return lines


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
