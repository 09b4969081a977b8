"""Files as response bodies: wsgi.file_wrapper, X-Sendfile and X-Accel-Redirect.

An app that returns ``environ["wsgi.file_wrapper"](file)`` sends a file and nothing else. If the
administrator allows it, the server offloads that to the web server: it sends the header X-Sendfile
or X-Accel-Redirect in place of the content.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final
from urllib.parse import quote

# ``wsgi.file_wrapper`` (PEP 3333, "Optional Platform-Specific File Handling").

_PIECE: Final = 65536
"""Minimum bytes of a plain file that are read at a time."""

# These classes return the bytes of a file unchanged. Other file objects have a name and a
# descriptor as well, but they decompress the content (gzip) or delete the file (tempfile).
_PLAIN: Final = (io.BufferedReader, io.FileIO, io.BufferedRandom)


def is_plain(file: Any) -> bool:
    """Return whether a file object returns the unchanged content of a regular file."""
    if type(file) not in _PLAIN:
        return False
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError):
        return False


class FileWrapper:
    """Iterates over a file-like object in blocks.

    Args:
        file: an object with ``read(size)``; its ``close()``, if it exists, is called at the end.
        block_size: suggested bytes to read at a time. At least 64 KiB of a plain file are read,
            because small blocks take more time and a plain file does not make readers wait.
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
        """Close the file if it has a close method."""
        close = getattr(self.file, "close", None)
        if close is not None:
            close()


X_SENDFILE: Final = "x-sendfile"
X_ACCEL: Final = "x-accel"

_HEADERS: Final = {X_SENDFILE: b"X-Sendfile: ", X_ACCEL: b"X-Accel-Redirect: "}


class Sendfile:
    """Decides which files are offloaded to the web server, and makes the header for it.

    Args:
        kind: `X_SENDFILE`, whose header is a path, or `X_ACCEL`, whose header is a URL in an
            internal location of nginx.
        folders: pairs of a URL and a folder whose files may be offloaded. With `X_SENDFILE` the
            URLs are ignored, and no folders mean that all files may be offloaded.
    """

    def __init__(self, kind: str, folders: Sequence[tuple[str, str]]) -> None:
        self._header = _HEADERS[kind]
        self._is_url = kind == X_ACCEL
        # The folder ends with a separator, so /srv/files-of-others is not inside /srv/files.
        self._folders = (
            [("", "/")]
            if not folders and not self._is_url
            else [
                (url.rstrip("/"), os.path.join(os.path.realpath(folder), ""))
                for url, folder in folders
            ]
        )

    def header_for(self, path: str) -> bytes | None:
        """Return the header that makes the web server send a file.

        Args:
            path: the absolute path of the file.

        Returns:
            The header line, or None if the file is not in any of the folders.
        """
        real = os.path.realpath(path)
        for url, folder in self._folders:
            if real.startswith(folder):
                if self._is_url:
                    real = f"{url}/{real[len(folder) :]}"
                # nginx and lighttpd decode percent-escapes, also in a path.
                return self._header + quote(os.fsencode(real)).encode() + b"\r\n"
        return None

    def wrap(self, file: IO[bytes], block_size: int = 65536) -> SendableFile:
        """Wrap a file for an app; this method is ``wsgi.file_wrapper``."""
        return SendableFile(file, block_size, self)


class SendableFile(FileWrapper):
    """A file that may be offloaded to the web server.

    Args:
        file: see `FileWrapper`.
        block_size: see `FileWrapper`.
        sendfile: decides whether the file is offloaded.
    """

    def __init__(self, file: IO[bytes], block_size: int, sendfile: Sendfile) -> None:
        super().__init__(file, block_size)
        self._sendfile = sendfile

    def offload(self, length: int | None = None) -> bytes | None:
        """Offload a regular file to the web server, if the web server can find it by its name.

        The file is closed before its name is looked up, because closing deletes a temporary file.
        A deleted file is sent by iterating over this object, and so is a file whose size differs
        from the Content-Length: the web server would send the whole file.

        Args:
            length: the Content-Length of the response in bytes; None if it has none.

        Returns:
            The header line, or None if the caller must send the file by iterating over this object.
        """
        path = self._path()
        header = self._sendfile.header_for(path) if path is not None else None
        if path is None or header is None:
            return None
        kept = os.dup(self.file.fileno())
        try:
            self.close()
            identity = os.fstat(kept)
            fits = length is None or length == identity.st_size
            if fits and _is_at(path, identity.st_dev, identity.st_ino):
                os.close(kept)
                self.file = io.BytesIO()
                return header
        except BaseException:
            os.close(kept)
            raise
        self.file = open(kept, "rb", buffering=0)
        return None

    def _path(self) -> str | None:
        """Return the absolute path of a regular file at position 0, or None for any other file."""
        file = self.file
        if not is_plain(file):
            return None
        try:
            name = file.name
            if file.tell():
                return None
        except (OSError, ValueError, AttributeError):
            return None
        if not isinstance(name, str | bytes):
            return None
        return os.path.abspath(os.fsdecode(name))


def _is_at(path: str, device: int, inode: int) -> bool:
    """Return whether the file at a path is the one with this device and inode."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (device, inode)
