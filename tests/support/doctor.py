"""Run ``vsgi-fcgi doctor`` behind web servers, and read its reports."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from support.front_ends.servers import AppServer, command
from support.http import request
from support.processes import ProcessGroup

PAUSE = 0.7
"""Seconds between the pieces of a slow upload: more than the doctor takes for a pause."""


class DoctorServer(AppServer):
    """A doctor of its own, listening on ``app.sock`` and on TCP.

    Args:
        group: the group that it belongs to.
        *options: more options.
    """

    def __init__(self, group: ProcessGroup, *options: str) -> None:
        self.group = group
        self.socket = group.folder / "app.sock"
        argv = [str(command(group)), "doctor", "no.such:app", "--socket", str(self.socket)]
        self.process = group.start([*argv, "--bind", "127.0.0.1:0", *options], name="doctor")
        log = self.process.wait_for_log("listening on fcgi://")
        found = re.search(r"fcgi://127\.0\.0\.1:(\d+)/", log)
        assert found is not None
        self.port = int(found[1])


@dataclass(frozen=True)
class Site:
    """A site that can be asked.

    Attributes:
        port: the web server's port on loopback.
        host: its name.
    """

    port: int
    host: str

    def ask(self, target: str = "/a/b", **headers: str) -> Any:
        """The doctor's report on a request, as JSON; None if it was not the doctor's answer."""
        return self._report(target, headers, "GET", None)

    def post(self, target: str, body: bytes, **headers: str) -> Any:
        """The report on a request with a body."""
        return self._report(target, headers, "POST", body)

    def several(self, target: str) -> Any:
        """The last report on requests one after the other."""
        for _ in range(4):
            self.ask(target)
        return self.ask(target)

    def together(self, target: str) -> Any:
        """The report on one of several requests at the same time."""
        with ThreadPoolExecutor(4) as pool:
            return next(iter([*pool.map(self.ask, [target] * 4)]))

    def upload(self, target: str) -> Any:
        """The report on a body that is sent in pieces, without its length."""

        return self._report(target, {}, "POST", slowly(b"one", b"two"))

    def stream(self, target: str) -> tuple[float, str]:
        """The seconds between the first and the last piece of an answer, and all of it."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", target, headers={"Host": self.host})
        response = connection.getresponse()
        times, data = [], b""
        while piece := response.read1():
            times.append(time.monotonic())
            data += piece
        connection.close()
        return times[-1] - times[0], data.decode()

    def _report(self, target: str, headers: dict[str, str], method: str, body: Any) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {"Host": self.host, "Accept": "application/json", **named}
        answer = request(self.port, target, method=method, body=body, headers=named)
        if answer.headers.get("X-Robots-Tag") != "noindex":
            return None
        return answer.json()


def slowly(*pieces: bytes) -> Iterator[bytes]:
    """A body with pauses in it, which is what a trial is about."""
    for number, piece in enumerate(pieces):
        time.sleep(PAUSE if number else 0)
        yield piece


def codes(report: Any, part: str = "findings") -> list[str]:
    """Return the problems of a report, or its notes (``remarks``)."""
    return [finding["code"] for finding in report[part]]


def lines(report: Any, code: str) -> str:
    """The first lines that a report has for a finding."""
    (found,) = [item for item in report["findings"] + report["remarks"] if item["code"] == code]
    text: str = found["remedies"][0]["lines"]
    return text
