"""Apps for tests of the server, each under the name that is the first folder of PATH_INFO."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from apps.checked import checked

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

BINARY = ("Content-Type", "application/octet-stream")
TEXT = ("Content-Type", "text/plain; charset=utf-8")
PIECE = bytes(range(256)) * 256


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer the environ, and the length and digest of the body, as JSON."""
    body = environ["wsgi.input"].read(-1)
    kinds = (str, int, bool)
    seen = {name: value for name, value in environ.items() if type(value) in kinds}
    digest = hashlib.sha256(body).hexdigest()
    answer = json.dumps({"environ": seen, "length": len(body), "sha256": digest}).encode()
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))]
    )
    return [answer]


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the body in pieces and answer its length and digest."""
    stream, digest, length = environ["wsgi.input"], hashlib.sha256(), 0
    while piece := stream.read(65536):
        digest.update(piece)
        length += len(piece)
    start_response("200 OK", [TEXT])
    return [f"{length} {digest.hexdigest()}\n".encode()]


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Answer ``pieces`` pieces of 64 KiB, none of them ahead of time.

    Where ``report`` is given, that file says afterwards how many were taken.
    """
    start_response("200 OK", [BINARY])
    taken = 0
    try:
        for _ in range(int(_query(environ, "pieces"))):
            yield PIECE
            taken += 1
    finally:
        if report := _query(environ, "report"):
            Path(report).write_text(str(taken))


