"""Follow the tutorial line by line: write its files and run its commands."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
from support.front_ends.servers import WebServer, command, find
from support.pages import TUTORIAL, Block, blocks
from support.processes import Process, ProcessGroup

PORT = "8080"


class Lighttpd(WebServer):
    """lighttpd with the command and the configuration of the tutorial.

    Args:
        group: the group that it belongs to.
        words: the command.
        folder: the folder of the tutorial.
    """

    def __init__(self, group: ProcessGroup, words: str, folder: Path) -> None:
        self._words = words.split()
        self._folder = folder
        self._start(group)

    def _spawn(self, group: ProcessGroup, name: str) -> Process:
        config = self._folder / self._words[-1]
        text = config.read_text()
        config.write_text(re.sub(r"(server\.port = )\d+", rf"\g<1>{self.port}", text))
        argv = [find(Path(self._words[0]).name), *self._words[1:]]
        return group.start(argv, name=f"{name}-{self.port}", cwd=self._folder)


class Reader:
    """Does what the tutorial says.

    Args:
        group: starts the processes.
        folder: the folder of the tutorial; it has a virtual environment.
    """

    def __init__(self, group: ProcessGroup, folder: Path) -> None:
        self._group = group
        self._folder = folder
        self._server: Lighttpd | None = None
        self.answers = 0

    def follow(self, block: Block) -> None:
        if block.caption:
            (self._folder / block.caption).write_text(block.text)
        elif block.language == "console":
            for part in block.text.removeprefix("$ ").split("\n$ "):
                words, _, expected = part.partition("\n")
                self._run(words, expected)
        else:
            assert self._server is not None
            self._server.process.wait_for_log(block.text.strip())

    def _run(self, words: str, expected: str) -> None:
        if "lighttpd" in words:
            if self._server is not None:
                self._server.process.stop(signal.SIGINT)
            self._server = Lighttpd(self._group, words, self._folder)
            return
        if self._server is not None:
            words = words.replace(f":{PORT}/", f":{self._server.port}/")
        done = subprocess.run(
            ["bash", "-c", words], cwd=self._folder, capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stderr
        # The last output of a block ends with its last line, one before another command does not.
        assert done.stdout.rstrip("\n") == expected.rstrip("\n")
        self.answers += 1


@pytest.mark.live
def test_the_tutorial(processes: ProcessGroup) -> None:
    for program in ("lighttpd", "curl"):
        find(program)
    steps = list(blocks(TUTORIAL))
    # The first one installs things; what runs the tests is installed.
    assert steps[0].text.startswith("$ sudo apt-get install -y lighttpd")
    folder = processes.folder / "hello"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "vsgi-fcgi").symlink_to(command(processes))
    reader = Reader(processes, folder)
    for step in steps[1:]:
        reader.follow(step)
    assert reader.answers == 4
