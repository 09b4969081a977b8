"""Which changes of files are noticed, however they come about."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import watchfiles
from support.processes import wait_until

from vsgi_fcgi.supervisor import watcher as watching
from vsgi_fcgi.supervisor.watcher import Watch, stamp_of, stamp_since


class Watched:
    """A watch that runs, and what it has noticed so far."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.noticed: list[str] = []

    def add(self, *paths: Path) -> None:
        self.watch.add({str(path): stamp_of(str(path)) for path in paths})

    def wait_for(self, *paths: Path) -> None:
        """Wait until these, and nothing else, have been noticed."""
        names = sorted(map(str, paths))

        def seen() -> bool:
            self.noticed += self.watch.take()
            return set(names) <= set(self.noticed)

        wait_until(seen, f"{names}", 10)
        assert sorted(set(self.noticed)) == names
        self.noticed.clear()


@contextmanager
def watching_files(*extra: Path) -> Iterator[Watched]:
    watch = Watch(map(str, extra), lambda: None)
    watch.start()
    try:
        yield Watched(watch)
    finally:
        watch.stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "file.py"
    path.parent.mkdir()
    path.write_text("1")
    return path


def test_written_replaced_touched_and_removed(file: Path) -> None:
    other = file.with_name("other.py")
    other.write_text("1")
    with watching_files() as watched:
        watched.add(file, other)
        file.write_text("2")
        watched.wait_for(file)
        new = file.with_name("new")
        new.write_text("3")
        new.replace(file)
        watched.wait_for(file)
        os.utime(file, ns=(1, 1))
        watched.wait_for(file)
        # Whoever may read it, its content is the same.
        other.chmod(0o600)
        file.unlink()
        watched.wait_for(file)
        file.write_text("4")
        watched.wait_for(file)


def test_changed_before_watching_began(file: Path) -> None:
    stamp = stamp_of(str(file))
    file.write_text("22")
    with watching_files() as watched:
        watched.watch.add({str(file): stamp})
        watched.wait_for(file)


def test_changed_since_it_was_read_perhaps(file: Path) -> None:
    os.utime(file, (time.time() - 100, time.time() - 100))
    assert stamp_since(str(file), time.time() - 99) == stamp_of(str(file))
    assert stamp_since(str(file), time.time() - 101) is None
    with watching_files() as watched:
        watched.watch.add({str(file): None})
        watched.wait_for(file)
        # A more precise entry is not replaced with a less precise one.
        watched.watch.add({str(file): None})
        other = file.with_name("other.py")
        other.write_text("1")
        watched.watch.add({str(other): None})
        watched.wait_for(other)


def test_behind_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(file)
    with watching_files() as watched:
        watched.add(link)
        file.write_text("2")
        watched.wait_for(link)


def test_in_a_folder_that_goes_and_comes_back(file: Path) -> None:
    with watching_files() as watched:
        watched.add(file)
        shutil.rmtree(file.parent)
        watched.wait_for(file)
        file.parent.mkdir()
        file.write_text("1")
        watched.wait_for(file)
        file.write_text("2")
        watched.wait_for(file)


def test_a_python_file_that_appears_where_it_is_searched(file: Path, tmp_path: Path) -> None:
    for name in (".venv", "node_modules"):
        (tmp_path / name).mkdir()
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    os.utime(file, (1, 1))
    with watching_files() as watched:
        watched.watch.watch_folder(str(tmp_path), time.time())
        for name in (".venv", "node_modules", "env"):
            (tmp_path / name / "other.py").touch()
        (tmp_path / "notes.txt").touch()
        new = tmp_path / "new" / "module.py"
        new.parent.mkdir()
        new.write_text("1")
        watched.wait_for(new)
        file.write_text("2")
        watched.wait_for(file)
        # The app could be loaded: other files do not matter any more.
        watched.watch.keep_only([str(new)])
        file.write_text("3")
        new.write_text("2")
        watched.wait_for(new)


def test_extra_files_and_folders(file: Path, tmp_path: Path) -> None:
    single = tmp_path / "single.cfg"
    single.write_text("1")
    with watching_files(file.parent, single) as watched:
        watched.watch.keep_only([])
        single.write_text("2")
        watched.wait_for(single)
        deep = file.parent / "deep" / "page.html"
        deep.parent.mkdir()

        def noticed() -> bool:
            # The system may need a moment before it reports files in a new folder.
            deep.write_text(str(time.monotonic()))
            return bool(watched.watch.take())

        wait_until(noticed, "the page")
        watched.watch.take()
        cache = file.parent / "__pycache__"
        cache.mkdir()
        (cache / "file.cpython-311.pyc").touch()
        (file.parent / ".file.swp").touch()
        file.write_text("2")
        wait_until(lambda: str(file) in watched.noticed or _more(watched), "the file")
        assert not [path for path in watched.noticed if "__pycache__/" in path or "swp" in path]


def _more(watched: Watched) -> bool:
    watched.noticed += watched.watch.take()
    return False


def test_without_reports_of_the_system(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a system whose users may watch no more folders."""

    def refuse(*paths: str, **options: Any) -> Iterator[object]:
        raise OSError(28, "OS file watch limit reached")

    monkeypatch.setattr(watchfiles, "watch", refuse)
    # The interval is not a setting, and the test must not wait for a second each time.
    monkeypatch.setattr(watching, "_SCAN_INTERVAL", 0.02)
    with caplog.at_level(logging.WARNING), watching_files() as watched:
        watched.add(file)
        for text in ("2", "33"):
            file.write_text(text)
            watched.wait_for(file)
    (message,) = caplog.messages
    assert "OS file watch limit reached" in message
    assert "scanning the files every 0.02 s" in message


def test_the_number_of_files_is_limited(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "MAX_FILES", 1)
    other = file.with_name("other.py")
    other.write_text("1")
    with caplog.at_level(logging.WARNING), watching_files() as watched:
        watched.add(file, other)
        other.write_text("2")
        file.write_text("2")
        watched.wait_for(file)
    assert caplog.messages == ["more than 1 files; further files are not watched"]
