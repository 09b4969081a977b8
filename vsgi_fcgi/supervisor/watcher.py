"""Watch the files that an app has imported, and those of ``--reload-extra``."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from vsgi_fcgi.exceptions import UsageError

Stamp = tuple[int, int, int]
"""Identifies one version of a file: modification time in nanoseconds, size and inode."""

MAX_FILES = 20_000
"""Largest number of files to watch."""

_MAX_FOLDERS = 1000
"""Largest number of folders to search for a missing module."""

_SCAN_INTERVAL = 1.0
"""Seconds between scans of all files, as NFS and some containers report no changes."""

_QUIET = 0.05
"""Seconds without further changes before a report: editors and git write in several steps."""

_MAX_WAITS = 40
"""How many such waits at most, if the files keep changing."""

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
"""Folders that hold no modules of an app."""

_logger = logging.getLogger("vsgi_fcgi.reload")


class Watch:
    """Watches files in a thread of its own.

    The reports of the system, by watchfiles, only trigger a scan. The scan compares the stamp of
    each file with the last known one. So it also notices a file that was replaced, that is
    reached through a symbolic link, or that was saved while watching began.

    Args:
        extra: files and whole folders that are always watched.
        on_change: called in a thread of the watch when `take` has something to return.

    Raises:
        UsageError: watchfiles is not installed, or a path of ``extra`` does not exist.
    """

    def __init__(self, extra: Iterable[str], on_change: Callable[[], object]) -> None:
        try:
            import watchfiles
        except ImportError:
            raise UsageError(
                "--reload: watchfiles is missing; run pip install 'vsgi-fcgi[reload]'"
            ) from None
        self._watchfiles = watchfiles
        self._on_change = on_change
        self._lock = threading.Lock()
        self._stamps: dict[str, Stamp | None] = {}
        self._real: dict[str, str] = {}
        self._changed: set[str] = set()
        self._relevant: set[str] = set()
        self._search: str | None = None
        self._restart = threading.Event()
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
        """Start to watch."""
        self.add({path: stamp_of(path) for path in self._always})
        threading.Thread(target=self._run, name="vsgi-fcgi-watch", daemon=True).start()
        if self._extra_folders:
            run = self._run_extra
            threading.Thread(target=run, name="vsgi-fcgi-watch-extra", daemon=True).start()

    def stop(self) -> None:
        """Tell the threads to end; returns at once."""
        self._stopping.set()
        self._restart.set()

    def take(self) -> list[str]:
        """Return the sorted paths of the files that changed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
        return sorted(changed)

    # The set of watched files

    def add(self, files: Mapping[str, Stamp | None]) -> None:
        """Watch more files.

        Args:
            files: paths, each with its stamp when it was read, or None if it may have changed
                since. Files that are already watched keep their known stamps.
        """
        with self._lock:
            more = {path: stamp for path, stamp in files.items() if path not in self._stamps}
            for path, stamp in more.items():
                if len(self._stamps) >= MAX_FILES:
                    _logger.warning("more than %d files; further files are not watched", MAX_FILES)
                    break
                self._stamps[path] = stamp
                self._real[path] = os.path.realpath(path)
        if more:
            self._restart.set()

    def keep_only(self, paths: Collection[str]) -> None:
        """Watch only these files and the extra ones, and stop searching for a missing module."""
        with self._lock:
            self._search = None
            for path in [item for item in self._stamps if item not in paths]:
                if path not in self._always:
                    del self._stamps[path], self._real[path]

    def watch_folder(self, folder: str, since: float) -> None:
        """Watch all Python files below a folder too, and report a new one as a change.

        Args:
            folder: folder in which a module that could not be imported may appear.
            since: time in seconds since the epoch. Files that changed later count as changed.
        """
        self.add({path: stamp_since(path, since) for path in _python_files(folder)})
        with self._lock:
            self._search = folder
        self._restart.set()

    # Scanning, in the threads of the watch

    def _run(self) -> None:
        warned = False
        while not self._stopping.is_set():
            self._restart.clear()
            self._scan()
            places = self._places()
            try:
                for _ in self._watchfiles.watch(
                    *places,
                    recursive=False,
                    watch_filter=self._matters,
                    rust_timeout=int(_SCAN_INTERVAL * 1000),
                    yield_on_timeout=True,
                    stop_event=self._restart,
                    raise_interrupt=False,
                ):
                    self._scan()
                    if self._places() != places:
                        break
            except (OSError, RuntimeError) as error:
                # A folder was removed just now, or the system allows no more watches.
                if not warned and not isinstance(error, FileNotFoundError):
                    warned = True
                    _logger.warning(
                        "the system does not report changes (%s); scanning the files every %g s",
                        error,
                        _SCAN_INTERVAL,
                    )
                self._restart.wait(_SCAN_INTERVAL)

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
                # A file that came and went is a temporary file of an editor.
                paths = {path for _, path in changes} - {
                    path for path in came & went if not os.path.exists(path)
                }
                self._report(path for path in paths if not os.path.isdir(path))
        except (OSError, RuntimeError) as error:
            folders = ", ".join(self._extra_folders)
            _logger.warning("%s: changes are not noticed: %s", folders, error)

    def _matters(self, change: object, path: str) -> bool:
        """Return whether a report triggers a scan. Logs and databases may change all the time."""
        return path in self._relevant or (self._search is not None and path.endswith(".py"))

    def _scan(self) -> None:
        """Report files whose stamps differ from the known ones, once they stop changing."""
        found = self._differences()
        for _ in range(_MAX_WAITS):
            if not found or self._stopping.wait(_QUIET):
                break
            before, found = found, self._differences()
            if found == before:
                break
        if found:
            with self._lock:
                known = {path: stamp for path, stamp in found.items() if path in self._stamps}
                self._stamps.update(known)
            self._report(found)

    def _differences(self) -> dict[str, Stamp | None]:
        with self._lock:
            stamps, folder = dict(self._stamps), self._search
        if folder is not None:
            new = {path: None for path in _python_files(folder) if path not in stamps}
            if new:
                self.add(new)
                stamps |= new
        now = ((path, stamp_of(path)) for path in stamps)
        return {path: stamp for path, stamp in now if stamp != stamps[path]}

    def _report(self, paths: Iterable[str]) -> None:
        with self._lock:
            before = len(self._changed)
            self._changed.update(paths)
            more = len(self._changed) > before
        if more:
            self._on_change()

    def _places(self) -> dict[str, tuple[int, int] | None]:
        """Return the folders to watch, each with its device and inode."""
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
    """Return the stamp of a file, or None if it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def stamp_since(path: str, since: float) -> Stamp | None:
    """Return the stamp of a file that was read some time after ``since``.

    Args:
        path: the file.
        since: seconds since the epoch.

    Returns:
        The stamp, or None if the file changed after ``since``. It may then have been read
        before it changed.
    """
    stamp = stamp_of(path)
    # The clock of file systems lags by up to ten milliseconds.
    return None if stamp is None or stamp[0] >= (since - 0.01) * 1e9 else stamp


def _nearest(folder: str) -> str:
    """Return the folder, or its nearest parent that exists, in which it will appear."""
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
    """Yield the folders that may hold modules, each with the names of its files."""
    left = _MAX_FOLDERS
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if _may_hold_modules(folder, name))
        yield folder, files
        left -= 1
        if not left:
            return


def _may_hold_modules(folder: str, name: str) -> bool:
    if name.startswith(".") or name in _SKIPPED:
        return False
    return not Path(folder, name, "pyvenv.cfg").exists()


def _python_files(top: str) -> Iterable[str]:
    for folder, files in _walk(top):
        yield from (os.path.join(folder, name) for name in files if name.endswith(".py"))
