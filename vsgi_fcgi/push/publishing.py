"""Where published items go: to the held requests of this process, and to other processes and hosts.

An item that is published in this process is delivered here first. Then each `Outlet` carries it
further: to the supervisor, which passes it on to its other processes, and to the bus, which passes
it on to other hosts. What arrives from there is only delivered here (`Publishing.receive`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from vsgi_fcgi.children import give_up_in_children
from vsgi_fcgi.exceptions import PublishError
from vsgi_fcgi.push.items import Item, ItemError, read_items, write_items
from vsgi_fcgi.transport.unpatched import SimpleQueue, allocate_lock, start_thread

Deliver = Callable[[list[Item]], bool]
"""Delivers items to held requests. Callable from any thread; returns False if its queue is full."""

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Maximum bytes of items that wait to be sent to other processes, or to the bus."""

_PATIENCE: Final = 1.0
"""Seconds that items of others wait for room in the queue for delivery. Then they are dropped."""

_RETRY: Final = 0.01
"""Seconds between two tries."""

_LOG_INTERVAL: Final = 10.0
"""Seconds between two log lines about lost items."""

_logger = logging.getLogger("vsgi_fcgi.push")

_NO_SERVER: Final = (
    "no server that holds requests runs in this process, so nothing can be published here; start"
    " the server with --push, or publish over HTTP to the address of its --push-bind (GRIP_URL)"
)
_IN_CHILD: Final = (
    "this process was forked by the app and holds no requests; publish in the process that serves,"
    " or over HTTP to the address of --push-bind (GRIP_URL)"
)


class Losses:
    """Counts lost messages, and logs their number at a limited rate.

    Args:
        message: the line, with a place for the number.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._lock = allocate_lock()
        self._count = 0
        self._logged = -_LOG_INTERVAL

    def add(self, count: int) -> None:
        """Count a loss. Callable from any thread."""
        with self._lock:
            self._count += count

    def report(self) -> None:
        """Log the losses since the last line, unless that was a short time ago."""
        now = time.monotonic()
        with self._lock:
            if not self._count or now - self._logged < _LOG_INTERVAL:
                return
            count, self._count, self._logged = self._count, 0, now
        _logger.error(self._message, count)


class Outlet:
    """Sends published items to others, in a native thread and in order.

    Args:
        name: what it leads to, for the log.
        send: sends the items of one call of `publish`, as JSON. May wait.
        max_waiting: maximum number of such messages that wait to be sent. More are dropped and
            counted in the log.
    """

    def __init__(self, name: str, send: Callable[[bytes], object], max_waiting: int) -> None:
        self._name = name
        self._send = send
        self._max_waiting = max_waiting
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = allocate_lock()
        self._ended = allocate_lock()
        self._waiting = self._bytes = 0
        self._losses = Losses(f"published messages not sent to {name}, which is too slow: %d")

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: this host allows no more threads.
        """
        self._ended.acquire()
        start_thread(self._run, "vsgi-fcgi-outlet")

    def offer(self, body: bytes) -> None:
        """Queue a message. Callable from any thread; never waits."""
        with self._lock:
            full = self._waiting >= self._max_waiting
            if self._waiting and (full or self._bytes + len(body) > MAX_WAITING_BYTES):
                self._losses.add(1)
                return
            self._waiting += 1
            self._bytes += len(body)
        self._queue.put(body)

    def close(self, timeout: float) -> None:
        """Send the queued messages, for at most ``timeout`` seconds, and end the thread."""
        self._queue.put(None)
        if not self._ended.acquire(True, timeout) and self._waiting:
            _logger.error(
                "published messages not sent to %s before the end: %d",
                self._name,
                self._waiting,
            )

    def _run(self) -> None:
        while (body := self._queue.get()) is not None:
            try:
                self._send(body)
            except Exception:
                # A bug. The thread must go on.
                _logger.exception("a published message was not sent to %s", self._name)
            with self._lock:
                self._waiting -= 1
                self._bytes -= len(body)
            self._losses.report()
        self._ended.release()


