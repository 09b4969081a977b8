"""``--push-bus``: published items travel between hosts by Redis' PUBLISH.

Each process subscribes and publishes for itself, in two native threads with a connection each. A
message is the JSON of ``POST /publish/``, which begins with who has sent it. Processes drop the
messages of their own host, which they get from their supervisor, so that a lost broker does not
stop delivery among them. They also drop what they have got before: a message is sent again if the
connection was lost before Redis has confirmed it.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.transport.unpatched import allocate_lock, start_thread

_DEFAULT_CHANNEL: Final = "vsgi_fcgi"

_FIRST_PAUSE: Final = 0.1
"""Seconds before the first try to connect again. Each further one doubles the pause."""

_MAX_PAUSE: Final = 5.0
"""Longest such pause in seconds."""

_TIMEOUT: Final = 5.0
"""Seconds in which Redis must accept a connection and answer."""

_PING_INTERVAL: Final = 10.0
"""Seconds without a message after which the subscriber asks whether Redis is still there."""

_MAX_SENDERS: Final = 1024
"""Maximum number of processes of which the last message is known. The oldest is forgotten."""

_SENT_BY: Final = re.compile(rb'\{"host": "(\w+)", "sender": "(\w+)", "number": (\d+), ')

_logger = logging.getLogger("vsgi_fcgi.push")


class Bus:
    """Sends published items to other hosts, and receives theirs.

    Args:
        url: the URL of the Redis server; ``channel`` in its query is the channel.
        host: identifies this host. Messages of the same host are not received.
        receive: gets the JSON of items, in a native thread.

    Raises:
        UsageError: the query of the URL has an option that redis-py does not know.
    """

    def __init__(self, url: str, host: str, receive: Callable[[bytes], object]) -> None:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        self._channel = query.pop("channel", _DEFAULT_CHANNEL)
        self._url = parts._replace(query=urlencode(query)).geturl()
        # Without the password.
        self._name = f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
        self._receive = receive
        self._host = host
        self._sender = secrets.token_hex(8)
        self._number = 0
        self._last: dict[bytes, int] = {}
        self._lock = allocate_lock()
        self._down: set[str] = set()
        self._publisher: Any = None
        # Released when the first try to subscribe has ended.
        self._tried = allocate_lock()
        self._tried.acquire()
        self._has_tried = False
        try:
            # This does not connect.
            self._connect().connection_pool.make_connection()
        except (TypeError, ValueError) as error:
            raise UsageError(f"--push-bus: {error}; correct the query of the URL") from error

    def start(self) -> None:
        """Start to receive. Returns when this process has subscribed, or has failed to.

        Requests that are held before would miss items.

        Raises:
            RuntimeError: this host allows no more threads.
        """
        start_thread(self._subscribe, "vsgi-fcgi-bus")
        self._tried.acquire(True, _TIMEOUT)

    def _connect(self) -> Any:
        """Return a client, which connects when it is used, and does not try again."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return redis.Redis.from_url(
            self._url,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=_TIMEOUT,
            socket_timeout=_TIMEOUT,
            socket_keepalive=True,
        )

    # The thread of the outlet

    def send(self, body: bytes) -> None:
        """Publish items, and try again until Redis has them.

        Args:
            body: the items, as JSON.
        """
        import redis

        self._number += 1
        head = f'{{"host": "{self._host}", "sender": "{self._sender}", "number": {self._number}, '
        message = head.encode() + body.removeprefix(b"{")
        pause = _FIRST_PAUSE
        while True:
            is_new = self._publisher is None
            try:
                if is_new:
                    self._publisher = self._connect()
                self._publisher.publish(self._channel, message)
            except redis.ResponseError as error:
                _logger.error("%s: the bus refuses a message, which is lost: %s", self._name, error)
            except (redis.RedisError, OSError) as error:
                self._publisher = None
                if not is_new:
                    # Redis or a firewall has closed a connection that was idle for long.
                    continue
                self._is_down("publish", error)
                time.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE)
                continue
            self._is_up("publish")
            return

    # The thread that subscribes

    def _subscribe(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                self._follow()
            except Exception as error:
                # Also errors that redis-py passes on, because this thread must go on.
                self._is_down("subscribe", error)
                self._end_first_try()
            if time.monotonic() - began > _MAX_PAUSE:
                pause = _FIRST_PAUSE
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)

    def _follow(self) -> None:
        """Receive messages until the connection is lost."""
        pubsub = self._connect().pubsub()
        try:
            pubsub.subscribe(self._channel)
            asked = False
            while True:
                message = pubsub.get_message(timeout=_PING_INTERVAL)
                if message is None:
                    if asked:
                        raise TimeoutError("no answer")
                    pubsub.ping()
                    asked = True
                    continue
                asked = False
                if message["type"] == "subscribe":
                    self._is_up("subscribe")
                    self._end_first_try()
                elif message["type"] == "message":
                    self._received(message["data"])
        finally:
            pubsub.close()

    def _received(self, data: bytes) -> None:
        found = _SENT_BY.match(data)
        if found is not None:
            host, sender, number = found.groups()
            if host == self._host.encode() or int(number) <= self._last.get(sender, 0):
                return
            self._last[sender] = int(number)
            if len(self._last) > _MAX_SENDERS:
                del self._last[next(iter(self._last))]
        # Otherwise a program has published it that uses Redis itself.
        self._receive(data)

    # The log

    def _is_down(self, what: str, error: Exception) -> None:
        with self._lock:
            first = not self._down
            self._down.add(what)
        if first:
            _logger.error(
                "%s: the bus is lost: %s; items are delivered on this host only until it is back",
                self._name,
                str(error).rstrip("."),
            )

    def _end_first_try(self) -> None:
        if not self._has_tried:
            self._has_tried = True
            self._tried.release()

    def _is_up(self, what: str) -> None:
        with self._lock:
            last = self._down == {what}
            self._down.discard(what)
        if last:
            _logger.info("%s: the bus is back", self._name)
