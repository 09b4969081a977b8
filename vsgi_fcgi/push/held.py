"""Held requests: which there are, on which channels, and what happens to them.

When an app has answered with an instruction to hold its request, the worker, the environ and the
body are released. What stays is a `Held`: the channels, and for a long poll the app's own response.
`HeldRequests` has all of them, in the main context. Three things happen to them::

    an item is published    `deliver` queues it, in any thread. The main context sends it to the
                            streams of the channel, and answers the long polls with it, a few
                            hundred in each round of the loop.
    time passes             One timer looks every quarter of a second at those that are due: a long
                            poll gets its own response, a stream its keep-alive, or what its app has
                            to say now (``Grip-Link``).
    the client goes         `forget` removes it.

Whoever misses items notices it by their identifiers: an item names the one before it, and the app
names the last one that the client got. If they differ, the server asks the app again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final, Protocol, final

from vsgi_fcgi.push.config import PushConfig
from vsgi_fcgi.push.filters import FilterError, apply, apply_to_body
from vsgi_fcgi.push.instruction import HeldChannel, Hold
from vsgi_fcgi.push.items import Item, ItemError, ResponsePart, StreamPart, answer_of
from vsgi_fcgi.transport.loop import Loop
from vsgi_fcgi.transport.quota import Quota
from vsgi_fcgi.transport.thread_affinity import main_only
from vsgi_fcgi.transport.unpatched import allocate_lock
from vsgi_fcgi.wsgi.response import Headers, encode_header_block, error_response

_BATCH: Final = 256
"""Held requests that one round of the loop serves at most."""

_TICK: Final = 0.25
"""Seconds between two looks at those that are due."""

_EMPTY_PAUSE: Final = 1
"""Seconds until the next part of a response is requested if the last one was empty."""

_MAX_LAST_IDS: Final = 10000
"""Channels for which the identifier of the last item is kept."""

_COST: Final = 512
"""Bytes that are charged for each held request and for each item that waits for a client."""

_RETRY_AFTER: Final = 1
"""Seconds after which a client may try again when no more requests can be held."""


class Outlet(Protocol):
    """The exchange of a held request, as this module sees it."""

    def send_held(self) -> None:
        """Send the pieces of the stream, soon."""

    def end_held(self, last: bytes) -> None:
        """End the request with these bytes, after the pieces of the stream."""


@final
class Answer:
    """What an app has answered, with its instruction.

    Attributes:
        hold: the instruction; None if the request must not be held.
        status: the status line.
        headers: the headers for the client.
        body: the body; empty for HEAD.
    """

    __slots__ = ("body", "headers", "hold", "status")

    def __init__(self, hold: Hold | None, status: str, headers: Headers, body: bytes) -> None:
        self.hold = hold
        self.status = status
        self.headers = headers
        self.body = body


@final
class Held:
    """A held request.

    The worker makes it, and the main context owns it as soon as the worker is done.

    Attributes:
        outlet: the exchange; None when the request has ended.
        hold: the instruction.
        answer: the app's response.
        params: the params of the request, if the app may have to be asked again.
        head_only: the request is HEAD.
        pieces: the unsent pieces of a stream.
        own_pieces: how many of them, at the front, are the header block and bodies of the app.
        sent: bytes that were sent to a stream.
        ending: the request ends after the last piece.
        keep_due: when the next keep-alive is due, on the monotonic clock.
        next_due: when the app is asked for more.
        ends: when the request ends in any case.
        bucket: the tick at which it is looked at; 0 if none.
        asking: the app is being asked.
        wants: the app must be asked when everything was sent.
        charged: bytes that are charged to the quota.
        known: the last identifiers of its channels at the time when the app was asked.
    """

    __slots__ = (
        "answer",
        "asking",
        "bucket",
        "charged",
        "ending",
        "ends",
        "head_only",
        "hold",
        "keep_due",
        "known",
        "next_due",
        "outlet",
        "own_pieces",
        "params",
        "pieces",
        "sent",
        "wants",
    )

    def __init__(
        self,
        outlet: Outlet,
        hold: Hold,
        answer: Answer,
        params: dict[str, str],
        head_only: bool,
    ) -> None:
        self.outlet: Outlet | None = outlet
        self.hold = hold
        self.answer = answer
        self.params = params
        self.head_only = head_only
        # None until something waits, because most long polls never need it.
        self.pieces: deque[bytes] | None = None
        self.own_pieces = 0
        self.sent = 0
        self.ending = False
        self.keep_due = self.next_due = self.ends = 0.0
        self.bucket = 0
        self.asking = False
        self.wants = False
        self.charged = 0
        self.known: dict[str, str | None] | None = None


class Log(Protocol):
    """The log, as this module uses it."""

    def warning(self, message: str, *args: object) -> object:
        """Log a warning."""


Ask = Callable[[dict[str, str], str | None, Callable[[Answer | None], None]], bool]
"""Asks the app: gets the params of the request, the URI or None for the request's own, and what to
call with the answer, or with None if there is none. Returns False if nothing can be asked now."""


@final
class HeldRequests:
    """All held requests of a process. Everything but `deliver` belongs to the main context.

    Args:
        config: the settings.
        log: the log.
        loop: the event loop.
        post: has a function called in the main context; callable from any thread.
        count: counts an event for the status.
        ask: asks the app.
        report_bug: logs an exception in this package, with its consequence.

    Attributes:
        streams: the number of held streams.
        polls: the number of held long polls.
    """

    def __init__(
        self,
        config: PushConfig,
        log: Log,
        loop: Loop,
        post: Callable[[Callable[[Any], object], Any], bool],
        count: Callable[[str], object],
        ask: Ask,
        report_bug: Callable[[Exception, str], None],
    ) -> None:
        self._config = config
        self._log = log
        self._post = post
        self._count = count
        self._ask = ask
        self._report_bug = report_bug
        self._quota = Quota(config.max_held_bytes)
        self._channels: dict[str, dict[Held, HeldChannel]] = {}
        self._last_ids: dict[str, str] = {}
        self._buckets: dict[int, dict[Held, None]] = {}
        self._ticks = 0
        self._clock = loop.timer(_TICK, _TICK)
        self._ticking = False
        # Items that were published and not delivered; `_waiting` counts them for all threads.
        self._lock = allocate_lock()
        self._waiting = 0
        self._queue: deque[Item] = deque()
        self._rest: list[Held] = []
        self._pump = loop.timer(0.0)
        self._pumping = False
        self._crowded = False
        self._stopping = False
        self.streams = 0
        self.polls = 0

    def __len__(self) -> int:
        return self.streams + self.polls

    # Holding a request.

    @main_only
    def begin(self, held: Held, head: bytes) -> None:
        """Hold a request whose worker is done.

        Args:
            held: the request.
            head: the header block for a stream.
        """
        full = self._is_full(held.hold)
        if full:
            self._count("held_refused")
            self._log.warning("a request is not held: %s", full)
            outlet, held.outlet = held.outlet, None
            assert outlet is not None
            outlet.end_held(error_response(503, retry_after=_RETRY_AFTER))
            return
        now = monotonic()
        held.ends = now + self._config.push_max_age
        if held.hold.stream:
            self.streams += 1
            # A response to HEAD has no body, and nothing can follow it.
            held.ending = held.head_only
            held.own_pieces += 1
            self._append(held, head)
            self._append_body(held, held.answer)
        else:
            self.polls += 1
            self._charge(held, _COST + len(held.answer.body))
        self._subscribe(held)
        self._go_on(held, now)

    def _go_on(self, held: Held, now: float) -> None:
        """Do what follows when the app has answered."""
        if self._stopping or held.ending:
            self._expire(held)
        elif held.hold.follow and not held.pieces:
            # Without a pause, an app that has nothing to send would be asked all the time.
            held.hold.next_timeout = _EMPTY_PAUSE
            self._schedule(held, now)
        elif held.hold.follow:
            self._ask_again(held)
        elif not self._has_missed(held):
            self._schedule(held, now)

    def _is_full(self, hold: Hold) -> str:
        """Return which limit forbids to hold one more request; empty if none does."""
        config = self._config
        if len(self) >= config.max_held:
            return f"max_held is {config.max_held}"
        for channel in hold.channels:
            found = self._channels.get(channel.name)
            if found is not None and len(found) >= config.max_held_per_channel:
                return f"max_held_per_channel is {config.max_held_per_channel}"
        if self._quota.used > self._quota.limit:
            return f"max_held_bytes is {config.max_held_bytes}"
        return ""

    def _subscribe(self, held: Held) -> None:
        for channel in held.hold.channels:
            self._channels.setdefault(channel.name, {})[held] = channel

    def _unsubscribe(self, held: Held) -> None:
        for channel in held.hold.channels:
            found = self._channels.get(channel.name)
            if found is not None:
                found.pop(held, None)
                if not found:
                    del self._channels[channel.name]

    @main_only
    def forget(self, held: Held) -> None:
        """Forget a request that has ended, or whose client has gone."""
        if held.outlet is None:
            return
        held.outlet = None
        if held.hold.stream:
            self.streams -= 1
        else:
            self.polls -= 1
        self._unsubscribe(held)
        self._unschedule(held)
        self._charge(held, -held.charged)
        held.pieces = None

    def _charge(self, held: Held, size: int) -> None:
        held.charged += size
        self._quota.charge(size)

    @main_only
    def lose(self, held: Held) -> None:
        """Forget a request whose client has gone, and tell the app if it wants to know."""
        uri, params = held.hold.gone_uri, held.params
        self.forget(held)
        if uri is not None and params and not self._stopping:
            self._ask(params, uri, _ignore)

    # Time.

    def _schedule(self, held: Held, now: float) -> None:
        """Schedule the next look at a request, for when something is due."""
        hold = held.hold
        due = held.ends
        if not hold.stream:
            due = min(due, now + hold.timeout)
        else:
            if hold.keep_alive is not None:
                held.keep_due = now + hold.keep_alive.timeout
                due = min(due, held.keep_due)
            if hold.next_uri is not None:
                held.next_due = now + hold.next_timeout
                due = min(due, held.next_due)
        self._look_at(held, due)

    def _look_at(self, held: Held, due: float) -> None:
        if not self._ticking:
            self._ticking = True
            self._ticks = int(monotonic() / _TICK)
            self._clock.again(self._tick)
        # Rounded up, so that nothing happens too early.
        bucket = max(int(due / _TICK), self._ticks) + 1
        if bucket != held.bucket:
            self._unschedule(held)
            held.bucket = bucket
            self._buckets.setdefault(bucket, {})[held] = None

    def _unschedule(self, held: Held) -> None:
        found = self._buckets.get(held.bucket)
        if found is not None:
            found.pop(held, None)
            if not found:
                del self._buckets[held.bucket]
        held.bucket = 0

    def _tick(self) -> None:
        now = monotonic()
        while self._ticks < int(now / _TICK):
            self._ticks += 1
            for held in self._buckets.pop(self._ticks, {}):
                held.bucket = 0
                try:
                    self._on_due(held, now)
                except Exception as error:
                    self._report_bug(error, "a held request is not looked at any more")
        if not self._buckets:
            self._ticking = False
            self._clock.stop()

    def _on_due(self, held: Held, now: float) -> None:
        hold = held.hold
        if now >= held.ends or not hold.stream:
            self._expire(held)
            return
        if hold.next_uri is not None and now >= held.next_due:
            self._ask_again(held)
            return
        due = held.ends
        if hold.next_uri is not None:
            due = min(due, held.next_due)
        if hold.keep_alive is not None:
            if now >= held.keep_due:
                held.keep_due = now + hold.keep_alive.timeout
                # A client that has not read the last one needs no other.
                if not held.pieces:
                    self._append(held, hold.keep_alive.content)
            due = min(due, held.keep_due)
        self._look_at(held, due)

    def _expire(self, held: Held) -> None:
        """End a request: a long poll with its own response."""
        if held.hold.stream:
            self._finish(held, b"")
            return
        answer = held.answer
        self._finish(held, _encode(answer.status, answer.headers, answer.body))

    def _finish(self, held: Held, last: bytes) -> None:
        """Send the last bytes to the client, and end the request."""
        outlet = held.outlet
        if outlet is None:
            return
        if held.pieces:
            # It ends when they were sent.
            held.ending = True
            if last:
                self._append(held, last)
            self._unsubscribe(held)
            self._unschedule(held)
            outlet.send_held()
            return
        self.forget(held)
        outlet.end_held(last)

    # Sending to a stream.

    def _append_body(self, held: Held, answer: Answer) -> None:
        """Queue a body of the app, and release it from the answer."""
        body, answer.body = answer.body, b""
        if not body or held.head_only:
            return
        filters = [name for channel in held.hold.channels for name in channel.filters]
        if filters:
            try:
                body = apply_to_body(body, filters, held.hold.meta)
            except FilterError as error:
                self._log.warning("a stream is ended: %s", error)
                held.ending = True
                return
        # The app is asked again only after all items were sent, so no item waits before this.
        held.own_pieces += 1
        self._append(held, body)

    def _append(self, held: Held, data: bytes) -> None:
        """Queue a piece of a stream."""
        if held.pieces is None:
            held.pieces = deque()
        held.pieces.append(data)
        self._charge(held, _COST + len(data))
        assert held.outlet is not None
        held.outlet.send_held()

    @main_only
    def take_piece(self, held: Held) -> bytes:
        """Take the next piece of a stream, which is sent now."""
        assert held.pieces is not None
        piece = held.pieces.popleft()
        if held.own_pieces:
            held.own_pieces -= 1
        self._charge(held, -_COST - len(piece))
        held.sent += len(piece)
        return piece

    @main_only
    def drained(self, held: Held) -> None:
        """Take note that all pieces of a stream were sent."""
        if held.wants:
            self._ask_again(held)

    def _make_room(self, held: Held) -> bool:
        """Make room for one more item of a client that reads too slowly; False if it is ended."""
        pieces, config = held.pieces, self._config
        full = self._quota.used > self._quota.limit
        keep = held.own_pieces
        if not pieces or not (full or len(pieces) - keep >= config.max_items_waiting):
            return True
        self._count("items_dropped")
        if config.push_overflow == "end":
            # After the pieces that wait already.
            self._finish(held, b"")
            return False
        # The header block and what the app itself sends are no items.
        if len(pieces) > keep:
            self._charge(held, -_COST - len(pieces[keep]))
            del pieces[keep]
        return True

    # Publishing.

    def deliver(self, items: Sequence[Item]) -> bool:
        """Queue published items. Callable from any thread.

        Returns:
            False if too many items wait already, or the server has ended.
        """
        with self._lock:
            if self._waiting + len(items) > self._config.max_items_queued:
                return False
            self._waiting += len(items)
        return self._post(self._enqueue, items)

    def _enqueue(self, items: Iterable[Item]) -> None:
        self._queue.extend(items)
        if not self._pumping:
            self._pumping = True
            self._pump_some()

    def _pump_some(self) -> None:
        """Deliver to some of the held requests, and to others in the next round of the loop."""
        budget = _BATCH
        while budget > 0:
            if not self._rest:
                if self._crowded:
                    # Clients that read would lose items if nothing were sent meanwhile.
                    self._crowded = False
                    break
                if not self._queue:
                    self._pumping = False
                    return
                self._next_item()
                continue
            item = self._current
            now = monotonic()
            some = self._rest[-budget:]
            del self._rest[-budget:]
            budget -= len(some)
            # Looked up again, because a request may have ended, or the app may have been asked.
            found = self._channels.get(item.channel, {})
            for held in some:
                channel = found.get(held)
                if channel is not None:
                    try:
                        self._pass_item(held, channel, item, now)
                    except Exception as error:
                        self._report_bug(error, "a held request did not get an item")
        self._pump.start(self._pump_some)

    _current: Item

    def _next_item(self) -> None:
        item = self._current = self._queue.popleft()
        with self._lock:
            self._waiting -= 1
        if item.id is not None:
            self._last_ids.pop(item.channel, None)
            self._last_ids[item.channel] = item.id
            if len(self._last_ids) > _MAX_LAST_IDS:
                del self._last_ids[next(iter(self._last_ids))]
        found = self._channels.get(item.channel)
        if found is not None:
            self._rest = list(found)

    def _pass_item(self, held: Held, channel: HeldChannel, item: Item, now: float) -> None:
        """Send an item to a held request."""
        hold = held.hold
        part: StreamPart | ResponsePart | None = item.stream if hold.stream else item.response
        if part is None:
            return
        if item.id is not None and item.id in (channel.prev_id, channel.last_id):
            return  # the client has it
        # Only contents need an order. Anyone may end a stream without knowing the last item.
        ordered = part.action == "send" or item.prev_id is not None
        if ordered and channel.prev_id is not None and item.prev_id != channel.prev_id:
            self._recover(held)
            return
        if part.action == "hint":
            self._recover(held)
            return
        try:
            if isinstance(part, StreamPart):
                self._pass_to_stream(held, channel, item, part, now)
            elif part.action == "send":
                self._pass_to_poll(held, channel, item, part)
        except (FilterError, ItemError) as error:
            self._log.warning("an item for the channel %r cannot be sent: %s", item.channel, error)
            self._finish(held, b"" if hold.stream else error_response(502))

    def _pass_to_poll(
        self, held: Held, channel: HeldChannel, item: Item, part: ResponsePart
    ) -> None:
        answer = held.answer
        status, headers, whole = answer_of(part, answer.headers, answer.body)
        _advance(channel, item)
        body = self._filter(held, channel, item, whole, part.filters)
        if body is None:
            return
        headers.append(("Content-Length", str(len(body))))
        self._finish(held, _encode(status, headers, b"" if held.head_only else body))

    def _filter(
        self,
        held: Held,
        channel: HeldChannel,
        item: Item,
        content: bytes,
        expected: tuple[str, ...] | None,
    ) -> bytes | None:
        """Return what the filters make of a content; None if the request does not get it."""
        if not channel.filters and expected is None:
            return content
        hold = held.hold
        return apply(
            content,
            channel.filters,
            held_meta=hold.meta,
            item_meta=item.meta,
            prev_ids={each.name: each.prev_id for each in hold.channels},
            content_filters=expected,
        )

    def _pass_to_stream(
        self, held: Held, channel: HeldChannel, item: Item, part: StreamPart, now: float
    ) -> None:
        hold = held.hold
        _advance(channel, item)
        content = self._filter(held, channel, item, part.content, part.filters)
        if content is None:
            return
        if part.action == "close":
            self._finish(held, b"")
            return
        if not self._make_room(held):
            return
        self._append(held, content)
        assert held.pieces is not None
        if 2 * len(held.pieces) >= self._config.max_items_waiting:
            self._crowded = True
        if hold.keep_alive is not None and not hold.keep_alive.interval:
            # `_on_due` finds that it is not due yet.
            held.keep_due = now + hold.keep_alive.timeout

    # Asking the app again.

    def _has_missed(self, held: Held) -> bool:
        """Ask the app again if items were published since it has answered; return whether."""
        known, held.known = held.known, None
        for channel in held.hold.channels:
            if channel.prev_id is not None:
                last = self._last_ids.get(channel.name)
                if last in (None, channel.prev_id) or (known and known.get(channel.name) == last):
                    continue
                self._recover(held)
                return True
        return False

    def _recover(self, held: Held) -> None:
        """Ask the app for what a client has missed."""
        self._count("held_recovered")
        self._ask_again(held)

    def _ask_again(self, held: Held) -> None:
        """Ask the app for the next part of a stream, or again for the answer to a poll."""
        hold = held.hold
        if held.asking:
            return
        if not hold.stream and not held.params:
            # Its client asks again instead, when it has the app's own response.
            self._expire(held)
            return
        if not held.params or (hold.stream and hold.next_uri is None):
            return
        self._unsubscribe(held)
        self._unschedule(held)
        # A client that does not read causes no further requests.
        held.wants = bool(held.pieces)
        if held.wants:
            return
        held.asking = True
        # The app may be ahead of the items that have arrived here. Its answer includes them, so the
        # same ones are no reason to ask it again.
        followed = [each for each in hold.channels if each.prev_id is not None]
        held.known = {each.name: self._last_ids.get(each.name) for each in followed}
        # The response goes on after what the client has got.
        last = [f"{each.name}; last-id={each.prev_id}" for each in followed]
        params = held.params
        if last:
            params = {**params, "vsgi_fcgi.grip_last": ", ".join(last)}

        def done(answer: Answer | None) -> None:
            self._on_answer(held, answer)

        if not self._ask(params, hold.next_uri, done):
            self._on_answer(held, None)

    def _on_answer(self, held: Held, answer: Answer | None) -> None:
        """Go on with a request when the app was asked again."""
        held.asking = False
        if held.outlet is None:
            return
        before = held.hold
        if answer is None:
            self._expire(held)
            return
        hold = answer.hold
        if not before.stream:
            held.answer = answer
            if hold is None or hold.stream:
                self._expire(held)
                return
        else:
            if answer.status[:3] not in ("200", "204") or (hold is not None and not hold.stream):
                self._expire(held)
                return
            self._append_body(held, answer)
            if hold is None:
                self._expire(held)
                return
        if hold.keep_alive is None:
            hold.keep_alive = before.keep_alive
        held.hold = hold
        self._subscribe(held)
        self._go_on(held, monotonic())

    # Stopping.

    @main_only
    def all(self) -> list[Held]:
        """Return all held requests, those first that are due first."""
        return [held for bucket in sorted(self._buckets) for held in self._buckets[bucket]]

    def stop_holding(self) -> None:
        """End each request that would be held from now on."""
        self._stopping = True

    def end(self, held: Held) -> None:
        """End a request because the server stops."""
        self._expire(held)

    def close(self) -> None:
        """Stop the timers."""
        self._clock.stop()
        self._clock.close()
        self._pump.stop()
        self._pump.close()


def _advance(channel: HeldChannel, item: Item) -> None:
    """Take note of the item that a client gets now."""
    if item.id is not None:
        channel.last_id = item.id
    if channel.prev_id is not None:
        channel.prev_id = item.id


def _ignore(answer: Answer | None) -> None:
    """Do nothing with an answer."""


def _encode(status: str, headers: Headers, body: bytes) -> bytes:
    block, _ = encode_header_block(status, headers)
    return block + body
