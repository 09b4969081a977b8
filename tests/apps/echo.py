"""App of the matrix: answers with the request as JSON, or as the request demands."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any
from wsgiref.validate import validator

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PIECE = bytes(range(256)) * 256
MOMENTS = ("first", "started", "between", "last", "closing")

# The validator knows few methods, and says so of each other one.
warnings.filterwarnings("ignore", "Unknown REQUEST_METHOD: 'PROPFIND'")


def content(size: int) -> Iterator[bytes]:
    """So many bytes, in pieces."""
    for at in range(0, size, len(PIECE)):
        yield PIECE[: size - at]


def digest(pieces: Iterable[bytes]) -> str:
    """What tells a body from all others."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


class Answer:
    """Write a word to ``wsgi.errors`` at every moment, if the request has one."""

    def __init__(self, pieces: Iterable[bytes], errors: IO[str], word: str) -> None:
        self._pieces = pieces
        self._errors = errors
        self._word = word

    def say(self, moment: str) -> None:
        if self._word:
            self._errors.write(f"{self._word} {moment}\n")

    def __iter__(self) -> Iterator[bytes]:
        for number, piece in enumerate(self._pieces):
            if number:
                self.say("between")
            yield piece
        self.say("last")

    def close(self) -> None:
        self.say("closing")


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as the header X-Answer says.

    It is a JSON object, and may hold: ``status``; ``headers``, pairs; ``many``, the number and the
    size of further headers; ``size``, of the body; ``counted``, whether it has a Content-Length;
    ``complain``, a word for ``wsgi.errors``. Without a size, the response describes the request.
    """
    wanted: dict[str, Any] = json.loads(environ.get("HTTP_X_ANSWER", "{}"))
    answer = Answer((), environ["wsgi.errors"], wanted.get("complain", ""))
    answer.say("first")
    status: str = wanted.get("status", "200 OK")
    headers = [(name, value) for name, value in wanted.get("headers", ())]
    number, size = wanted.get("many", (0, 0))
    headers += [(f"X-Large-{at}", f"{at % 10}" * size) for at in range(number)]
    pieces: Iterable[bytes] = ()
    if status[:3] not in ("204", "304"):
        if "size" in wanted:
            length, kind = wanted["size"], "application/octet-stream"
            pieces = content(length)
        else:
            text = json.dumps(_asked(environ)).encode()
            length, kind = len(text), "application/json"
            # Two pieces, so that there is something between.
            pieces = (text[:9], text[9:])
        headers.append(("Content-Type", kind))
        if wanted.get("counted", True):
            headers.append(("Content-Length", str(length)))
    start_response(status, headers)
    answer.say("started")
    return Answer(pieces, environ["wsgi.errors"], wanted.get("complain", ""))


def _asked(environ: WSGIEnvironment) -> dict[str, Any]:
    length, found = 0, hashlib.sha256()
    while piece := environ["wsgi.input"].read(len(PIECE)):
        length += len(piece)
        found.update(piece)
    asked = {key: value for key, value in environ.items() if isinstance(value, str | bool)}
    return asked | {"length": length, "sha256": found.hexdigest()}


_validated: WSGIApplication = validator(echo)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What PEP 3333 does not allow is a failure; it knows no path of ``OPTIONS *``."""
    if environ.get("PATH_INFO") == "*":
        return echo(environ, start_response)
    return _validated(environ, start_response)
