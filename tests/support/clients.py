"""Clients that send requests to a web server repeatedly while a test changes something."""

from __future__ import annotations

import threading
from typing import Self

from support.http import Client


class Clients:
    """Ask without a pause, each over a kept connection, for as long as the context lasts.

    Args:
        port: the web server's port.
        count: how many there are.
    """

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(count)]

    def ask(self, client: Client, number: int) -> None:
        """Make the next request of the client with this number, and note what it gets."""
        raise NotImplementedError

    def _run(self, number: int) -> None:
        with Client(self._port) as client:
            while not self._stopping.is_set():
                self.ask(client, number)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
