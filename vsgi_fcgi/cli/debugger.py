"""``--debug``: werkzeug's debugger around the app."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.listeners import Listener
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.runner import App, ExcInfo, Headers, StartResponse

_MOST_FRAMES = 1000
"""Frames of tracebacks that are kept to be looked into; the oldest are forgotten."""

_logger = logging.getLogger("vsgi_fcgi.debug")


def prepare(listeners: Sequence[Listener], environment: MutableMapping[str, str]) -> None:
    """See to it that the debugger may be used, before the app is loaded.

    Args:
        listeners: what is listened on.
        environment: ``os.environ``. Flask shows the debugger an error only in its own debug
            mode, which it takes from there while it is imported.

    Raises:
        UsageError: other machines can reach a listener, or werkzeug is missing.
    """
    for listener in listeners:
        if listener.open_to_others:
            raise UsageError(
                f"--debug lets whoever reaches {listener.uri} run code, and other machines reach"
                " it; listen on a UNIX socket or on loopback"
            )
    if importlib.util.find_spec("werkzeug") is None:
        raise UsageError("--debug needs werkzeug: pip install 'vsgi-fcgi[debug]'")
    environment.setdefault("FLASK_DEBUG", "1")


def with_debugger(app: App) -> App:
    """The app with the debugger around it; the log says how it is unlocked.

    Args:
        app: the app.
    """
    from werkzeug.debug import DebuggedApplication

    # werkzeug would keep the frames of every error, and with them all that they refer to.
    debugged = DebuggedApplication(app, evalex=True)
    debugged.frames = _Latest()
    debugged.frame_contexts = _Latest()
    _logger.warning(
        "the debugger is on: who gets through the web server sees the code of each error, and"
        " runs code as this user with the PIN %s; never let others reach this web server",
        debugged.pin or "(none is asked for: WERKZEUG_DEBUG_PIN is off)",
    )
    return _Debugger(debugged)


class _Debugger:
    """Has an error replace the answer that it came too early for.

    werkzeug's debugger calls ``start_response`` without ``exc_info``, so that of an app that had
    called it before it failed the client would see an empty success.

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
                # The error that is being shown.
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
            # The answer had begun: the client is to see that it is not whole.
            raise broken[0]


class _Latest(OrderedDict[int, Any]):
    """Keeps what came last."""

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > _MOST_FRAMES:
            self.popitem(last=False)
