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
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.recording.file import FORMAT, About, encode
from vsgi_fcgi.recording.records import cut, hide_secrets
from vsgi_fcgi.transport.config import TransportConfig
from vsgi_fcgi.transport.loop import Loop, Watcher
from vsgi_fcgi.transport.recording import Entry, Recording
from vsgi_fcgi.transport.unpatched import SimpleQueue, allocate_lock, start_thread

_RECORD_COST: Final = 512
"""Bytes of memory that a connection may use for each record of ``record_records``."""
_MAX_MEMORY: Final = 67108864
"""Bytes of the larger rooms of recordings together (64 MiB)."""
_KEEP: Final = 1024
"""Bytes of each record that are kept of a large read or write: most response headers."""
_SETTLE: Final = 0.1
"""Seconds until a recording is written, which then shows how the connection continued."""
_PER_SECOND: Final = 10
"""Maximum number of recordings that are written within a second because something went wrong."""
_MAX_WAITING: Final = 20
"""Maximum number of recordings that wait for the thread, and that are written on demand."""
_PREFIX: Final = "vsgi-fcgi-"
_SUFFIX: Final = ".recording"


class Log(Protocol):
    """The methods of a log that this package uses, in any thread."""

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
    """Makes the recordings of connections, and writes them: their `Sink`, in the main context.

    Args:
        folder: the folder for files.
        config: the settings.
        log: the log.
        loop: the event loop.
    """

    def __init__(self, folder: str, config: TransportConfig, log: Log, loop: Loop) -> None:
        self.folder = folder
        self._config = config
        self._log = log
        self._loop = loop
        self.room = config.record_records * _RECORD_COST
        self.rooms = _MAX_MEMORY // self.room
        self.keep = max(_KEEP, config.record_body_bytes)
        self._due: list[Recording] = []
        self._timer: Watcher | None = None
        self._queue: SimpleQueue[tuple[About, list[Entry]] | None] = SimpleQueue()
        self._ended: Any = None
        self._off = False
        self._second = 0
        self._count = 0
        self._number = 0
        self._failing = False

    def settle(self, recording: Recording) -> None:
        """Write a recording soon, unless there were too many within this second."""
        if self._off:
            return
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        if self._count > _PER_SECOND:
            recording.reasons = ()
            if self._count == _PER_SECOND + 1:
                self._log.warning(
                    "further recordings of this second are not written, because more than %d"
                    " connections ended badly",
                    _PER_SECOND,
                )
            return
        self._due.append(recording)
        if self._timer is None:
            self._timer = self._loop.timer(_SETTLE, ref=False)
            self._timer.start(self._write_due)

    def _write_due(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        due, self._due = self._due, []
        for recording in due:
            self._submit(recording)

    def write_on_demand(self, recordings: Iterable[Recording]) -> None:
        """Write the first of some recordings, as far as they have entries."""
        for recording in islice(filter(Recording.entries, recordings), _MAX_WAITING):
            recording.note("the server got SIGUSR2")
            self._submit(recording)

    def _submit(self, recording: Recording) -> None:
        # Imported here, because the package is imported before it has a version.
        from vsgi_fcgi import __version__

        reasons, recording.reasons = recording.reasons, ()
        entries = recording.entries()
        if self._off or not entries:
            return
        began = time.time() - (time.monotonic() - entries[0][0])
        protocol = recording.protocol
        limits = protocol._limits
        about = About(
            vsgi_fcgi_recording=FORMAT,
            server=f"vsgi_fcgi {__version__}",
            peer=recording.peer,
            began=datetime.fromtimestamp(began, UTC).isoformat(timespec="microseconds"),
            reasons=list(reasons),
            dropped=recording.dropped,
            max_requests=limits.requests,
            max_params_bytes=limits.params_bytes,
            # Undecoded params are not counted.
            max_params_count=limits.params_bytes if protocol._raw_params else limits.params_count,
            roles=sorted(map(int, protocol._roles)),
        )
        if self._queue.qsize() >= _MAX_WAITING:
            self._fail(f"{_MAX_WAITING} others are waiting")
            return
        if self._ended is None:
            ended = allocate_lock()
            ended.acquire()
            try:
                start_thread(self._run, "vsgi-fcgi-recorder")
            except RuntimeError:
                self._fail("the host allows no more threads")
                return
            self._ended = ended
        self._queue.put((about, entries))

    def _fail(self, reason: str) -> None:
        """Log why a recording is lost, unless this is not the first one."""
        if not self._failing:
            self._failing = True
            self._log.warning(
                "a recording cannot be written to %s: %s; further failures are not logged until it"
                " succeeds",
                self.folder,
                reason,
            )

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._write(*job)
        self._ended.release()

    def _write(self, about: About, entries: list[Entry]) -> None:
        """Write one file. In the recorder's thread."""
        try:
            records = cut(entries)
            hide_secrets(records, self._config.record_body_bytes)
            path = self._create(encode(about, records[-self._config.record_records :]))
            self._remove_oldest()
        except OSError as error:
            self._fail(error.strerror or str(error))
        except Exception as error:
            self._log.warning("a bug in the recorder: %r", error)
        else:
            self._failing = False
            what = "; ".join(about.reasons) or "on demand"
            self._log.info("%s: recorded in %s: %s", about.peer, path, what)

    def _create(self, text: str) -> str:
        """Create a file that others see when it is complete."""
        self._number += 1
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        name = f"{_PREFIX}{stamp}-{os.getpid()}-{self._number}{_SUFFIX}"
        path = os.path.join(self.folder, name)
        part = f"{path}.part"
        try:
            with open(part, "x", encoding="ascii", opener=partial(os.open, mode=0o600)) as file:
                file.write(text)
            os.rename(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
        return path

    def _remove_oldest(self) -> None:
        """Remove the oldest recordings in the folder, of whichever process, beyond the limits."""
        suffixes = _SUFFIX, f"{_SUFFIX}.part"
        names = [each for each in os.listdir(self.folder) if each.startswith(_PREFIX)]
        names = sorted((each for each in names if each.endswith(suffixes)), reverse=True)
        total = 0
        for index, name in enumerate(names):
            path = os.path.join(self.folder, name)
            # Other processes remove files, too.
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(path).st_size
                too_much = total > self._config.record_total_bytes
                # The one that was just written stays, however large it is.
                if index and (too_much or index >= self._config.record_files):
                    os.unlink(path)

    def forked(self) -> None:
        """Record nothing more, in a child that an app has forked."""
        self._off = True
        self._due = []
        self._ended = None

    def stop(self, seconds: float) -> None:
        """Write the recordings that are due, and end the thread.

        Args:
            seconds: maximum time to wait for it.
        """
        self._write_due()
        self._off = True
        if self._ended is not None:
            self._queue.put(None)
            self._ended.acquire(timeout=seconds)
