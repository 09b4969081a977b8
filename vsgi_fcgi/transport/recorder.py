"""The flight recorder: keeps the last records of each connection, and writes them if it ends badly.

`Recording` keeps what passes. The recorder writes a recording in a thread of its own: it cuts out
the records, hides secrets, writes a file, and removes the oldest files. Whatever fails there costs
the recording and a warning, and never a request.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.recording.file import FORMAT, About, encode
from vsgi_fcgi.recording.records import IN, OUT, Cutter, Record, hide_secrets
from vsgi_fcgi.recording.records import NOTE as NOTE_RECORD
from vsgi_fcgi.transport.config import TransportConfig
from vsgi_fcgi.transport.loop import Loop, Watcher
from vsgi_fcgi.transport.recording import NOTE, RECEIVED, Entry, Recording
from vsgi_fcgi.transport.unpatched import SimpleQueue, allocate_lock, start_thread

_RECORD_COST: Final = 512
"""Bytes of memory that a connection may use for each record of ``record_records``."""
_MAX_MEMORY: Final = 67108864
"""Bytes of the recordings together (64 MiB); then each connection keeps 8 KiB."""
_SETTLE: Final = 0.1
"""Seconds until a recording is written, which then shows how the connection continued."""
_MAX_DUE: Final = 64
"""Maximum number of recordings that are about to be written."""
_MAX_WAITING: Final = 32
"""Maximum number of recordings that wait for the thread."""
_PER_SECOND: Final = 10
"""Maximum number of recordings that are written within a second because something went wrong."""
_MAX_ON_DEMAND: Final = 20
"""Maximum number of connections that are written on demand."""
_WARNING_INTERVAL: Final = 10.0
"""Seconds between two warnings about recordings that were not written."""
_PREFIX: Final = "vsgi-fcgi-"
_SUFFIX: Final = ".recording"


class Log(Protocol):
    """The methods of a log that the recorder uses, in any thread."""

    def info(self, message: str, *args: object) -> object:
        """Log a message for information."""

    def warning(self, message: str, *args: object) -> object:
        """Log a message about something that an administrator should look at."""


def check_record(folder: str) -> None:
    """Check that files can be created in the folder of the setting ``record``.

    Raises:
        UsageError: creating one failed.
    """
    try:
        tempfile.TemporaryFile(dir=folder, prefix=_PREFIX).close()
    except OSError as error:
        raise UsageError(
            f"record {folder} cannot be used: {os.strerror(error.errno or 0)};"
            " name a folder that exists and that this user may write to"
        ) from error


class Recorder:
    """Makes the recordings of connections, and writes them. It belongs to the main context.

    Args:
        folder: the folder for files.
        config: the settings.
        log: the log.
        loop: the event loop.
        max_requests: the limit of requests on a connection, for a replay.
        max_params_count: the limit of params of a request, for a replay.
        roles: the numbers of the roles that are served, for a replay.

    Attributes:
        limit: maximum number of bytes that a recording may hold.
        keep: bytes of each record of a body that are kept of a large read or write.
    """

    def __init__(
        self,
        folder: str,
        config: TransportConfig,
        log: Log,
        loop: Loop,
        *,
        max_requests: int,
        max_params_count: int,
        roles: Iterable[int],
    ) -> None:
        self._folder = folder
        self._config = config
        self._log = log
        self._loop = loop
        self._limits = max_requests, config.max_params_bytes, max_params_count
        self._roles = sorted(roles)
        self.limit = config.record_records * _RECORD_COST
        self.keep = config.record_body_bytes
        self._reserved = 0
        self._due: list[Recording] = []
        self._timer: Watcher | None = None
        self._queue: SimpleQueue[tuple[About, list[Entry], float] | None] = SimpleQueue()
        self._ended: Any = None
        self._off = False
        self._second = 0
        self._written = 0
        self._number = 0
        self._lost = 0
        self._warned = -_WARNING_INTERVAL
        self._failing = False

    # The sink of recordings.

    def reserve(self, size: int) -> bool:
        """Let a recording hold more bytes, if there is room."""
        if self._reserved + size > _MAX_MEMORY:
            return False
        self._reserved += size
        return True

    def release(self, size: int) -> None:
        """Take note that a recording holds fewer bytes."""
        self._reserved -= size

    def settle(self, recording: Recording) -> None:
        """Write a recording soon."""
        if self._off or len(self._due) >= _MAX_DUE:
            if not self._off:
                self._lose()
            recording.reasons = ()
            return
        self._due.append(recording)
        if self._timer is None:
            self._timer = self._loop.timer(_SETTLE, ref=False)
            self._timer.start(self._on_time)

    def _on_time(self) -> None:
        self._stop_timer()
        self._write_due()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _write_due(self) -> None:
        due, self._due = self._due, []
        for recording in due:
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._written = second, 0
            if self._written >= _PER_SECOND:
                self._lose()
                recording.reasons = ()
            else:
                self._written += 1
                self._submit(recording)

    def write_on_demand(self, recordings: Iterable[Recording]) -> None:
        """Write the recordings of the connections that were active last."""
        found = [each for each in recordings if each.last()]
        found.sort(key=lambda each: (bool(each.protocol.requests), each.last()), reverse=True)
        self._log.info(
            "SIGUSR2: writing the recordings of %d of %d connections to %s",
            min(len(found), _MAX_ON_DEMAND),
            len(found),
            self._folder,
        )
        for recording in found[:_MAX_ON_DEMAND]:
            self._submit(recording)

    def _lose(self) -> None:
        self._lost += 1
        now = time.monotonic()
        if now - self._warned >= _WARNING_INTERVAL:
            self._warned = now
            self._log.warning(
                "%d recordings were not written, because too many connections ended badly at the"
                " same time",
                self._lost,
            )
            self._lost = 0

    # Writing.

    def _submit(self, recording: Recording) -> None:
        reasons, recording.reasons = recording.reasons, ()
        if self._off:
            return
        if self._queue.qsize() >= _MAX_WAITING:
            self._lose()
            return
        # Imported here, because the package is imported before it has a version.
        from vsgi_fcgi import __version__

        entries = recording.entries()
        if not entries:
            return
        began = time.time() - (time.monotonic() - entries[0][0])
        about = About(
            vsgi_fcgi_recording=FORMAT,
            server=f"vsgi_fcgi {__version__}",
            peer=recording.peer,
            began=datetime.fromtimestamp(began, UTC).isoformat(timespec="microseconds"),
            reasons=list(reasons),
            dropped=recording.dropped,
            max_requests=self._limits[0],
            max_params_bytes=self._limits[1],
            max_params_count=self._limits[2],
            roles=self._roles,
        )
        job = about, entries, began
        if self._ended is None:
            self._ended = allocate_lock()
            self._ended.acquire()
            try:
                start_thread(self._run, "vsgi-fcgi-recorder")
            except RuntimeError:
                # This host allows no more threads.
                self._ended = None
                self._write(*job)
                return
        self._queue.put(job)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._write(*job)
        self._ended.release()

    def _write(self, about: About, entries: list[Entry], began: float) -> None:
        """Write one file. In the recorder's thread."""
        try:
            records = cut(entries)
            hide_secrets(records, self._config.record_body_bytes)
            path = self._create(encode(about, records[-self._config.record_records :]), began)
            self._remove_oldest()
        except OSError as error:
            if not self._failing:
                self._log.warning(
                    "a recording cannot be written to %s: %s; further failures are not logged"
                    " until it succeeds",
                    self._folder,
                    error.strerror or error,
                )
            self._failing = True
        except Exception as error:
            self._log.warning("a bug in the recorder: %r", error)
        else:
            self._failing = False
            what = "; ".join(about.reasons) or "on demand"
            self._log.info("%s: recorded in %s: %s", about.peer, path, what)

    def _create(self, text: str, began: float) -> str:
        """Create a file that others see when it is complete."""
        self._number += 1
        stamp = datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%dT%H%M%S.%f")
        name = f"{_PREFIX}{stamp}-{os.getpid()}-{self._number}{_SUFFIX}"
        path = os.path.join(self._folder, name)
        part = f"{path}.part"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(text)
            os.rename(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
        return path

    def _remove_oldest(self) -> None:
        """Remove the oldest recordings in the folder, of whichever process, beyond the limits."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(_PREFIX) and name.endswith((_SUFFIX, f"{_SUFFIX}.part")):
                    # Other processes remove files, too.
                    with contextlib.suppress(FileNotFoundError):
                        found.append((name, entry.stat(follow_symlinks=False).st_size))
        found.sort(reverse=True)
        total = 0
        for index, (name, size) in enumerate(found):
            total += size
            too_much = total > self._config.record_total_bytes or index >= self._config.record_files
            # The one that was just written stays, however large it is.
            if index and too_much:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._folder, name))

    # The end.

    def forked(self, *, stop: bool) -> None:
        """Record nothing more, in a child that an app has forked.

        Args:
            stop: whether the loop may continue in this process.
        """
        self._off = True
        self._due = []
        self._ended = None
        if stop:
            self._stop_timer()

    def stop(self, seconds: float) -> None:
        """Write the recordings that are due, and end the thread.

        Args:
            seconds: maximum time to wait for it.
        """
        self._stop_timer()
        self._write_due()
        self._off = True
        if self._ended is not None:
            self._queue.put(None)
            self._ended.acquire(timeout=seconds)


def cut(entries: list[Entry]) -> list[Record]:
    """Return the records of entries, with times from the first one on. Nothing is hidden yet."""
    zero = entries[0][0] if entries else 0.0
    records: list[Record] = []
    inward: Cutter | None = None
    outward = Cutter(records, OUT)
    for moment, kind, what, at in entries:
        when = moment - zero
        if kind == NOTE:
            records.append(Record(when, when, NOTE_RECORD, text=what))
            continue
        cutter = outward
        if kind == RECEIVED:
            if inward is None:
                skip, pending = at or (0, b"")
                inward = Cutter(records, IN, skip)
                inward.feed(when, pending)
            cutter = inward
        for piece in [what] if isinstance(what, bytes) else what:
            cutter.feed(when, piece)
    for each in (inward, outward):
        if each is not None:
            each.finish()
    return records
