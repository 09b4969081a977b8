"""The settings of the server: one frozen dataclass.

A field's metadata holds its help text, its unit and its bounds. A new setting is a new field and
its line in `Settings`: the command line, the environment variables, the configuration file and the
reference are made from the field. `vsgi_fcgi.cli.settings.options.Options` adds
the options of the command line.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self, TypedDict

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.listen.ownership import SocketConfig
from vsgi_fcgi.log.access_format import parse_format
from vsgi_fcgi.push.config import PushConfig
from vsgi_fcgi.settings import (
    GIB,
    KIB,
    MIB,
    Octal,
    Size,
    check_settings,
    setting,
)
from vsgi_fcgi.transport.config import TransportConfig
from vsgi_fcgi.wsgi.files import X_ACCEL, X_SENDFILE, FileWrapper, Sendfile
from vsgi_fcgi.wsgi.path_info import mount_point

WORKERS = ("thread", "main", "greenlet")


def default_threads() -> int:
    """Return four threads per core, and at most 32."""
    return min(32, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Config(TransportConfig, SocketConfig, PushConfig):
    """Settings of the server. Sizes are in bytes and times in seconds.

    Raises:
        UsageError: a value is out of its bounds; the message names it.
    """

    worker: str = setting(
        "thread",
        "where the app runs: in a pool of native threads, in the main context, one request at a"
        " time, or in a greenlet for each request, for apps under gevent.monkey",
        choices=WORKERS,
    )
    threads: int = setting(
        default_threads(),
        "number of worker threads",
        minimum=1,
        default_text="4 per core, at most 32",
    )
    greenlets: int = setting(
        10000,
        "maximum requests that run at the same time with worker greenlet, which has no threads",
        minimum=1,
    )
    switch_interval: float = setting(
        0.005,
        "thread switch interval in seconds; lower is fairer to waiting threads but costs more CPU",
        minimum=0.00001,
    )
    spool_dir: str | None = setting(
        None, "folder for temporary files", metavar="DIR", default_text="TMPDIR or /tmp"
    )
    script_name: str | None = setting(
        None,
        "URL path at which the web server mounts the app, such as /app; empty for the site's root",
        metavar="PATH",
        default_text="from the web server",
    )

    sendfile: str = setting(
        "off",
        "let the web server send the files that an app returns in wsgi.file_wrapper, with"
        " X-Sendfile (lighttpd, Apache) or X-Accel-Redirect (nginx)",
        choices=("off", X_SENDFILE, X_ACCEL),
    )
    sendfile_folder: tuple[str, ...] = setting(
        (),
        "folder whose files the web server sends (default for x-sendfile: all files); x-accel needs"
        " the URL of an internal location too, as in /files=/srv/files",
        metavar="[/URL=]DIR",
    )

    access_log: str | None = setting(
        None,
        "file for one line per request; - is standard output, and logger is the logger"
        " vsgi_fcgi.access",
        group="logging",
        metavar="FILE",
        default_text="no access log",
    )
    access_log_format: str = setting(
        "combined",
        "combined, common, json, or a format string with the names of gunicorn or of this server",
        group="logging",
        metavar="FORMAT",
    )

    output_wait: float = setting(
        0.05,
        "seconds that a worker waits for a slow client before its output goes to a file",
        group="timeouts",
        minimum=0,
    )

    slow_request: float | None = setting(
        None,
        "seconds after which a running request is logged with the stack of its thread",
        group="timeouts",
        minimum=0.01,
        default_text="off",
    )
    queue_timeout: float | None = setting(
        None,
        "seconds that a request may wait for a worker, then 503",
        group="timeouts",
        minimum=0.01,
        default_text="off",
    )
    request_timeout: float | None = setting(
        None,
        "seconds that the app may run for a request, then 504, and RequestTimeout in the app;"
        " not with worker main",
        group="timeouts",
        minimum=0.01,
        default_text="off",
    )

    block_warning: float = setting(
        0.5,
        "seconds after which an app that blocks all other requests is logged with its stack; 0 for"
        " never; with worker greenlet",
        group="timeouts",
        minimum=0,
    )

    max_requests: int | None = setting(
        None,
        "requests after which the process is replaced, or exits if there is no supervisor; up to a"
        " tenth more, so that not all processes are replaced at once",
        group="processes",
        minimum=1,
        default_text="no limit",
    )
    max_memory: Size | None = setting(
        None,
        "resident memory, such as 300M, above which the process is replaced, or exits if there is"
        " no supervisor",
        group="processes",
        minimum=1024 * 1024,
        default_text="no limit",
    )
    idle_exit: float | None = setting(
        None,
        "seconds without a request after which the server exits; for socket activation and"
        " lighttpd, which start it again",
        group="processes",
        minimum=0.1,
        default_text="never",
    )

    status_path: str | None = setting(
        None,
        "URL path at which the status is served over FastCGI, such as /_status",
        group="status",
        metavar="PATH",
        default_text="off",
    )
    status_allow: tuple[str, ...] = setting(
        (),
        "address of a client that may read status_path, besides those of this machine",
        group="status",
        metavar="IP",
    )

    max_connections: int = setting(
        8192,
        "maximum connections; at the limit the longest idle one is closed, or else accepting waits",
        group="limits",
        minimum=1,
    )
    max_requests_per_connection: int = setting(
        1024,
        "maximum requests in flight on one connection, then 503",
        group="limits",
        minimum=1,
    )
    max_queued: int = setting(
        1024,
        "maximum complete requests in the queue for a worker, then 503",
        group="limits",
        minimum=1,
    )
    max_stuck_threads: int = setting(
        8,
        "maximum threads that are replaced because their app did not end after the request timeout"
        " and the graceful timeout",
        group="limits",
        minimum=0,
    )
    max_params_count: int = setting(
        1000, "maximum number of params per request, then 431", group="limits", minimum=16
    )
    max_body_bytes: int = setting(
        GIB,
        "maximum bytes of a request body, then 413; also of the file for a filter, then 500",
        group="limits",
        minimum=0,
    )
    body_memory_bytes: int = setting(
        MIB,
        "maximum bytes of a request body in memory; a larger body goes to a temporary file",
        group="limits",
        minimum=0,
    )
    total_memory_bytes: int = setting(
        256 * MIB,
        "maximum bytes of all bodies and unsent output in memory; more goes to temporary files",
        group="limits",
        minimum=64 * KIB,
    )
    total_spool_bytes: int = setting(
        4 * GIB,
        "maximum bytes of all temporary files, then 503 for bodies, and output waits",
        group="limits",
        minimum=0,
    )
    output_memory_bytes: int = setting(
        256 * KIB,
        "maximum bytes of unsent output per request in memory; more goes to a temporary file",
        group="limits",
        minimum=4 * KIB,
    )
    output_spool_bytes: int = setting(
        64 * MIB,
        "maximum bytes of unsent output per request in a temporary file; then the app waits",
        group="limits",
        minimum=0,
    )
    max_stderr_bytes: int = setting(
        64 * KIB,
        "maximum bytes of wsgi.errors per request that go to the web server; the log gets all",
        group="limits",
        minimum=0,
    )
    max_log_records: int = setting(
        10000,
        "maximum log records in the queue for writing; more are dropped and counted",
        group="limits",
        minimum=1,
    )
    max_log_bytes: int = setting(
        16 * MIB,
        "maximum bytes of text in queued log records; more are dropped and counted",
        group="limits",
        minimum=64 * KIB,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        try:
            _ = self.mount_point
        except ValueError as error:
            raise UsageError(f"script_name is {error}") from None
        path = self.status_path
        if path is not None and not (path.startswith("/") and path.strip("/")):
            raise UsageError(
                f"status_path is {path!r}, but must be a path below the root of the site, such as"
                " /_status"
            )
        _ = self.signing_key
        self._check_sendfile()
        try:
            parse_format(self.access_log_format)
        except UsageError as error:
            raise UsageError(f"access_log_format {error}") from None

    def resolved(self) -> Self:
        """Return the settings with absolute paths, which stay valid after `os.chdir`."""
        changes: dict[str, Any] = {}
        if self.spool_dir:
            changes["spool_dir"] = os.path.abspath(self.spool_dir)
        if self.record:
            changes["record"] = os.path.abspath(self.record)
        if self.access_log not in (None, "-", "logger"):
            changes["access_log"] = os.path.abspath(str(self.access_log))
        return replace(self, **changes) if changes else self

    def check_spool_dir(self) -> None:
        """Check that temporary files can be created in `spool_dir`.

        Raises:
            UsageError: creating one failed.
        """
        if self.spool_dir is None:
            return
        try:
            tempfile.TemporaryFile(dir=self.spool_dir, prefix="vsgi-fcgi-").close()
        except OSError as error:
            raise UsageError(
                f"spool_dir {self.spool_dir} cannot be used: {os.strerror(error.errno or 0)};"
                " name a folder that exists and that this user may write to"
            ) from error

    def _check_sendfile(self) -> None:
        if self.sendfile == X_ACCEL and not self.sendfile_folder:
            raise UsageError(
                "sendfile is x-accel, which needs the internal location of the files; set"
                " sendfile_folder, as in /files=/srv/files"
            )
        for text in self.sendfile_folder:
            url, _, folder = text.rpartition("=")
            needs_url = self.sendfile == X_ACCEL
            if folder[:1] != "/" or (url[:1] != "/" if url or needs_url else False):
                form = "/URL=/DIR" if needs_url else "/DIR"
                raise UsageError(f"sendfile_folder is {text!r}, but must be like {form}")

    @property
    def file_wrapper(self) -> Callable[..., FileWrapper]:
        """The class or function that apps get as ``wsgi.file_wrapper``."""
        if self.sendfile == "off":
            return FileWrapper
        parts = (text.rpartition("=") for text in self.sendfile_folder)
        return Sendfile(self.sendfile, [(url, folder) for url, _, folder in parts]).wrap

    @property
    def run_limits(self) -> tuple[float | None, ...]:
        """The limits on running requests in seconds; None for each that is off."""
        return self.slow_request, self.queue_timeout, self.request_timeout

    @property
    def recycles(self) -> bool:
        """Whether the process ends, or is replaced, although nothing is wrong."""
        return (self.max_requests, self.max_memory, self.idle_exit) != (None, None, None)

    def check_worker(self) -> None:
        """Check that the settings fit to the kind of worker.

        Raises:
            UsageError: they do not.
        """
        if self.worker == "main" and self.request_timeout is not None:
            raise UsageError(
                "request_timeout needs worker threads, because with worker main the server cannot"
                " interrupt an app; remove one of them. slow_request shows where requests are stuck"
            )

    @property
    def max_running(self) -> int:
        """The largest number of requests that run at the same time."""
        if self.worker == "greenlet":
            return self.greenlets
        return self.threads + self.max_stuck_threads

    @property
    def mount_point(self) -> str | None:
        """`script_name` as in an environ; None to derive it for each request."""
        return None if self.script_name is None else mount_point(self.script_name)


class Settings(TypedDict, total=False):
    """The fields of `Config` as keyword arguments, for the type of `Server(app, **settings)`.

    Type checkers cannot derive them from the dataclass; a test compares the two.
    """

    backlog: int
    socket_mode: Octal
    socket_user: str | None
    socket_group: str | None
    worker: str
    threads: int
    greenlets: int
    switch_interval: float
    spool_dir: str | None
    script_name: str | None
    sendfile: str
    sendfile_folder: tuple[str, ...]
    access_log: str | None
    access_log_format: str
    graceful_timeout: float
    receive_timeout: float
    send_timeout: float
    linger_timeout: float
    output_wait: float
    slow_request: float | None
    status_path: str | None
    status_allow: tuple[str, ...]
    queue_timeout: float | None
    request_timeout: float | None
    block_warning: float
    accept_backoff: float
    record: str | None
    record_records: int
    record_body_bytes: int
    record_files: int
    record_total_bytes: int
    max_requests: int | None
    max_memory: Size | None
    idle_exit: float | None
    max_connections: int
    max_requests_per_connection: int
    max_queued: int
    max_params_bytes: int
    max_stuck_threads: int
    max_params_count: int
    total_params_bytes: int
    max_body_bytes: int
    body_memory_bytes: int
    total_memory_bytes: int
    total_spool_bytes: int
    output_memory_bytes: int
    output_spool_bytes: int
    max_stderr_bytes: int
    max_log_records: int
    max_log_bytes: int
    push: bool
    push_key: str | None
    push_overflow: str
    push_max_age: float
    push_stop_spread: float
    max_held: int
    max_held_per_channel: int
    max_channels: int
    max_held_bytes: Size
    max_items_waiting: int
    max_items_queued: int
    max_item_bytes: Size
