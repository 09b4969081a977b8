"""What ``--reload`` adds to a process: the imported files, and a page that shows an error."""

from __future__ import annotations

import html
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import vsgi_fcgi
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.supervisor.messages import MESSAGE_SIZE
from vsgi_fcgi.supervisor.watcher import MAX_FILES
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import StartResponse

_MAX_PATHS = MESSAGE_SIZE // 2
"""Bytes of paths in a message, as JSON. The last one may exceed it."""

# The standard library, and this package. The parent would continue to run the old server.
_NOT_WATCHED = tuple(
    os.path.join(os.path.dirname(file), "") for file in (os.__file__, str(vsgi_fcgi.__file__))
)
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class ImportedFiles:
    """The files that the app has imported, and which of them the supervisor knows.

    Args:
        send: sends paths to the supervisor, with the time in seconds since the epoch after which
            these files may have changed. Returns False if it must be tried again later.
    """

    def __init__(self, send: Callable[[list[str], float], bool]) -> None:
        self._send = send
        self._sent: set[str] = set()
        self._modules = 0
        self._looked = time.time()

    @property
    def may_be_more(self) -> bool:
        """Whether modules were imported since the last report, or files could not be sent."""
        return len(sys.modules) != self._modules

    def report(self, more: Iterable[str] = ()) -> None:
        """Send the files that the supervisor does not know, in at least one message.

        Args:
            more: files in addition to those of the modules.
        """
        looked, modules = time.time(), len(sys.modules)
        self._modules = 0
        found = {path for path in (*_imported_files(), *more) if path not in self._sent}
        for part in _parts(sorted(found)[: MAX_FILES - len(self._sent)]):
            if not self._send(part, self._looked):
                return
            self._sent.update(part)
        self._looked, self._modules = looked, modules


def _parts(paths: Iterable[str]) -> Iterator[list[str]]:
    """Yield the paths in parts that fit into a message. The last one may be empty."""
    part: list[str] = []
    room = _MAX_PATHS
    for path in paths:
        part.append(path)
        room -= len(json.dumps(path))
        if room < 0:
            yield part
            part, room = [], _MAX_PATHS
    yield part


def _imported_files() -> Iterator[str]:
    """Yield the files of imported modules, without the standard library and installed packages."""
    for module in list(sys.modules.values()):
        try:
            # Not with `getattr`, which would import a lazy module.
            path = object.__getattribute__(module, "__dict__").get("__file__")
        except AttributeError:
            continue
        if isinstance(path, str) and _is_ours(path):
            yield os.path.abspath(path)


def _is_ours(path: str) -> bool:
    return not path.startswith(_NOT_WATCHED) and not any(name in path for name in _INSTALLED)


def files_of_traceback(text: str) -> Iterator[str]:
    """Yield the files in a traceback. Python forgets the modules whose import has failed."""
    for path in map(os.path.abspath, re.findall(r'File "(.+?)", line \d', text)):
        if _is_ours(path) and os.path.isfile(path):
            yield path


# The page that replaces an app that could not be loaded

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>The app could not be loaded</title>
<style>
body {{ font-family: sans-serif; margin: 2em }}
pre {{ background: #f4f4f4; padding: 1em; overflow-x: auto }}
</style>
<h1>The app could not be loaded</h1>
<p>{sentence}</p>
{traceback}<p>The app is loaded again when you save a file.</p>
</html>
"""


class ErrorPage:
    """An app that answers every request with a traceback.

    Args:
        error: the reason why the real app could not be loaded.
        text: the traceback of the app, or nothing.
    """

    def __init__(self, error: UsageError, text: str) -> None:
        traceback = f"<pre>{html.escape(text)}</pre>\n" if text else ""
        page = _PAGE.format(sentence=html.escape(str(error)), traceback=traceback)
        # Source lines may contain lone surrogates, which UTF-8 cannot encode.
        self._body = page.encode("utf-8", "backslashreplace")

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Return the page."""
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(self._body))),
            ("Cache-Control", "no-store"),
        ]
        start_response("500 Internal Server Error", headers)
        return [self._body]
