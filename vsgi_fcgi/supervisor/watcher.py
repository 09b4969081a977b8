"""Notice changes of the files that an app has imported, and of those of ``--reload-extra``."""

from __future__ import annotations

import logging
import math
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from vsgi_fcgi.exceptions import UsageError

_Stamp = tuple[int, int, int]
"""Identifies one version of a file: modification time in nanoseconds, size and inode."""

MAX_FILES = 20_000
"""Largest number of files to watch."""

_MAX_FOLDERS = 1000
"""Largest number of folders to search for files."""

_INTERVAL = 0.25
"""Seconds between two looks at all files. 500 files take 1 to 3 ms."""

_MIN_REST = 20
"""Smallest ratio of this interval to the duration of a look, if there are many files."""

_QUIET = 0.05
"""Seconds without further changes before a report: editors and git write in several steps."""

_MAX_WAIT = 2.0
"""Seconds after which changes are reported although files keep changing."""

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
"""Folders that hold no modules of an app."""

_TEMPORARY = (".pyc", ".swp", ".swo", ".swx", "~")
"""Ends of the names of files that editors and Python write. They do not count as changes."""

_logger = logging.getLogger("vsgi_fcgi.reload")


class Watch:
    """The watched files, with the last known stamp of each.

    A look compares the stamps with those on the disk. So it also notices a file that was replaced,
    that is reached through a symbolic link, or whose changes the system does not report, as with
    NFS.

    Args:
        extra: files and whole folders that are always watched.

    Attributes:
        next_look: when `changes` looks again, on the monotonic clock.

    Raises:
        UsageError: a path of ``extra`` does not exist.
    """

    def __init__(self, extra: Iterable[str]) -> None:
        self.next_look = 0.0
        self._stamps: dict[str, _Stamp | None] = {}
        self._is_full = False
        self._search: str | None = None
        self._found: dict[str, _Stamp | None] = {}
        self._found_at = 0.0
        self._extra_folders: list[str] = []
        always = []
        for path in map(os.path.abspath, extra):
            if os.path.isdir(path):
                self._extra_folders.append(path)
                always.append(os.path.join(path, ""))
            elif os.path.exists(path):
                always.append(path)
                self.add([path], math.inf)
            else:
                raise UsageError(f"--reload-extra {path} does not exist; name a file or a folder")
        self._always = tuple(always)
        self.add(self._files_in_folders(), math.inf)

    def changes(self) -> list[str]:
        """Return the sorted paths of files that have changed since they were last reported.

        They are returned once they stop changing. Before `next_look`, nothing is returned.
        """
        began = time.monotonic()
        if began < self.next_look:
            return []
        before, self._found = self._found, self._differences()
        now = time.monotonic()
        if not self._found:
            self.next_look = now + max(_INTERVAL, (now - began) * _MIN_REST)
            return []
        if not before:
            self._found_at = now
        self.next_look = now + _QUIET
        if self._found != before and now - self._found_at < _MAX_WAIT:
            return []
        changed, self._found = self._found, {}
        self._stamps.update(changed)
        return sorted(changed)

    def add(self, paths: Iterable[str], since: float) -> None:
        """Watch more files.

        Args:
            paths: the files. Those that are watched already keep their known stamps.
            since: seconds since the epoch. Files that changed later count as changed.
        """
        for path in paths:
            if path in self._stamps:
                continue
            if len(self._stamps) >= MAX_FILES:
                if not self._is_full:
                    self._is_full = True
                    _logger.warning("more than %d files; further files are not watched", MAX_FILES)
                return
            self._stamps[path] = _stamp_since(path, since)

    def keep_only(self, paths: Collection[str]) -> None:
        """Watch only these files and the extra ones, and stop searching for a missing module."""
        self._search = None
        self._stamps = {
            path: stamp
            for path, stamp in self._stamps.items()
            if path in paths or path.startswith(self._always)
        }

    def watch_folder(self, folder: str, since: float) -> None:
        """Watch all Python files below a folder too, and report a new one as a change.

        Args:
            folder: folder in which a module that could not be imported may appear.
            since: time in seconds since the epoch. Files that changed later count as changed.
        """
        self.add(_files(folder, ".py"), since)
        self._search = folder

    def _differences(self) -> dict[str, _Stamp | None]:
        # A new file counts as changed.
        self.add(self._files_in_folders(), 0.0)
        now = ((path, _stamp_of(path)) for path in self._stamps)
        return {path: stamp for path, stamp in now if stamp != self._stamps[path]}

    def _files_in_folders(self) -> Iterator[str]:
        """Yield the files in which changes matter although the app has not imported them."""
        for folder in self._extra_folders:
            yield from _files(folder, "")
        if self._search is not None:
            yield from _files(self._search, ".py")


def _stamp_of(path: str) -> _Stamp | None:
    """Return the stamp of a file, or None if it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _stamp_since(path: str, since: float) -> _Stamp | None:
    """Return the stamp of a file that was read some time after ``since``.

    Args:
        path: the file.
        since: seconds since the epoch.

    Returns:
        The stamp, or None if the file changed after ``since``. It may then have been read
        before it changed.
    """
    stamp = _stamp_of(path)
    # The clock of file systems lags by up to ten milliseconds.
    return None if stamp is None or stamp[0] >= (since - 0.01) * 1e9 else stamp


def _files(top: str, end: str) -> Iterator[str]:
    """Yield the files below a folder whose names have this end, without temporary files."""
    left = _MAX_FOLDERS
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if _may_hold_modules(folder, name))
        for name in files:
            if name.endswith(end) and not name.endswith(_TEMPORARY) and name[:2] != ".#":
                yield os.path.join(folder, name)
        left -= 1
        if not left:
            return


def _may_hold_modules(folder: str, name: str) -> bool:
    if name.startswith(".") or name in _SKIPPED:
        return False
    return not Path(folder, name, "pyvenv.cfg").exists()
