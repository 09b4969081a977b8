"""Which changes of files are noticed, however they come about."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from support.processes import wait_until

from vsgi_fcgi.supervisor import watcher as watching
from vsgi_fcgi.supervisor.watcher import Watch, stamp_of, stamp_since


class Watched:
    """A watch, and what it has noticed so far."""

    def __init__(self, *extra: Path) -> None:
        self.watch = Watch(map(str, extra))
        self.noticed: list[str] = []

    def add(self, *paths: Path) -> None:
        self.watch.add({str(path): stamp_of(str(path)) for path in paths})

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


def test_written_replaced_touched_and_removed(file: Path) -> None:
    other = file.with_name("other.py")
    other.write_text("1")
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


def test_changed_before_watching_began(file: Path) -> None:
    stamp = stamp_of(str(file))
    file.write_text("22")
    watched = Watched()
    watched.watch.add({str(file): stamp})
    watched.wait_for(file)


def test_changed_since_it_was_read_perhaps(file: Path) -> None:
    os.utime(file, (time.time() - 100, time.time() - 100))
    assert stamp_since(str(file), time.time() - 99) == stamp_of(str(file))
    assert stamp_since(str(file), time.time() - 101) is None
    watched = Watched()
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


def test_changes_are_reported_although_a_file_keeps_changing(file: Path) -> None:
    other = file.with_name("other.py")
    other.write_text("1")
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
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "MAX_FILES", 1)
    other = file.with_name("other.py")
    other.write_text("1")
    watched = Watched()
    watched.add(file, other)
    other.write_text("2")
    file.write_text("2")
    watched.wait_for(file)
    assert caplog.messages == ["more than 1 files; further files are not watched"]
