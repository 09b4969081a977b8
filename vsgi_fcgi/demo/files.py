"""The files that the page needs: style, script, icon."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import TYPE_CHECKING

from vsgi_fcgi.demo.responses import respond, start

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

FOLDER = files("vsgi_fcgi.demo")


class File:
    """A file of the package, which is kept in memory.

    Attributes:
        query: names its version. A link that ends in it may be kept for good.

    Args:
        name: its name.
        content_type: what it is.
    """

    def __init__(self, name: str, content_type: str) -> None:
        self._data = FOLDER.joinpath(name).read_bytes()
        self._content_type = content_type
        self.query = "v=" + hashlib.sha256(self._data).hexdigest()[:12]
        self._tag = f'"{self.query[2:]}"'

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer with the file, or with 304 to who has it already."""
        for_good = environ.get("QUERY_STRING") == self.query
        headers = [
            ("Cache-Control", "public, max-age=31536000, immutable" if for_good else "no-cache"),
            ("ETag", self._tag),
        ]
        known = environ.get("HTTP_IF_NONE_MATCH", "").split(",")
        # A web server that compresses the answer makes the tag a weak one.
        if self._tag in [tag.strip().removeprefix("W/") for tag in known]:
            start(start_response, "304 Not Modified", *headers)
            return []
        return respond(
            environ, start_response, self._data, *headers, content_type=self._content_type
        )


STYLE = File("demo.css", "text/css; charset=utf-8")
SCRIPT = File("demo.js", "text/javascript; charset=utf-8")
ICON = File("icon.svg", "image/svg+xml")
