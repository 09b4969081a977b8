"""What is served in place of an app that could not be loaded: why not."""

from __future__ import annotations

import html
from collections.abc import Iterable

from vsgi_fcgi.exceptions import AppLoadError, UsageError
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.runner import StartResponse

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
{traceback}<p>It is loaded again as soon as a file is saved.</p>
</html>
"""


class ErrorPage:
    """An app that answers everything with a traceback.

    Args:
        error: why the real app could not be loaded.
    """

    def __init__(self, error: UsageError) -> None:
        text = error.traceback if isinstance(error, AppLoadError) else ""
        traceback = f"<pre>{html.escape(text)}</pre>\n" if text else ""
        page = _PAGE.format(sentence=html.escape(str(error)), traceback=traceback)
        # Source lines may hold what UTF-8 cannot encode.
        self._body = page.encode("utf-8", "backslashreplace")

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(self._body))),
            ("Cache-Control", "no-store"),
        ]
        start_response("500 Internal Server Error", headers)
        return [self._body]
