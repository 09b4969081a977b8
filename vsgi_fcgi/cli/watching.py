"""Which files have changed: what an app has imported, and what it was told to watch beside."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from vsgi_fcgi.exceptions import UsageError

Stamp = tuple[int, int, int]
"""What tells a version of a file from the next: time of change in nanoseconds, size, inode."""

MOST_FILES = 20_000
"""Files that are watched; what is imported beyond them is not."""

_MOST_FOLDERS = 1000
"""Folders in which a module that is missing is looked for."""

_LOOK = 1.0
"""Seconds between two looks at all files, for what the system does not report (NFS, containers)."""

_REST = 0.05
"""Seconds in which nothing more may change: editors and git write in several steps."""

_MOST_RESTS = 40
"""How often the files may have gone on changing before they are taken as they are."""

_OTHERS = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
"""Folders in which nobody writes the modules of an app."""

_logger = logging.getLogger("vsgi_fcgi.reload")


class Watch:
    """Looks at files in a thread of its own.

    The system's reports (by watchfiles) only say when to look; what has changed is seen by
    comparing each file with what was known of it. So a file that is replaced by another one,
    reached by a symbolic link, or saved in the moment at which watching begins is noticed too.

    Args:
        extra: files, and folders with all that is in them, that are watched always.
        on_change: called in a thread of the watch when `take` has something.

    Raises:
        UsageError: watchfiles is missing, or one of ``extra`` is.
    """

    def __init__(self, extra: Iterable[str], on_change: Callable[[], object]) -> None:
        try:
            import watchfiles
        except ImportError:
            raise UsageError("--reload needs watchfiles: pip install 'vsgi-fcgi[reload]'") from None
        self._watchfiles = watchfiles
        self._on_change = on_change
        self._lock = threading.Lock()
        self._stamps: dict[str, Stamp | None] = {}
        self._real: dict[str, str] = {}
        self._changed: set[str] = set()
        self._relevant: set[str] = set()
        self._search: str | None = None
        self._renew = threading.Event()
        self._stopping = threading.Event()
        self._always: set[str] = set()
        self._extra_folders: list[str] = []
        for path in map(os.path.abspath, extra):
            if os.path.isdir(path):
                self._extra_folders.append(path)
            elif os.path.exists(path):
                self._always.add(path)
            else:
                raise UsageError(f"--reload-extra {path} does not exist; name a file or a folder")

    def start(self) -> None:
        """Begin to watch."""
        self.know({path: stamp_of(path) for path in self._always})
        threading.Thread(target=self._run, name="vsgi-fcgi-watch", daemon=True).start()
        if self._extra_folders:
            run = self._run_extra
            threading.Thread(target=run, name="vsgi-fcgi-watch-extra", daemon=True).start()

    def stop(self) -> None:
        """End the threads, soon."""
        self._stopping.set()
        self._renew.set()

    def take(self) -> list[str]:
        """The files that have changed since this was last asked, in the order of their names."""
        with self._lock:
            changed, self._changed = self._changed, set()
        return sorted(changed)

    # What is watched.

    def know(self, files: Mapping[str, Stamp | None]) -> None:
        """Watch more files.

        Args:
            files: each with its stamp when it was read, or None if it may have changed since.
                Of a file that is watched already, what is known is better.
        """
        with self._lock:
            more = {path: stamp for path, stamp in files.items() if path not in self._stamps}
            for path, stamp in more.items():
                if len(self._stamps) >= MOST_FILES:
                    _logger.warning("more than %d files: the rest is not watched", MOST_FILES)
                    break
                self._stamps[path] = stamp
                self._real[path] = os.path.realpath(path)
        if more:
            self._renew.set()

    def forget_all_but(self, paths: Collection[str]) -> None:
        """Watch these and those that are watched always, and look for no missing module."""
        with self._lock:
            self._search = None
            for path in [item for item in self._stamps if item not in paths]:
                if path not in self._always:
                    del self._stamps[path], self._real[path]

    def search(self, folder: str, since: float) -> None:
        """Watch all Python files below a folder too, and take a new one as a change.

        Args:
            folder: where the module that could not be imported may appear.
            since: the time from which on a file there may have changed unseen, in seconds
                of the epoch.
        """
        self.know({path: stamp_since(path, since) for path in _python_files(folder)})
        with self._lock:
            self._search = folder
        self._renew.set()

    # Looking. In the threads of the watch.

    def _run(self) -> None:
        warned = False
        while not self._stopping.is_set():
            self._renew.clear()
            self._look()
            places = self._places()
            try:
                for _ in self._watchfiles.watch(
                    *places,
                    recursive=False,
                    watch_filter=self._matters,
                    rust_timeout=int(_LOOK * 1000),
                    yield_on_timeout=True,
                    stop_event=self._renew,
                    raise_interrupt=False,
                ):
                    self._look()
                    if self._places() != places:
                        break
            except (OSError, RuntimeError) as error:
                # A folder has just gone, or the system allows no more watches.
                if not warned and not isinstance(error, FileNotFoundError):
                    warned = True
                    _logger.warning(
                        "the system does not report changes (%s): files are looked at every %g s",
                        error,
                        _LOOK,
                    )
                self._renew.wait(_LOOK)

    def _run_extra(self) -> None:
        ends = self._watchfiles.Change.added, self._watchfiles.Change.deleted
        try:
            for changes in self._watchfiles.watch(
                *self._extra_folders,
                recursive=True,
                stop_event=self._stopping,
                raise_interrupt=False,
            ):
                came, went = ({path for kind, path in changes if kind is change} for change in ends)
                # What has come and gone is a step of whoever saved another file.
                paths = {path for _, path in changes} - {
                    path for path in came & went if not os.path.exists(path)
                }
                self._note(path for path in paths if not os.path.isdir(path))
        except (OSError, RuntimeError) as error:
            folders = ", ".join(self._extra_folders)
            _logger.warning("changes in %s go unnoticed: %s", folders, error)

    def _matters(self, change: object, path: str) -> bool:
        """Whether a report is a reason to look: logs and databases may change all the time."""
        return path in self._relevant or (self._search is not None and path.endswith(".py"))

    def _look(self) -> None:
        """Note what differs from what was known, once it has come to rest."""
        found = self._differences()
        for _ in range(_MOST_RESTS):
            if not found or self._stopping.wait(_REST):
                break
            before, found = found, self._differences()
            if found == before:
                break
        if found:
            with self._lock:
                known = {path: stamp for path, stamp in found.items() if path in self._stamps}
                self._stamps.update(known)
            self._note(found)

    def _differences(self) -> dict[str, Stamp | None]:
        with self._lock:
            stamps, folder = dict(self._stamps), self._search
        if folder is not None:
            new = {path: None for path in _python_files(folder) if path not in stamps}
            if new:
                self.know(new)
                stamps |= new
        now = ((path, stamp_of(path)) for path in stamps)
        return {path: stamp for path, stamp in now if stamp != stamps[path]}

    def _note(self, paths: Iterable[str]) -> None:
        with self._lock:
            before = len(self._changed)
            self._changed.update(paths)
            more = len(self._changed) > before
        if more:
            self._on_change()

    def _places(self) -> dict[str, tuple[int, int] | None]:
        """The folders to watch, with what tells each from another of the same name."""
        with self._lock:
            files = {*self._real, *self._real.values()}
            search = self._search
        folders = set(map(os.path.dirname, files))
        if search is not None:
            folders.update(folder for folder, _ in _walk(search))
        places = {place: _identity(place) for place in map(_nearest, folders)}
        self._relevant = files.union(places)
        return places


def stamp_of(path: str) -> Stamp | None:
    """The stamp of a file; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def stamp_since(path: str, since: float) -> Stamp | None:
    """The stamp of a file that was read some time after ``since``.

    Args:
        path: the file.
        since: seconds of the epoch.

    Returns:
        The stamp; None where the file is newer than that, and may have been read before it
        changed.
    """
    stamp = stamp_of(path)
    # The clock of file systems lags behind by up to ten milliseconds.
    return None if stamp is None or stamp[0] >= (since - 0.01) * 1e9 else stamp


def _nearest(folder: str) -> str:
    """The folder, or the nearest above it that exists: that is where it will appear."""
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _walk(top: str) -> Iterable[tuple[str, list[str]]]:
    """The folders that modules may be in, each with the names of its files."""
    left = _MOST_FOLDERS
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if _may_hold_modules(folder, name))
        yield folder, files
        left -= 1
        if not left:
            return


def _may_hold_modules(folder: str, name: str) -> bool:
    if name.startswith(".") or name in _OTHERS:
        return False
    return not Path(folder, name, "pyvenv.cfg").exists()


def _python_files(top: str) -> Iterable[str]:
    for folder, files in _walk(top):
        yield from (os.path.join(folder, name) for name in files if name.endswith(".py"))
