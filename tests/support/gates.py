"""Make a request of a test app wait until the test opens a gate."""

from __future__ import annotations

import errno
import os
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

from support.processes import PATIENCE, wait_until


class Gate:
    """A FIFO at which the app ``gate`` waits; no clock decides who is first.

    Args:
        folder: where it is made.
        name: what it is called.
    """

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self._path = folder / name
        os.mkfifo(self._path)
        self._fd = -1

    @property
    def query(self) -> str:
        """What tells an app where to wait."""
        return f"at={quote(str(self._path))}"

    @property
    def url(self) -> str:
        """The app that waits here."""
        return f"/gate?{self.query}"

    def wait_for_app(self, within: float = PATIENCE) -> None:
        """Wait until a request waits here."""
        wait_until(self._opened, "a request at the gate", within)

    def _opened(self) -> bool:
        try:
            # Works only once there is a reader.
            self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        return True

    def open(self) -> None:
        """Let the request go on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Whoever still waits, or comes late, must not wait for ever.
        self.open()
        self._path.unlink()


def check_stream(port: int, folder: Path, prefix: str = "") -> None:
    """See that a piece of an answer comes before its app goes on.

    Args:
        port: the web server's.
        folder: where a gate is made.
        prefix: where ``apps.routes`` is mounted.
    """
    with Gate(folder) as gate:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", prefix + gate.url)
        response = connection.getresponse()
        assert response.read1() == b"before\n"
        gate.wait_for_app()
        gate.open()
        assert response.read() == b"after\n"
        connection.close()
