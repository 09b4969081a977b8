"""Files that the web server sends instead of us: X-Sendfile and X-Accel-Redirect.

An app that returns ``environ["wsgi.file_wrapper"](file)`` says that a file is to be sent, and
nothing else. Where the deployer allows it, a header tells the web server to do that.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import IO, Final
from urllib.parse import quote

from vsgi_fcgi.wsgi.file_wrapper import FileWrapper, is_plain

X_SENDFILE: Final = "x-sendfile"
X_ACCEL: Final = "x-accel"

_HEADERS: Final = {X_SENDFILE: b"X-Sendfile: ", X_ACCEL: b"X-Accel-Redirect: "}


class Sendfile:
    """Which files are left to the web server, and how it is told.

    Args:
        kind: `X_SENDFILE`, which names a path, or `X_ACCEL`, which names a URL of an internal
            location.
        folders: URLs and the folders whose files may be left to it; with `X_SENDFILE` the URLs
            do not matter, and without a folder all files may.
    """

    def __init__(self, kind: str, folders: Sequence[tuple[str, str]]) -> None:
        self._header = _HEADERS[kind]
        self._is_url = kind == X_ACCEL
        # With the separator: /srv/files-of-others is no part of /srv/files.
        self._folders = (
            [("", "/")]
            if not folders and not self._is_url
            else [
                (url.rstrip("/"), os.path.join(os.path.realpath(folder), ""))
                for url, folder in folders
            ]
        )

    def header_for(self, path: str) -> bytes | None:
        """The header that has a file sent; None if it is in none of the folders.

        Args:
            path: its absolute path.
        """
        real = os.path.realpath(path)
        for url, folder in self._folders:
            if real.startswith(folder):
                if self._is_url:
                    real = f"{url}/{real[len(folder) :]}"
                # Both web servers decode percent-escapes, in a path too.
                return self._header + quote(os.fsencode(real)).encode() + b"\r\n"
        return None

    def wrap(self, file: IO[bytes], block_size: int = 65536) -> SendableFile:
        """Make what an app returns; this is its ``wsgi.file_wrapper``."""
        return SendableFile(file, block_size, self)


class SendableFile(FileWrapper):
    """A file that the web server may send.

    Args:
        file: see `FileWrapper`.
        block_size: see `FileWrapper`.
        sendfile: decides whether it may.
    """

    def __init__(self, file: IO[bytes], block_size: int, sendfile: Sendfile) -> None:
        super().__init__(file, block_size)
        self._sendfile = sendfile

    def leave(self) -> bytes | None:
        """Leave the file to the web server, if it is a regular one that it will find by its name.

        The file is closed first, and looked for afterwards: it may be a temporary one that is
        deleted by that. If it is gone, it is still sent from here.

        Returns:
            The header that has it sent; None if it is to be sent from here, by iterating.
        """
        path = self._path()
        header = self._sendfile.header_for(path) if path is not None else None
        if path is None or header is None:
            return None
        kept = os.dup(self.file.fileno())
        try:
            self.close()
            identity = os.fstat(kept)
            if _is_at(path, identity.st_dev, identity.st_ino):
                os.close(kept)
                self.file = io.BytesIO()
                return header
        except BaseException:
            os.close(kept)
            raise
        self.file = open(kept, "rb", buffering=0)
        return None

    def _path(self) -> str | None:
        """The absolute path of a regular file that is to be sent from its beginning."""
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
    """Whether a file is at a path now."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (device, inode)
