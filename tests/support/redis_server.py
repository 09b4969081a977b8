"""A Redis server for tests."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from support.front_ends.servers import find
from support.processes import Process, ProcessGroup, free_port


class RedisServer:
    """A Redis server, or Valkey, on a free port of loopback or on another address.

    Args:
        group: owns its process.
        folder: its folder.
        host: where it listens.
        prefix: the beginning of its command line.
    """

    def __init__(
        self,
        group: ProcessGroup,
        folder: Path,
        host: str = "127.0.0.1",
        prefix: tuple[str, ...] = (),
    ) -> None:
        self._group = group
        self._folder = folder
        self._argv = (*prefix, shutil.which("valkey-server") or find("redis-server"))
        self.host = host
        self.port = free_port()
        self.process: Process
        self.start()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        self._folder.mkdir(exist_ok=True)
        argv = [*self._argv, "--bind", self.host, "--port", str(self.port), "--save", ""]
        argv += ["--protected-mode", "no", "--dir", str(self._folder)]
        self.process = self._group.start(argv, name="redis", cwd=self._folder)
        self.process.wait_for_log("eady to accept connections")

    def kill(self) -> None:
        """End the server without a farewell."""
        self.process.stop(signal.SIGKILL)
        self.process.log_path.unlink()