def gate(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Answer a piece, wait until somebody has opened and closed the FIFO ``at``, then the rest.

    Where ``buffering`` is given, X-Accel-Buffering says it to nginx.
    """
    buffering = _query(environ, "buffering")
    start_response("200 OK", [TEXT, *([("X-Accel-Buffering", buffering)] if buffering else [])])
    yield b"before\n"
    # Blocks until a writer comes, then until it has gone.
    Path(_query(environ, "at")).read_bytes()
    yield b"after\n"


def work(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Note in the file ``journal`` that the request ``id`` began and ended."""
    name = _query(environ, "id")
    journal = os.open(_query(environ, "journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(journal, f"begin {name}\n".encode())
        time.sleep(0.002)
        os.write(journal, f"end {name}\n".encode())
    finally:
        os.close(journal)
    start_response("200 OK", [TEXT])
    return [f"did {name}\n".encode()]


def burn(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Compute for ``seconds`` without giving other threads a turn."""
    if began := _query(environ, "began"):
        Path(began).touch()
    ends = time.monotonic() + float(_query(environ, "seconds"))
    while time.monotonic() < ends:
        pass
    start_response("200 OK", [TEXT])
    return [b"burnt\n"]


def errors(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Write to ``wsgi.errors``, characters that many encodings lack among them.

    ``more`` characters are written before them, and the answer has as many more bytes.
    """
    more = int(_query(environ, "more") or 0)
    environ["wsgi.errors"].write("e" * more)
    environ["wsgi.errors"].write("a complaint: \u00e4 \u2603\n")
    environ["wsgi.errors"].flush()
    start_response("200 OK", [TEXT])
    return [b"complained\n" + b"o" * more]


def give_up(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer ``size`` bytes, and ask for another server for as long as the file ``full`` is there.

    Where ``once`` is given, it is gone at once; ``more`` characters go to STDERR with the line.
    """
    full = Path(_query(environ, "full"))
    if full.exists():
        environ["wsgi.errors"].write("full: ask another server\n")
        environ["wsgi.errors"].write("e" * int(_query(environ, "more") or 0))
        if _query(environ, "once"):
            full.unlink()
    start_response("200 OK", [TEXT])
    return [b"x" * int(_query(environ, "size"))]


def status(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer ``code`` without a body."""
    start_response(_query(environ, "code"), [])
    return []


def redirect(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Send the client to the place ``to``."""
    start_response("302 Found", [TEXT, ("Location", _query(environ, "to"))])
    return [b"elsewhere\n"]


def chatter(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Print to stdout, and have a child process do so."""
    os.write(1, b"chatter of the app\n")
    subprocess.run(["echo", "chatter of a child"], check=True)
    start_response("200 OK", [TEXT])
    return [b"quiet\n"]


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 300 KiB through ``wsgi.file_wrapper``."""
    data = PIECE * 5
    start_response("200 OK", [BINARY, ("Content-Length", str(len(data)))])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(data), 10000)
    return wrapped


def fail(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Fail before anything is sent."""
    raise RuntimeError("a secret of the app")


def fail_midway(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Fail after ``pieces`` pieces of 64 KiB, and after the FIFO ``at`` if there is one."""
    start_response("200 OK", [BINARY])
    for _ in range(int(_query(environ, "pieces"))):
        yield PIECE
    if at := _query(environ, "at"):
        Path(at).read_bytes()
    raise RuntimeError("a secret of the app")


def stats(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer the server's stats, as JSON."""
    seen = environ["vsgi_fcgi.main_context"].stats
    start_response("200 OK", [("Content-Type", "application/json")])
    names = ("connections_accepted", "connections_open", "requests_in_flight")
    return [json.dumps({name: getattr(seen, name) for name in names}).encode()]


def mutter(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Answer ``pieces`` pieces of ``size``, and write ``errors`` bytes to wsgi.errors at ``when``.

    The digits of ``when``: 1 before start_response, 2 before the body, 3 after each piece, 4 after
    the body.
    """
    when, text = _query(environ, "when"), "e" * int(_query(environ, "errors")) + "\n"
    pieces, size = int(_query(environ, "pieces")), int(_query(environ, "size"))

    def write(moment: str) -> None:
        if moment in when:
            environ["wsgi.errors"].write(text)
            environ["wsgi.errors"].flush()

    write("1")
    start_response("200 OK", [TEXT])
    write("2")
    for _ in range(pieces):
        yield b"x" * size
        write("3")
    write("4")


def meet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer once ``count`` requests have been in flight at a time; the file ``met`` notes it."""
    seen, met = environ["vsgi_fcgi.main_context"].stats, Path(_query(environ, "met"))
    deadline = time.monotonic() + 10
    while not met.exists():
        if seen.requests_in_flight >= int(_query(environ, "count")):
            met.touch()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    start_response("200 OK", [TEXT])
    return [b"met\n"]


def drip(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Answer a line every few milliseconds, without an end; ``report`` notes that it was closed."""
    start_response("200 OK", [TEXT])
    try:
        while True:
            yield b"drip\n"
            time.sleep(0.005)
    finally:
        Path(_query(environ, "report")).touch()


# These break a rule on purpose, so they go without the checkers.


def short(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Promise more than is sent; end after the FIFO ``at``, if there is one."""
    start_response("200 OK", [TEXT, ("Content-Length", "1000")])
    yield b"less"
    if at := _query(environ, "at"):
        Path(at).read_bytes()


def long(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Send more than was promised."""
    start_response("200 OK", [TEXT, ("Content-Length", "5")])
    return [b"exact", b"ly too much"]


def body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer ``code`` with a body, which some codes and HEAD do not have."""
    start_response(_query(environ, "code"), [TEXT])
    return [b"a body"]


def split_header(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Try to send a header that is two."""
    start_response("200 OK", [TEXT, ("X-Split", "one\r\nX-Evil: two")])
    return [b"sent"]


def leave(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Try to end the process."""
    raise SystemExit(3)


_CHECKED = (
    *(echo, upload, stream, gate, work, burn, errors, give_up, status, redirect),
    *(chatter, file, fail, fail_midway, stats, meet, mutter, drip),
)
_UNCHECKED = (short, long, body, split_header, leave)

_apps: dict[str, WSGIApplication] = {item.__name__: checked(item) for item in _CHECKED}
_apps.update((item.__name__, item) for item in _UNCHECKED)


def _query(environ: WSGIEnvironment, name: str) -> str:
    query: str = environ["QUERY_STRING"]
    return parse_qs(query).get(name, [""])[0]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Find the app by the path; all that is unknown is echoed."""
    name = environ["PATH_INFO"].split("/")[1] if environ["PATH_INFO"] else ""
    return _apps.get(name, _apps["echo"])(environ, start_response)
