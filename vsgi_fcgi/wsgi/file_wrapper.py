"""``wsgi.file_wrapper`` (PEP 3333, "Optional Platform-Specific File Handling")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO


class FileWrapper:
    """Iterates over a file-like object block by block.

    Args:
        file: anything with ``read(size)``; its ``close()``, if any, is called at the end.
        block_size: bytes to read at a time.
    """

    def __init__(self, file: IO[bytes], block_size: int = 65536) -> None:
        self.file = file
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        while block := self.file.read(self.block_size):
            yield block

    def close(self) -> None:
        """Close the file, if it can be closed."""
        close = getattr(self.file, "close", None)
        if close is not None:
            close()