class Publishing:
    """Delivers items that are published in this process, or by others, to held requests."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._in_child = False
        self._delivers: tuple[Deliver, ...] = ()
        self._outlets: tuple[Outlet, ...] = ()
        self._max_item_bytes = 0
        self._is_stuck = False
        self._losses = Losses("published items of other processes or hosts not delivered: %d")

    def open(self, deliver: Deliver, max_item_bytes: int) -> None:
        """Deliver items from now on.

        Args:
            deliver: delivers them to the held requests of a server.
            max_item_bytes: maximum size of an item.
        """
        with self._lock:
            self._in_child = False
            self._delivers = (*self._delivers, deliver)
            self._max_item_bytes = max_item_bytes
        give_up_in_children(self)

    def close(self, deliver: Deliver) -> None:
        """Deliver no further items to a server, which ends."""
        with self._lock:
            self._delivers = tuple(each for each in self._delivers if each != deliver)

    def add_outlet(self, outlet: Outlet) -> None:
        """Send items that are published here to an outlet, too.

        Raises:
            RuntimeError: this host allows no more threads.
        """
        outlet.start()
        with self._lock:
            self._outlets = (*self._outlets, outlet)

    def close_outlets(self, timeout: float) -> None:
        """End all outlets. Each has ``timeout`` seconds to send its queued messages."""
        with self._lock:
            outlets, self._outlets = self._outlets, ()
        for outlet in outlets:
            outlet.close(timeout)

    def forked(self) -> None:
        """Deliver nothing in a child process: the parent has the held requests."""
        self._lock = allocate_lock()
        self._in_child = True
        self._delivers = ()
        self._outlets = ()

    def publish(self, items: list[Item]) -> None:
        """Deliver items here, and send them to others. Callable from any thread; never waits.

        Raises:
            PublishError: the queue for delivery is full, or an item is too large.
            RuntimeError: no server delivers items in this process.
        """
        if not self._delivers:
            raise RuntimeError(_IN_CHILD if self._in_child else _NO_SERVER)
        for item in items:
            if item.size > self._max_item_bytes:
                raise PublishError(
                    f"the item for the channel {item.channel!r} has {item.size} bytes, which is"
                    f" more than max_item_bytes ({self._max_item_bytes}); publish less at a time,"
                    " or raise the limit"
                )
        if self._deliver(items, self._delivers):
            raise PublishError(
                "the queue of published items is full (max_items_queued); try again later"
            )
        if self._outlets:
            body = write_items(items)
            for outlet in self._outlets:
                outlet.offer(body)

    def receive(self, body: bytes) -> None:
        """Deliver what another process or host has published. In a native thread; may wait.

        Args:
            body: the items, as JSON.
        """
        if not self._delivers:
            return
        try:
            items = read_items(body, self._max_item_bytes)
        except ItemError as error:
            _logger.error("a message of another process or host was dropped: %s", error)
            return
        # The others wait meanwhile, and not too many items come at a time.
        left = self._deliver(items, self._delivers)
        until = time.monotonic() + (0.0 if self._is_stuck else _PATIENCE)
        never = allocate_lock()
        never.acquire()
        while left and time.monotonic() < until:
            never.acquire(True, _RETRY)
            left = self._deliver(items, left)
        # A process that is stuck must still get the messages of its supervisor.
        self._is_stuck = bool(left)
        if left:
            self._losses.add(len(items))
        self._losses.report()

    def _deliver(self, items: list[Item], delivers: tuple[Deliver, ...]) -> tuple[Deliver, ...]:
        """Deliver items to servers of this process, usually one; return those that are full."""
        return tuple([deliver for deliver in delivers if not deliver(items)])


PROCESS: Final = Publishing()
"""Delivers the items of this process."""
