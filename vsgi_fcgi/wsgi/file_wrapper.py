"""``wsgi.file_wrapper`` (PEP 3333, "Optional Platform-Specific File Handling")."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from typing import IO, Any, Final

_PIECE: Final = 65536
"""Bytes that are read of a plain file at a time, at least."""

# What reads the bytes of the file as they are. Others have a name and a descriptor, too, and
# decompress what they read, or delete the file at the end.
_PLAIN: Final = (io.BufferedReader, io.FileIO, io.BufferedRandom)


def is_plain(file: Any) -> bool:
    """Whether a file object reads a regular file, and nothing in between changes it."""
    if type(file) not in _PLAIN:
        return False
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError):
        return False


class FileWrapper:
    """Iterates over a file-like object block by block.

    Args:
        file: anything with ``read(size)``; its ``close()``, if any, is called at the end.
        block_size: bytes to read at a time. It is a suggestion, and too small a one costs time:
            of a plain file, for which nobody waits, at least 64 KiB are read.
    """

    def __init__(self, file: IO[bytes], block_size: int = _PIECE) -> None:
        self.file = file
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        size = self.block_size
        if size < _PIECE and is_plain(self.file):
            size = _PIECE
        while block := self.file.read(size):
            yield block

    def close(self) -> None:
        """Close the file, if it can be closed."""
        close = getattr(self.file, "close", None)
        if close is not None:
            close()
