"""Test which files the web server sends, and which the server sends."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import pytest
from support.sinks import FakeSink, run

from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.files import X_ACCEL, X_SENDFILE, Sendfile
from vsgi_fcgi.wsgi.response import StartResponse

DATA = b"the content of a file"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    file = tmp_path / "files" / "a b.txt"
    file.write_bytes(DATA)
    return file


def answer(
    make: Callable[[], IO[bytes]],
    sendfile: Sendfile,
    *,
    status: str = "200 OK",
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    length: int = len(DATA),
) -> FakeSink:
    """Run an app that returns a file."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [("Content-Length", str(length)), ("ETag", '"1"'), *headers])
        found: Iterable[bytes] = sendfile.wrap(make())
        return found

    return run(app, method)


def whole(sink: FakeSink) -> tuple[str, bytes]:
    """The header block and the body that were sent."""
    assert not sink.reports
    head, _, body = b"".join(sink.writes).partition(b"\r\n\r\n")
    return head.decode(), body


def in_folder(path: Path) -> Sendfile:
    return Sendfile(X_SENDFILE, [("", str(path.parent))])


def test_x_sendfile_names_the_path(path: Path) -> None:
    head, body = whole(answer(lambda: open(path, "rb"), in_folder(path)))
    assert body == b""
    where = str(path).replace(" ", "%20")
    assert head == f'Status: 200 OK\r\nETag: "1"\r\nX-Sendfile: {where}'


def test_x_accel_names_the_url(path: Path) -> None:
    sendfile = Sendfile(X_ACCEL, [("/other", "/nowhere"), ("/in/", str(path.parent))])
    head, body = whole(answer(lambda: open(path, "rb"), sendfile))
    assert head.endswith("\r\nX-Accel-Redirect: /in/a%20b.txt")
    assert body == b""


def test_without_a_folder_all_may_be_left(path: Path) -> None:
    head, body = whole(answer(lambda: open(path, "rb"), Sendfile(X_SENDFILE, [])))
    assert "X-Sendfile" in head
    assert body == b""


def _temporary(path: Path) -> IO[bytes]:
    file = tempfile.NamedTemporaryFile(dir=path.parent)
    file.write(DATA)
    file.seek(0)
    return file


def _deleted_by_close(path: Path) -> IO[bytes]:
    # As Django does it: the object is a plain file, and its close() is another's.
    file = open(path, "rb")
    close = file.close

    def close_and_delete() -> None:
        close()
        os.unlink(path)

    file.close = close_and_delete  # type: ignore[method-assign]
    return file


def _read_before(path: Path) -> IO[bytes]:
    (path.parent / "longer").write_bytes(b"skipped" + DATA)
    file = open(path.parent / "longer", "rb")
    assert file.read(7) == b"skipped"
    return file


def _replaced(path: Path) -> IO[bytes]:
    file = open(path, "rb")
    os.rename(path, f"{path}.old")
    path.write_bytes(b"another file at the same path")
    return file


def _by_number(path: Path) -> IO[bytes]:
    return open(os.open(path, os.O_RDONLY), "rb")


def _link_out_of_the_folder(path: Path) -> IO[bytes]:
    outside = path.parent.parent / "outside"
    outside.write_bytes(DATA)
    link = path.parent / "link"
    link.symlink_to(outside)
    return open(link, "rb")


def _neighbour(path: Path) -> IO[bytes]:
    neighbour = Path(f"{path.parent}-of-others")
    neighbour.mkdir()
    (neighbour / "file").write_bytes(DATA)
    return open(neighbour / "file", "rb")


def _compressed(path: Path) -> Any:
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(DATA)
    return gzip.open(f"{path}.gz", "rb")


def _pipe(path: Path) -> IO[bytes]:
    os.mkfifo(path.parent / "pipe")
    fd = os.open(path.parent / "pipe", os.O_RDWR)
    os.write(fd, DATA)
    file = open(path.parent / "pipe", "rb", buffering=0)
    os.close(fd)
    return file


@pytest.mark.parametrize(
    "make",
    [
        _temporary,
        _deleted_by_close,
        _read_before,
        _replaced,
        _by_number,
        _link_out_of_the_folder,
        _neighbour,
        _compressed,
        _pipe,
        lambda path: io.BytesIO(DATA),
    ],
)
def test_these_are_sent_from_here(path: Path, make: Callable[[Path], IO[bytes]]) -> None:
    head, body = whole(answer(lambda: make(path), in_folder(path)))
    assert "X-Sendfile" not in head
    assert body == DATA


@pytest.mark.parametrize(
    ("status", "method", "body"),
    [("206 Partial Content", "GET", DATA), ("404 Not Found", "GET", DATA), ("200 OK", "HEAD", b"")],
)
def test_other_answers_are_made_here(path: Path, status: str, method: str, body: bytes) -> None:
    made = answer(lambda: open(path, "rb"), in_folder(path), status=status, method=method)
    head, sent = whole(made)
    assert head == f'Status: {status}\r\nContent-Length: {len(DATA)}\r\nETag: "1"'
    assert sent == body


@pytest.mark.parametrize("kind", [X_SENDFILE, X_ACCEL])
def test_a_part_of_a_file_is_sent_from_here(path: Path, kind: str) -> None:
    """The web server would send the whole file, in its state at that time (PEP 3333)."""
    sendfile = Sendfile(kind, [("/in", str(path.parent))])
    made = answer(lambda: open(path, "rb"), sendfile, length=10)
    head, body = b"".join(made.writes).split(b"\r\n\r\n")
    assert head == b'Status: 200 OK\r\nContent-Length: 10\r\nETag: "1"'
    assert body == DATA[:10]
    assert made.ended == "finished"


def test_a_file_that_is_shorter_than_its_length_is_broken(path: Path) -> None:
    made = answer(lambda: open(path, "rb"), in_folder(path), length=len(DATA) + 1)
    assert b"X-Sendfile" not in b"".join(made.writes)
    assert made.ended != "finished"


def test_a_path_in_a_header_of_the_app_is_nothing_to_us(path: Path) -> None:
    def make() -> IO[bytes]:
        return io.BytesIO(DATA)

    head, body = whole(answer(make, in_folder(path), headers=[("X-Sendfile", "/etc/passwd")]))
    assert head.count("X-Sendfile") == 1
    assert body == DATA


def test_the_file_is_closed_once(path: Path) -> None:
    closed = []

    def make() -> IO[bytes]:
        file = open(path, "rb")
        close = file.close

        def note() -> None:
            closed.append(1)
            close()

        file.close = note  # type: ignore[method-assign]
        return file

    whole(answer(make, in_folder(path)))
    assert closed == [1]
