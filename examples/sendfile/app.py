"""An app that answers with files. It does not know whether the web server sends them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("FILES") or "files")


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Send the file that the path names."""
    path = Path(os.path.normpath(f"/{environ['PATH_INFO']}").lstrip("/"))
    name = path.as_posix().encode("latin-1").decode("utf-8", "surrogateescape")
    try:
        file = open(FOLDER / name, "rb")
    except OSError:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There is no such file.\n"]
    length = os.fstat(file.fileno()).st_size
    start_response(
        "200 OK",
        [("Content-Type", "application/octet-stream"), ("Content-Length", str(length))],
    )
    found: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
    return found
