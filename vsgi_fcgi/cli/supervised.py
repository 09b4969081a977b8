"""The process that runs the app under ``--reload``, as it sees itself."""

from __future__ import annotations

import _socket  # never monkey-patched; see `vsgi_fcgi.server.listeners`
import _thread
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import replace
from types import TracebackType

import vsgi_fcgi
from vsgi_fcgi.addresses import DescriptorAddress
from vsgi_fcgi.cli.app_process import MESSAGE_SIZE, VARIABLE
from vsgi_fcgi.cli.error_page import ErrorPage
from vsgi_fcgi.cli.options import Options
from vsgi_fcgi.cli.watching import MOST_FILES, Stamp, stamp_since
from vsgi_fcgi.exceptions import AppLoadError, UsageError
from vsgi_fcgi.server.listeners import Listener, open_listener

_LOOK = 1.0
"""Seconds between two looks at what is imported."""

_ROOM = MESSAGE_SIZE // 2
"""Bytes of paths in a message; JSON may make them longer."""

# Python's own, and this server, which the parent goes on running as it was.
_NOT_THE_APPS = tuple(
    os.path.join(os.path.dirname(file), "") for file in (os.__file__, str(vsgi_fcgi.__file__))
)
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

_logger = logging.getLogger("vsgi_fcgi.reload")


class Supervised:
    """Tells the parent what is imported, and notices when the parent is gone.

    Args:
        control: the socket to the parent.
        listeners: what the parent listens on.
    """

    def __init__(self, control: _socket.socket, listeners: list[Listener]) -> None:
        self.listeners = listeners
        self._control = control
        self._control.settimeout(_LOOK)
        self._state = "loading"
        self._lock = _thread.allocate_lock()
        self._told: set[str] = set()
        self._modules = 0
        self._looked = time.time()

    def own(self, options: Options) -> Options:
        """The settings of this process: the pid file and the name are the parent's."""
        return replace(options, pid_file=None, proc_name=None)

    def start(self) -> None:
        """Begin to tell, before the app is loaded: it may hang while it is."""
        # Not by `threading`, which an app cannot monkey-patch any more once it knows a thread.
        _thread.start_new_thread(self._run, ())

    def stand_in(self, error: UsageError) -> ErrorPage:
        """Log why the app could not be loaded, and serve that instead of it.

        Args:
            error: what `load_app` raised.

        Returns:
            The app to serve.
        """
        traceback = error.traceback if isinstance(error, AppLoadError) else ""
        _logger.error("%s%s", traceback, error)
        self._tell("failed", _files_of(error))
        return ErrorPage(error)

    def loaded(self) -> None:
        """The app is there, and is about to be served."""
        self._tell("serving")

    def _run(self) -> None:
        """Look and tell, until the parent is gone."""
        try:
            while True:
                try:
                    if not self._control.recv(1):
                        break
                except TimeoutError:
                    if len(sys.modules) != self._modules:
                        self._tell()
        except OSError as error:
            _logger.debug("the parent process cannot be reached: %s", error)
        os.kill(os.getpid(), signal.SIGTERM)

    def _tell(self, state: str | None = None, more: Iterable[str] = ()) -> None:
        """Tell the parent what it does not know yet."""
        with self._lock:
            looked, self._modules = time.time(), len(sys.modules)
            paths = {path for path in (*_imported(), *more) if path not in self._told}
            files: dict[str, Stamp | None] = {}
            room = _ROOM
            for path in sorted(paths)[: MOST_FILES - len(self._told)]:
                files[path] = stamp_since(path, self._looked)
                room -= len(path) + 80
                if room < 0:
                    self._send(files)
                    files, room = {}, _ROOM
            self._state = state or self._state
            self._send(files)
            self._looked = looked

    def _send(self, files: dict[str, Stamp | None]) -> None:
        message = json.dumps({"state": self._state, "files": files}).encode()
        try:
            self._control.send(message)
        except OSError:
            # The parent is gone, or stands still; what is not told now is told at the next look.
            self._modules = 0
        else:
            self._told.update(files)


def supervised(environment: MutableMapping[str, str]) -> Supervised | None:
    """What the parent has given, if this is a process that ``--reload`` has started.

    Args:
        environment: ``os.environ``; the app and its children shall not see the variable, so
            it is taken out.

    Raises:
        UsageError: somebody else has set the variable.
    """
    text = environment.pop(VARIABLE, None)
    if text is None:
        return None
    try:
        given = json.loads(text)
        control = _socket.socket(fileno=given["control"])
        os.set_inheritable(control.fileno(), False)
        listeners = []
        for fd, uri in given["listeners"]:
            (listener,) = open_listener(DescriptorAddress(fd), 0)
            listener.uri = uri
            listeners.append(listener)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UsageError(f"{VARIABLE} is for the processes of --reload alone; unset it") from error
    return Supervised(control, listeners)


def _imported() -> Iterator[str]:
    """The files of all modules that may be edited: neither Python's own nor installed ones."""
    for module in list(sys.modules.values()):
        try:
            # Not by `getattr`: a lazy module would be imported by it.
            path = object.__getattribute__(module, "__dict__").get("__file__")
        except AttributeError:
            continue
        if isinstance(path, str) and _is_ours(path):
            yield _on_disk(os.path.abspath(path))


def _is_ours(path: str) -> bool:
    return not path.startswith(_NOT_THE_APPS) and not any(name in path for name in _INSTALLED)


def _on_disk(path: str) -> str:
    """The file that a module is in: of one in a ZIP file, that file."""
    found = path
    while not os.path.exists(found) and found != os.path.dirname(found):
        found = os.path.dirname(found)
    return found if os.path.isfile(found) else path


def _files_of(error: BaseException | None) -> Iterator[str]:
    """The files that an error came through, with the errors that led to it."""
    seen: set[int] = set()
    errors = [error]
    while errors:
        error = errors.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        errors += [error.__cause__, error.__context__]
        names = list(_frames(error.__traceback__))
        if isinstance(error, SyntaxError) and error.filename:
            names.append(error.filename)
        for name in names:
            path = os.path.abspath(name)
            if _is_ours(path) and os.path.isfile(path):
                yield path


def _frames(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next
