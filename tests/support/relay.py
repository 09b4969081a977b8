"""Run a `Relay` in a thread of the test's process, and check that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gevent

from support.asking import spooled
from support.fcgi.peer import DEADLINE, Client
from support.server import address_of, count_descriptors, open_files, wait_until
from vsgi_fcgi.addresses import parse_bind
from vsgi_fcgi.client.upstream import Upstream
from vsgi_fcgi.listen.listeners import Listener, open_listener
from vsgi_fcgi.relay.config import RelayConfig
from vsgi_fcgi.relay.relay import Relay


class Relaying:
    """A relay that runs in a thread of its own.

    Attributes:
        relay: it; reading a number from it is all that a test may do.
        address: where it listens, for `Client`.
        uri: the same, for `FastCGIClient`.
        status: its exit status, once it has stopped.
    """

    def __init__(
        self,
        listener: Listener,
        upstreams: tuple[str, ...],
        settings: dict[str, Any],
        allowed: frozenset[str] | None,
    ) -> None:
        self.address = address_of(listener.uri)
        address = self.address
        self.uri = f"unix:{address}" if isinstance(address, str) else f"{address[0]}:{address[1]}"
        self.status = -1
        self._clients = contextlib.ExitStack()
        self._calls: deque[Callable[[], object]] = deque()
        ready = threading.Event()

        def serve() -> None:
            log = logging.getLogger("vsgi_fcgi.relay")
            self.relay = Relay([listener], upstreams, RelayConfig(**settings), log, allowed=allowed)
            self._async: Any = gevent.get_hub().loop.async_()
            self._async.start(self._call)
            self.relay.loop.run_callback(ready.set)
            self.status = self.relay.run()
            self._async.stop()
            self._async.close()
            gevent.get_hub().destroy(destroy_loop=True)

        self._thread = threading.Thread(target=serve)
        self._thread.start()
        assert ready.wait(DEADLINE)

    def _call(self) -> None:
        while self._calls:
            self._calls.popleft()()

    @property
    def upstream(self) -> Upstream:
        """The one application server behind it."""
        (upstream,) = self.relay.upstreams.all
        return upstream

    def connect(self, **options: Any) -> Client:
        """Open a connection that is closed before the relay stops."""
        return self._clients.enter_context(Client(self.address, **options))

    def in_loop(self, function: Callable[[], object]) -> None:
        """Have something done in the relay's thread, soon."""
        self._calls.append(function)
        self._async.send()

    def begin_stop(self, grace: float | None = DEADLINE) -> None:
        """Tell it to stop."""
        self.in_loop(lambda: self.relay.stop(grace))

    def stopped(self) -> int:
        """Wait until it has stopped, and return its exit status."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the relay has not stopped"
        return self.status

    def leave(self) -> None:
        """Close all connections, and stop."""
        self._clients.close()
        if self._thread.is_alive():
            self.begin_stop()
        self.stopped()


@contextlib.contextmanager
def relaying(
    *upstreams: str,
    bind: str | None = None,
    allowed: frozenset[str] | None = None,
    **settings: Any,
) -> Iterator[Relaying]:
    """A relay on a UNIX socket, unless told otherwise.

    When it has stopped, no descriptor and no byte of its budgets may be left.
    """
    # The hub of this thread, which a client in front may need, is not counted.
    gevent.get_hub()
    descriptors = count_descriptors()
    with tempfile.TemporaryDirectory(prefix="vsgi-fcgi-test-") as folder:
        (listener,) = open_listener(parse_bind(bind or f"unix:{folder}/relay.sock"), 1024)
        this = Relaying(listener, upstreams, settings, allowed)
        relay = this.relay
        try:
            yield this
        finally:
            this.leave()
        assert not relay.connections
        assert not len(relay.queue)
        assert not relay.connections.params.used
        assert not relay.upstreams.memory.used
        for upstream in relay.upstreams.all:
            assert not upstream.connections
            assert not spooled(upstream)
        wait_until(lambda: count_descriptors() <= descriptors, open_files)
