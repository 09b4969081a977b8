"""Test ``wsgi.file_wrapper``: how much it reads at a time."""

from __future__ import annotations

import gzip
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from vsgi_fcgi.wsgi.files import FileWrapper

KIB = 1024


def sizes(file: Any, *arguments: int) -> list[int]:
    return [len(block) for block in FileWrapper(file, *arguments)]


@pytest.mark.parametrize("buffering", [-1, 0])
@pytest.mark.parametrize("arguments", [(), (7,), (8 * KIB,), (64 * KIB,)])
def test_of_a_plain_file_64_kib(buffering: int, arguments: tuple[int, ...], tmp_path: Path) -> None:
    """werkzeug suggests 8 KiB."""
    path = tmp_path / "file"
    path.write_bytes(bytes(150 * KIB))
    with open(path, "rb", buffering=buffering) as file:
        file.seek(10 * KIB)
        assert sizes(file, *arguments) == [64 * KIB, 64 * KIB, 12 * KIB]


def test_more_if_that_is_suggested(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(300 * KIB))
    with path.open("rb") as file:
        assert sizes(file, 200 * KIB) == [200 * KIB, 100 * KIB]


def test_what_is_no_plain_file_is_read_as_suggested(tmp_path: Path) -> None:
    """Somebody may wait for each piece of a pipe."""
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(bytes(25)))
    with gzip.open(path) as packed:
        assert sizes(packed, 10) == [10, 10, 5]
    assert sizes(BytesIO(bytes(25)), 10) == [10, 10, 5]
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as pipe, open(writing, "wb", buffering=0) as end:
        end.write(bytes(25))
        blocks = iter(FileWrapper(pipe, 10))
        assert [len(next(blocks)) for _ in range(3)] == [10, 10, 5]
