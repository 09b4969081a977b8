"""Clients of ``apps/news.py`` that come back when their stream ends, and what they got."""

from __future__ import annotations

import threading
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from support.processes import wait_until


class News:
    """The file with all items of ``apps/news.py``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.last = 0

    def add(self) -> int:
        """Add an item, before it is published."""
        self.last += 1
        with self.path.open("a") as file:
            file.write(f"{self.last}\n")
        return self.last


class Subscriber:
    """A client with a stream, as a browser's EventSource.

    Args:
        host: the address of the web server.
        port: its port.

    Attributes:
        ids: the items that it got, in order.
        hosts: the ``X-Host`` of each stream that it has got.
        failures: answers that were no stream, and connections that failed.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self.ids: list[int] = []
        self.hosts: list[str] = []
        self.failures: list[str] = []
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self._closed.is_set():
            connection = HTTPConnection(*self._address, timeout=20)
            try:
                last = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
                connection.request("GET", "/stream", headers=last)
                response = connection.getresponse()
                if response.status != 200:
                    self.failures.append(str(response.status))
                    self._closed.wait(0.1)
                    continue
                self.hosts.append(response.headers["X-Host"])
                id: int | None = None
                while (line := response.readline()) and not self._closed.is_set():
                    # An event that was cut off has no end, and does not count.
                    if line.startswith(b"id: ") and line.endswith(b"\n"):
                        id = int(line[4:])
                    elif line == b"\n" and id is not None:
                        self.ids.append(id)
                        id = None
            except (OSError, HTTPException) as error:
                self.failures.append(repr(error))
                self._closed.wait(0.1)
            finally:
                connection.close()

    @property
    def connects(self) -> int:
        """How many streams it has got."""
        return len(self.hosts)

    def close(self) -> None:
        self._closed.set()


class Subscribers:
    """Several of them, each of which must get each item once and in order.

    Args:
        count: how many.
        host: the address of the web server.
        port: its port.
    """

    def __init__(self, count: int, host: str, port: int) -> None:
        self.all = [Subscriber(host, port) for _ in range(count)]

    def __enter__(self) -> Subscribers:
        wait_until(lambda: all(each.connects for each in self.all), "streams", log=self.describe)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for each in self.all:
            each.close()

    def on(self, host: int) -> list[Subscriber]:
        """Those whose last stream is on a host."""
        return [each for each in self.all if each.hosts[-1:] == [str(host)]]

    def wait_for(self, last: int) -> None:
        """Wait until all have got an item, and check that they have got all before it."""
        wait_until(
            lambda: all(each.ids and each.ids[-1] >= last for each in self.all),
            f"item {last}",
            log=self.describe,
        )
        wrong = [each.ids for each in self.all if each.ids != [*range(1, last + 1)]]
        assert not wrong, wrong

    def describe(self) -> str:
        return str([(each.connects, each.ids[-3:], each.failures[-3:]) for each in self.all])
