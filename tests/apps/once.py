"""App that logs each request that it runs, and answers with the digest of its body."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Note the path in the file that the environment variable ``JOURNAL`` names."""
    body = environ["wsgi.input"].read()
    os.write(_journal, environ["PATH_INFO"].encode() + b"\n")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "40")])
    return [hashlib.sha1(body).hexdigest().encode()]
