"""Headless Chromium, driven by its DevTools protocol over two pipes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Iterator
from typing import Any

from support.front_ends.servers import find
from support.processes import ProcessGroup

_DEADLINE = 30.0
"""Seconds until Chromium must have answered; it takes its time to start on a busy machine."""

_OPTIONS = (
    "--headless",
    "--no-sandbox",  # it refuses to start as root otherwise
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Chrome:
    """A browser with one page.

    Args:
        group: the group that it belongs to; its profile is in the group's folder.

    Attributes:
        complaints: uncaught exceptions and other errors that the browser reported.
    """

    def __init__(self, group: ProcessGroup) -> None:
        program = find("chromium")
        asked, answered = group.folder / "asked", group.folder / "answered"
        os.mkfifo(asked)
        os.mkfifo(answered)
        # Both ends are open here, so that neither side waits for the other to open its own.
        self._asked = os.open(asked, os.O_RDWR)
        self._answered = os.open(answered, os.O_RDWR)
        # The protocol's descriptors are 3 and 4.
        shell = ["/bin/sh", "-c", 'exec "$0" "$@" 3<asked 4>answered']
        profile = f"--user-data-dir={group.folder / 'profile'}"
        argv = [*shell, program, *_OPTIONS, profile, "about:blank"]
        # Crash reports, caches and settings stay in the folder as well.
        self._process = group.start(argv, name="chromium", env={"HOME": str(group.folder)})
        self._received = b""
        self._last_id = 0
        self._session = ""
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._asked, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _DEADLINE
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, url: str) -> None:
        """Load a page, and wait until its scripts have run."""
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, f"{url}: {result['errorText']}"
        self.evaluate(
            "new Promise(done => document.readyState === 'complete' ? done()"
            " : addEventListener('load', () => done()))"
        )

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def close(self) -> None:
        """End the browser and all its processes."""
        if self._process.running:
            self._session = ""
            self.call("Browser.close")
            self._process.wait(_DEADLINE)
        os.close(self._asked)
        os.close(self._answered)

    def _receive(self, deadline: float) -> dict[str, Any]:
        """The next message; what complains is kept."""
        while b"\0" not in self._received:
            left = deadline - time.monotonic()
            assert left > 0, f"Chromium does not answer: {self._process.log()[-2000:]}"
            if select.select([self._answered], [], [], min(left, 0.2))[0]:
                self._received += os.read(self._answered, 1 << 20)
            else:
                assert self._process.running, f"Chromium ended: {self._process.log()[-2000:]}"
        text, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return message


@contextlib.contextmanager
def chrome(group: ProcessGroup) -> Iterator[Chrome]:
    """A browser that has ended afterwards."""
    browser = Chrome(group)
    try:
        yield browser
    finally:
        browser.close()
