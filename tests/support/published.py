"""Servers of ``apps/published.py``, and what was delivered in their processes."""

from __future__ import annotations

import json
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from support.processes import Process, ProcessGroup, free_port

TESTS = Path(__file__).parents[1]


class PublishedSite:
    """A server with ``--push-bind``, in a folder of its own.

    Attributes:
        port: the port of ``--push-bind``.
        address: the UNIX socket for FastCGI.
    """

    def __init__(
        self,
        group: ProcessGroup,
        folder: Path,
        *options: str,
        app: str = "apps.published:app",
        env: Any = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.address = str(folder / "app.sock")
        self.process: Process = group.start(
            [
                *(sys.executable, "-m", "vsgi_fcgi", app),
                *("--bind", f"unix:{self.address}", "--push-bind", f"127.0.0.1:{self.port}"),
                *options,
            ],
            name=folder.name,
            cwd=folder,
            env={"PYTHONPATH": str(TESTS), **(env or {})},
        )
        self.process.wait_for_log("listening on")

    def post(self, body: str | bytes, path: str = "/publish/", **headers: str) -> tuple[int, str]:
        """Send a request to the control address, and return the status and the body."""
        return self.request("POST", path, body, headers)

    def request(
        self, method: str, path: str, body: str | bytes = "", headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def publish(self, id: str, content: str = "data\n", channel: str = "news") -> None:
        """Publish an item over HTTP."""
        formats = {"http-stream": {"content": content}}
        item = {"channel": channel, "id": id, "formats": formats}
        answer = self.post(json.dumps({"items": [item]}))
        assert answer == (200, "Published\n"), answer

    def delivered(self) -> dict[int, list[list[str]]]:
        """The channel, the identifier and the content of each item, by process."""
        found = {}
        for path in self.folder.glob("*.items"):
            lines = path.read_text().splitlines(keepends=True)
            found[int(path.stem)] = [json.loads(line) for line in lines if line.endswith("\n")]
        return found

    def ids(self) -> dict[int, list[str]]:
        """The identifiers of the items that were delivered, by process."""
        return {pid: [id for _, id, _ in items] for pid, items in self.delivered().items()}
