"""Every setting of the server: one frozen dataclass.

A field's metadata holds its help text, its unit and its bounds. Whoever adds a setting adds a
field and nothing else: the command line, the environment variables, the configuration file and
the reference are made from it. `vsgi_fcgi.cli.options.Options` extends it by what only a process
of its own can be told.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.access_syntax import parse_format
from vsgi_fcgi.settings import GIB, KIB, MIB, Octal, check_settings, setting
from vsgi_fcgi.wsgi.file_wrapper import FileWrapper
from vsgi_fcgi.wsgi.paths import mount_point
from vsgi_fcgi.wsgi.sendfile import X_ACCEL, X_SENDFILE, Sendfile

WORKERS = ("thread", "main")


def default_threads() -> int:
    """Four threads a core, at most 32."""
    return min(32, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True, kw_only=True)
class SocketConfig:
    """What is told about the sockets that are made to listen."""

    backlog: int = setting(
        1024,
        "connections that may wait to be accepted on each listener",
        group="listening",
        least=1,
    )
    socket_mode: Octal = setting(
        0o660,
        "permissions of the UNIX sockets that it makes, in octal",
        group="listening",
        least=0,
        most=0o777,
        metavar="MODE",
    )
    socket_user: str | None = setting(
        None,
        "owner of the UNIX sockets that it makes, by name or number",
        group="listening",
        metavar="USER",
        default_text="whoever the server runs as",
    )
    socket_group: str | None = setting(
        None,
        "group of the UNIX sockets that it makes, by name or number",
        group="listening",
        metavar="GROUP",
        default_text="that of whoever the server runs as",
    )


@dataclass(frozen=True, kw_only=True)
class Config(SocketConfig):
    """What the server is told. Sizes are in bytes and times in seconds.

    Raises:
        UsageError: a value is out of its bounds; the message names it.
    """

    worker: str = setting(
        "thread",
        "what runs the app: a pool of native threads, or the main context, one request at a time",
        choices=WORKERS,
    )
    threads: int = setting(
        default_threads(),
        "native threads that run the app",
        least=1,
        default_text="4 a core, at most 32",
    )
    switch_interval: float = setting(
        0.005,
        "seconds for which a computing thread keeps the others waiting; less is fairer, and dearer",
        least=0.00001,
    )
    spool_dir: str | None = setting(
        None, "folder for temporary files", metavar="DIR", default_text="TMPDIR, else /tmp"
    )
    script_name: str | None = setting(
        None,
        "path below which the web server has the app, such as /app; empty at the root of the site",
        metavar="PATH",
        default_text="as the web server says",
    )

    sendfile: str = setting(
        "off",
        "leave files that an app returns by wsgi.file_wrapper to the web server, by X-Sendfile"
        " (lighttpd, Apache) or X-Accel-Redirect (nginx)",
        choices=("off", X_SENDFILE, X_ACCEL),
    )
    sendfile_folder: tuple[str, ...] = setting(
        (),
        "a folder whose files are left to it (for x-sendfile, all are if none is named); for"
        " x-accel with the URL of its internal location, as in /files=/srv/files",
        metavar="[/URL=]DIR",
    )

    access_log: str | None = setting(
        None,
        "file for a line about each request; - is standard output, logger is the logger"
        " vsgi_fcgi.access",
        group="logging",
        metavar="FILE",
        default_text="no access log",
    )
    access_log_format: str = setting(
        "combined",
        "combined, common, json, or a format string with gunicorn's names and ours",
        group="logging",
        metavar="FORMAT",
    )

    graceful_timeout: float = setting(
        30.0, "seconds that running requests get to end after SIGTERM", group="timeouts", least=0
    )
    receive_timeout: float = setting(
        60.0,
        "seconds without a byte of a request that has begun, then 408",
        group="timeouts",
        least=0.001,
    )
    send_timeout: float = setting(
        60.0,
        "seconds in which nothing could be sent, then the connection is closed",
        group="timeouts",
        least=0.001,
    )
    linger_timeout: float = setting(
        5.0,
        "seconds for which the rest of a request that was answered early is discarded",
        group="timeouts",
        least=0.001,
    )
    output_wait: float = setting(
        0.05,
        "seconds that a worker waits for a slow reader before its output goes to a file",
        group="timeouts",
        least=0,
    )
    accept_pause: float = setting(
        0.5,
        "seconds for which accepting pauses when the system is out of descriptors",
        group="timeouts",
        least=0.001,
    )

    max_connections: int = setting(
        8192,
        "connections at once; past it the longest idle one is closed, else accepting waits",
        group="limits",
        least=1,
    )
    max_requests_per_connection: int = setting(
        1024, "requests in flight on one connection, then 503", group="limits", least=1
    )
    max_queued: int = setting(
        1024, "complete requests that wait for a worker, then 503", group="limits", least=1
    )
    max_params_bytes: int = setting(
        128 * KIB, "bytes of params of a request, then 431", group="limits", least=256
    )
    max_params_count: int = setting(1000, "params of a request, then 431", group="limits", least=16)
    total_params_bytes: int = setting(
        64 * MIB,
        "bytes of params of requests that are still coming in, over all connections, then 503",
        group="limits",
        least=64 * KIB,
    )
    max_body_bytes: int = setting(
        GIB,
        "bytes of a request body, then 413; of the file of a filter, then 500",
        group="limits",
        least=0,
    )
    body_memory_bytes: int = setting(
        MIB,
        "bytes of a request body kept in memory; a larger body goes to a temporary file",
        group="limits",
        least=0,
    )
    total_memory_bytes: int = setting(
        256 * MIB,
        "bytes of bodies and of waiting output in memory over all requests, then files",
        group="limits",
        least=64 * KIB,
    )
    total_spool_bytes: int = setting(
        4 * GIB,
        "bytes of temporary files over all requests, then 503 for a body, waiting for output",
        group="limits",
        least=0,
    )
    output_memory_bytes: int = setting(
        256 * KIB,
        "bytes of unsent output of a request in memory; more goes to a temporary file",
        group="limits",
        least=4 * KIB,
    )
    output_spool_bytes: int = setting(
        64 * MIB,
        "bytes of unsent output of a request in its temporary file, then the app waits",
        group="limits",
        least=0,
    )
    max_stderr_bytes: int = setting(
        64 * KIB,
        "bytes of wsgi.errors of a request that go to the web server (the log has all)",
        group="limits",
        least=0,
    )
    max_log_records: int = setting(
        10000,
        "log records that wait to be written; more are dropped and counted",
        group="limits",
        least=1,
    )
    max_log_bytes: int = setting(
        16 * MIB,
        "bytes of text in log records that wait to be written; more are dropped and counted",
        group="limits",
        least=64 * KIB,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        try:
            _ = self.mount_point
        except ValueError as error:
            raise UsageError(f"script_name is {error}") from None
        self._check_sendfile()
        try:
            parse_format(self.access_log_format)
        except UsageError as error:
            raise UsageError(f"access_log_format {error}") from None

    def _check_sendfile(self) -> None:
        if self.sendfile == X_ACCEL and not self.sendfile_folder:
            raise UsageError(
                "sendfile is x-accel, and no sendfile_folder says which internal location has"
                " which files, as in /files=/srv/files"
            )
        for text in self.sendfile_folder:
            url, _, folder = text.rpartition("=")
            needs_url = self.sendfile == X_ACCEL
            if folder[:1] != "/" or (url[:1] != "/" if url or needs_url else False):
                form = "/URL=/DIR" if needs_url else "/DIR"
                raise UsageError(f"sendfile_folder is {text!r}, but must be like {form}")

    @property
    def file_wrapper(self) -> Callable[..., FileWrapper]:
        """What apps get as ``wsgi.file_wrapper``."""
        if self.sendfile == "off":
            return FileWrapper
        parts = (text.rpartition("=") for text in self.sendfile_folder)
        return Sendfile(self.sendfile, [(url, folder) for url, _, folder in parts]).wrap

    @property
    def mount_point(self) -> str | None:
        """`script_name` as it is in an environ; None to work it out for each request."""
        return None if self.script_name is None else mount_point(self.script_name)
