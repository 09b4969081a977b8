"""All open connections of a server or a relay, and what they share.

They share the rounds of the loop, too. All readable connections are read first. What they have
brought is worked on at the end of the round, and all output is sent after that: `end_round`. When a
worker in another thread has a result, `wake` begins a round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from vsgi_fcgi.transport.closing import ClosableConnection, Outcome
from vsgi_fcgi.transport.loop import AsyncWatcher, Loop, Watcher
from vsgi_fcgi.transport.quota import Quota
from vsgi_fcgi.transport.unpatched import get_ident

if TYPE_CHECKING:
    from vsgi_fcgi.listen.sharing import Sharing
    from vsgi_fcgi.transport.recorder import Log, Recorder

_FIRST_REQUEST = 0.5
"""Seconds that a new connection gets to send its request after a stop has begun."""

_LAST_RECORDINGS = 2.0
"""Seconds to write the last recordings when the process stops."""

C = TypeVar("C", bound=ClosableConnection)
M = TypeVar("M", contravariant=True)


class Mover(Protocol[M]):
    """Hands connections over to another process: `vsgi_fcgi.transport.handover.Handover`."""

    def look(self, connection: M) -> None:
        """Hand over a connection if nothing is active on it."""

    def watch(self, connection: M, reader: Watcher) -> None:
        """Read from a connection if a request on it is incomplete."""

    def stop(self) -> None:
        """Hand over no more connections."""


class Flushable(Protocol):
    """A writer, as seen by the connections."""

    def flush(self) -> None:
        """Send all queued bytes."""

    def fail(self, error: Exception) -> None:
        """Close the connection after an error in this package."""


class Connections(Generic[C]):
    """The open connections of one process, their limits, and how they close when it stops.

    Args:
        loop: the event loop.
        log: the log.
        limit: maximum number of open connections.
        memory: quota of bytes of bodies and of unsent output in memory.
        params: quota of bytes of unfinished requests and their params.
        report_bug: logs an error in this package; called with the error and the name of the peer.

    Attributes:
        open: all open connections.
        dirty: writers with something to send; the end of the round sends it.
        hand_over: called at the end of each round: the server runs its apps or wakes its workers.
            None if there is nothing to do.
        collect: takes what workers have posted; see `collect_with`. None if there are no workers.
        round_due: `end_round` will be called.
        scratch: the buffer into which connections read while a large body arrives; None if
            `Connection.handle` keeps what it gets.
        sharing: the numbers of connections of all processes that a supervisor has started; None
            without one.
        stopping: connections close as they become idle.
        handover: hands connections over as they become idle; None usually.
        wants_idle: writers report connections that become idle to `became_idle`. Usually they do
            not.
        late: requests that arrived over TCP after their connection was shut down. They are lost.
        recorder: records the connections; None usually.
        wants_room: an acceptor has paused until `on_room` is called.
        on_room: called when a connection was closed, or became idle after none was.
        on_empty: called when the last connection was closed.
    """

    __slots__ = (
        "_async",
        "_by_age",
        "_closing",
        "_ident",
        "_is_late",
        "_timer",
        "_unwatched",
        "collect",
        "dirty",
        "hand_over",
        "handover",
        "late",
        "limit",
        "log",
        "loop",
        "memory",
        "on_empty",
        "on_room",
        "open",
        "params",
        "recorder",
        "report_bug",
        "round_due",
        "scratch",
        "sharing",
        "stopping",
        "wants_idle",
        "wants_room",
    )

    def __init__(
        self,
        loop: Loop,
        log: Log,
        *,
        limit: int,
        memory: Quota,
        params: Quota,
        report_bug: Callable[[Exception, str], object],
    ) -> None:
        self.loop = loop
        self.log = log
        self.limit = limit
        self.memory = memory
        self.params = params
        self.report_bug = report_bug
        self.open: set[C] = set()
        self.dirty: list[Flushable] = []
        self.scratch: memoryview | None = None
        self.sharing: Sharing | None = None
        self.stopping = False
        self.handover: Mover[C] | None = None
        self.recorder: Recorder | None = None
        self.wants_idle = False
        self.wants_room = False
        self.late = 0
        self.on_room: Callable[[], object] | None = None
        self.on_empty: Callable[[], object] | None = None
        self.hand_over: Callable[[], object] | None = None
        self.collect: Callable[[], object] | None = None
        self.round_due = False
        self._ident = get_ident()
        self._async: AsyncWatcher | None = None
        # Accepted in this round.
        self._unwatched: list[C] = []
        self._by_age: list[tuple[float, C]] = []
        # Those that were idle once since the stop began.
        self._closing: set[C] = set()
        self._is_late = False
        self._timer: Watcher | None = None

    def __len__(self) -> int:
        return len(self.open)

    def __iter__(self) -> Iterator[C]:
        """Iterate over a copy: connections may be closed meanwhile."""
        return iter(list(self.open))

    # A round.

    def request_round(self) -> None:
        """Have `end_round` called when all readable connections were read. In the loop's thread."""
        if not self.round_due:
            self.round_due = True
            self.loop.run_callback(self.end_round)

    def end_round(self) -> None:
        """Do the work that this round of the loop has brought, then send its results."""
        self.round_due = False
        if self.hand_over is not None:
            self.hand_over()
        if self.collect is not None:
            self.collect()
        if self.dirty:
            self.flush_dirty()
        if self._unwatched:
            # Most connections of web servers that do not keep them are closed by now.
            unwatched, self._unwatched = self._unwatched, []
            for connection in unwatched:
                connection.watch()

    def flush_dirty(self) -> None:
        """Send on every connection that has something to send. Raises nothing."""
        dirty, self.dirty = self.dirty, []
        for writer in dirty:
            try:
                writer.flush()
            except Exception as error:
                writer.fail(error)

    # Results of workers.

    def collect_with(self, collect: Callable[[], object]) -> None:
        """Have results of workers collected in each round, and after each call of `wake`."""
        self.collect = collect
        self._async = self.loop.async_()
        self._async.start(self._deliver)

    def wake(self) -> None:
        """Have results collected soon. Callable from any thread, until `stop_collecting`."""
        if get_ident() == self._ident:
            self.request_round()
        elif self._async is not None:
            self._async.send()

    def _deliver(self) -> None:
        """Send the results of other threads, before this round's reading.

        Web servers then send their next requests meanwhile. With 8 connections and threads on one
        core, waiting for the end of the round took one thread switch in ten more.
        """
        if self.collect is not None:
            self.collect()
        self.flush_dirty()

    def stop_collecting(self) -> None:
        """Stop to react to `wake`. In a child process that an app has forked, too."""
        if self._async is not None:
            self._async.stop()
            self._async.close()
            self._async = None

    # From accept to close.

    def adopt(self, connection: C) -> None:
        """Add an accepted connection, and read a request that has arrived already."""
        self.open.add(connection)
        if self.sharing is not None:
            self.sharing.set(len(self.open))
        connection.on_readable()
        if not connection.closed:
            self._unwatched.append(connection)
            if not self.round_due:
                self.request_round()

    def forget(self, connection: C) -> None:
        """Remove a connection that was closed."""
        self.open.discard(connection)
        if self.sharing is not None:
            self.sharing.set(len(self.open))
        self.late += connection.late
        if self.wants_room:
            self.make_room()
        if not self.open and self.on_empty is not None:
            self.on_empty()

    def became_idle(self, connection: C) -> None:
        """Handle a connection that has become idle: close it, or let an acceptor close it."""
        if connection.input_over:
            connection.close()
        elif self.handover is not None:
            self.handover.look(connection)
        elif connection in self._closing and self._is_late:
            # On a TCP connection that is never idle for long, another request always follows.
            connection.close_if_idle(at_once=True)
        elif self.stopping and connection not in self._closing:
            self._closing.add(connection)
            if connection.protocol.asked_values:
                # Not at once: the web server may have sent the next request by now.
                self.loop.run_callback(connection.close_if_idle)
            else:
                # The web server sees the end of the connection together with that of its request,
                # and connects elsewhere.
                connection.close_if_idle()
        elif self.stopping:
            self.loop.run_callback(connection.close_if_idle)
        else:
            self.wants_idle = False
            if self.wants_room:
                self.make_room()

    def make_room(self) -> None:
        """Let acceptors continue that have paused because too many connections were open."""
        self.wants_room = False
        if self.on_room is not None:
            self.on_room()

    def longest_idle(self) -> C | None:
        """Return the connection that has been idle longest, or None if no connection is idle.

        Sorting all connections each time would take too long. So the order is used until no
        connection is left in it; connections that were active in between are skipped.
        """
        for fresh in (False, True):
            if fresh:
                idle = [(each.last_active, each) for each in self.open if each.is_idle()]
                self._by_age = sorted(idle, key=lambda item: item[0], reverse=True)
            while self._by_age:
                seen, connection = self._by_age.pop()
                if (
                    not connection.closed
                    and connection.is_idle()
                    and connection.last_active == seen
                ):
                    return connection
        self.wants_idle = True
        return None

    # Stopping.

    def begin_stopping(self, grace: float | None) -> None:
        """Read once from each connection, and close each connection as it becomes idle.

        After `_FIRST_REQUEST` connections that are still busy take no more requests (UNIX
        sockets), or are closed the next time that they are idle (TCP).

        Two kinds of connections stay open for that time although they are idle. A connection on
        which nothing has ever arrived: its web server is about to send a request, and would take
        the end of the connection for a failure. And one of a web server that sends one request at
        a time: usually the next request arrives first, and the connection ends with its response.

        Args:
            grace: seconds that running requests get; None for no limit.
        """
        if self.handover is not None:
            self.handover.stop()
            self.handover = None
        self.stopping = self.wants_idle = True
        for connection in self:
            if not connection.silent:
                connection.begin_closing()
        if self.open:
            wait = _FIRST_REQUEST if grace is None else min(_FIRST_REQUEST, grace / 2)
            self._timer = self.loop.timer(wait)
            self._timer.start(self._close_all_soon)

    def _close_all_soon(self) -> None:
        self._is_late = True
        for connection in self:
            connection.close_if_idle()
            connection.close_soon()

    def count_busy(self) -> int:
        """Return the number of connections with requests, and log that these will be cut off."""
        busy = sum(not connection.is_idle() for connection in self.open)
        if busy:
            self.log.warning("connections that still had requests are cut off: %d", busy)
        return busy

    def stop_timer(self) -> None:
        """Stop the timer of `begin_stopping`."""
        if self._timer is not None:
            self._timer.stop()

    def close(self) -> None:
        """Close all connections; the requests on them are lost."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        if self.handover is not None:
            self.handover.stop()
        for connection in self:
            connection.lose(Outcome.STOPPED)
        if self.recorder is not None:
            self.recorder.stop(_LAST_RECORDINGS)

    def record_now(self) -> None:
        """Write recordings of the connections that were active last."""
        if self.recorder is None:
            self.log.info("SIGUSR2: no connection is recorded, because --record is not set")
            return
        self.log.info("SIGUSR2: writing recordings to %s", self.recorder.folder)
        active = sorted(
            self.open, key=lambda each: (bool(each.protocol.requests), each.last_active)
        )
        found = [each.recording for each in reversed(active) if each.recording is not None]
        self.recorder.write_on_demand(found)

    def report_late(self) -> None:
        """Log how many requests arrived too late, if any did."""
        if self.late:
            self.log.warning(
                "requests that were sent on TCP connections while these were closed are lost: %d."
                " With a UNIX socket no request would be lost",
                self.late,
            )
