"""Which changes of files are noticed, however they come about."""

from __future__ import annotations

import importlib
import math
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from support.processes import wait_until

from vsgi_fcgi.supervisor import watcher as watching
from vsgi_fcgi.supervisor.watched import ImportedFiles
from vsgi_fcgi.supervisor.watcher import Watch


class Watched:
    """A watch, and what it has noticed so far."""

    def __init__(self, *extra: Path) -> None:
        self.watch = Watch(map(str, extra))
        self.noticed: list[str] = []

    def add(self, *paths: Path) -> None:
        self.watch.add(map(str, paths), math.inf)

    def wait_for(self, *paths: Path) -> None:
        """Wait until these, and nothing else, have been noticed."""
        names = sorted(map(str, paths))

        def seen() -> bool:
            self.noticed += self.watch.changes()
            return set(names) <= set(self.noticed)

        wait_until(seen, f"{names}", 10)
        assert sorted(set(self.noticed)) == names
        self.noticed.clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "file.py"
    path.parent.mkdir()
    path.write_text("1")
    return path


@pytest.fixture
def other(file: Path) -> Path:
    path = file.with_name("other.py")
    path.write_text("1")
    return path


def test_written_replaced_touched_and_removed(file: Path, other: Path) -> None:
    watched = Watched()
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


def test_changed_since_it_was_read_perhaps(file: Path) -> None:
    before, other = time.time(), file.with_name("other.py")
    other.write_text("1")
    os.utime(other, (before - 100, before - 100))
    watched = Watched()
    watched.watch.add([str(file), str(other)], before - 99)
    watched.wait_for(file)
    # A file that is watched already keeps its known state.
    watched.watch.add([str(file)], before - 99)
    watched.watch.keep_only([str(file)])
    watched.watch.add([str(other)], before - 101)
    watched.wait_for(other)


def test_a_change_is_noticed_after_a_message_that_could_not_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "imported_late.py"
    path.write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    watched = Watched()
    # Without room, the message does not fit into the socket.
    room = False

    def send(files: list[str], since: float) -> bool:
        watched.watch.add([each for each in files if each == str(path)] if room else [], since)
        return room

    imported = ImportedFiles(send)
    importlib.import_module("imported_late")
    imported.report()
    assert imported.may_be_more
    path.write_text("TEXT = 2")
    changed = path.stat().st_mtime
    wait_until(lambda: time.time() > changed + 0.05, "a time that is later on any clock")
    imported.report()
    room = True
    imported.report()
    assert not imported.may_be_more
    watched.wait_for(path)
    monkeypatch.delitem(sys.modules, "imported_late")


def test_behind_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(file)
    watched = Watched()
    watched.add(link)
    file.write_text("2")
    watched.wait_for(link)


def test_in_a_folder_that_goes_and_comes_back(file: Path) -> None:
    watched = Watched()
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
    watched = Watched()
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
    watched = Watched(file.parent, single)
    watched.watch.keep_only([])
    single.write_text("2")
    watched.wait_for(single)
    deep = file.parent / "deep" / "page.html"
    deep.parent.mkdir()
    deep.write_text("1")
    watched.wait_for(deep)
    for name in ("__pycache__/file.cpython-311.pyc", ".git/index", ".file.swp", "page.html~"):
        (file.parent / name).parent.mkdir(exist_ok=True)
        (file.parent / name).touch()
    deep.unlink()
    watched.wait_for(deep)
    # A saved file that replaces another one in several steps counts once.
    new = file.with_name("4913")
    new.touch()
    new.replace(file)
    watched.wait_for(file)


def test_changes_are_reported_although_a_file_keeps_changing(file: Path, other: Path) -> None:
    watched = Watched()
    watched.add(file, other)
    other.write_text("2")

    def reported() -> bool:
        file.write_text(str(time.monotonic()))
        return str(other) in watched.watch.changes()

    wait_until(reported, "the change")


def test_many_files_are_looked_at_less_often(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    watched.add(file)
    watched.watch.changes()
    often = watched.watch.next_look - time.monotonic()
    monkeypatch.setattr(watching, "_MIN_REST", 1e9)
    wait_until(lambda: time.monotonic() >= watched.watch.next_look, "the next look")
    watched.watch.changes()
    assert watched.watch.next_look - time.monotonic() > often


def test_the_number_of_files_is_limited(
    file: Path, other: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "MAX_FILES", 1)
    watched = Watched()
    watched.add(file, other)
    other.write_text("2")
    file.write_text("2")
    watched.wait_for(file)
    assert caplog.messages == ["more than 1 files; further files are not watched"]
