"""``--debug``: werkzeug's debugger around the app."""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.listen.listeners import Listener
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import App, ExcInfo, Headers, StartResponse

_MAX_FRAMES = 1000
"""Largest number of traceback frames to keep for inspection; older ones are discarded."""

_logger = logging.getLogger("vsgi_fcgi.debug")


def allow_debugger(listeners: Sequence[Listener], environment: MutableMapping[str, str]) -> None:
    """Check that the debugger is allowed, and enable the debug mode of Flask.

    Call this before the app is loaded.

    Args:
        listeners: the listening sockets.
        environment: ``os.environ``. Flask passes errors to the debugger only in its own debug
            mode, and reads that from the environment when it is imported.

    Raises:
        UsageError: other machines can reach a listener.
    """
    for listener in listeners:
        if listener.open_to_others:
            raise UsageError(
                f"--debug: other machines can reach {listener.uri}, and every client of the"
                " debugger can run code; listen on a UNIX socket or on loopback"
            )
    environment.setdefault("FLASK_DEBUG", "1")


def with_debugger(app: App) -> App:
    """Return the app inside the debugger, and log the PIN that unlocks it.

    Args:
        app: the app.
    """
    from werkzeug.debug import DebuggedApplication

    # werkzeug would keep the frames of every error, and all objects that they refer to.
    debugged = DebuggedApplication(app, evalex=True)
    debugged.frames = _Latest()
    debugged.frame_contexts = _Latest()
    _logger.warning(
        "the debugger is on: every client sees the source code around each error, and can run"
        " code as this user with the PIN %s; make sure that only you can reach the web server",
        debugged.pin or "(not required, as WERKZEUG_DEBUG_PIN is off)",
    )
    return _Debugger(debugged)


class _Debugger:
    """Replaces the response by the error page if the app fails after ``start_response``.

    werkzeug's debugger calls ``start_response`` without ``exc_info``. If the app called it before
    it failed, the client would get an empty response with the app's status.

    Args:
        debugged: the app in the debugger.
    """

    def __init__(self, debugged: App) -> None:
        self._debugged = debugged

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        started = False
        broken: list[BaseException] = []

        def start(
            status: str, headers: Headers, exc_info: ExcInfo | None = None
        ) -> Callable[[bytes], object]:
            nonlocal started
            again, started = started, True
            if exc_info is None and again:
                # The error that the debugger shows.
                kind, error, traceback = sys.exc_info()
                if kind is not None and error is not None and traceback is not None:
                    exc_info = kind, error, traceback
            try:
                return start_response(status, headers, exc_info)
            except BaseException as failure:
                broken.append(failure)
                raise

        iterable: Iterable[bytes] = self._debugged(environ, start)
        try:
            yield from iterable
        finally:
            close = getattr(iterable, "close", None)
            if close is not None:
                close()
        if broken:
            # The response has begun. Raise, so that the client sees that it is incomplete.
            raise broken[0]


class _Latest(OrderedDict[int, Any]):
    """A dict that keeps only the latest entries."""

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > _MAX_FRAMES:
            self.popitem(last=False)
