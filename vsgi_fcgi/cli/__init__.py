"""The command ``vsgi-fcgi``. `main` imports everything else when it is called."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

# Here, before an app can monkey-patch `_thread`.
from vsgi_fcgi.native_threads import allocate_lock, start_new_thread

_EXIT_TIMEOUT = 5.0
"""Seconds that `atexit` functions and flushing the standard streams may take at the end."""


def command() -> None:
    """Run `main` and exit with its status. This is the console script."""
    exit_process(main())


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import modules without garbage collection.

    They make many objects and no garbage. Looking for it takes 7 % of the start of the server.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def exit_process(status: int) -> NoReturn:
    """Exit the process after it has served.

    Runs the `atexit` functions, flushes the standard streams and calls ``os._exit``. The usual
    exit of the interpreter would wait for every non-daemon thread that an app started.

    Args:
        status: the exit status.
    """
    import atexit

    # If stderr is a full pipe, logging's atexit function and every flush block for ever. A thread
    # ends the process then.
    never = allocate_lock()
    never.acquire()

    def end() -> None:
        never.acquire(True, _EXIT_TIMEOUT)
        os._exit(status or 1)

    # Without another thread, on a host that allows no more, there is no time limit here.
    with contextlib.suppress(RuntimeError):
        start_new_thread(end, ())
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                # The reader of our output has gone, so there is no place to report this.
                continue
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the command line names.

    Args:
        argv: the arguments without the program's name; None for those of the process.

    Returns:
        The exit status: 2 after an error that the user has to fix, with a message on stderr; 130
        after Ctrl-C before the server ran; otherwise the status of the command, which is 0 after
        a graceful stop.

    Raises:
        SystemExit: after ``--help`` and ``--version``.
    """
    with importing():
        from vsgi_fcgi.cli.settings.command_line import PROGRAM, parse
        from vsgi_fcgi.descriptors import open_standard
        from vsgi_fcgi.exceptions import AppLoadError, UsageError
        from vsgi_fcgi.server.cgi import is_cgi, without_query
        from vsgi_fcgi.server.early_signals import Stopped

    under_cgi = is_cgi(os.environ)
    # Before any file or socket can get one of these numbers. A CGI program without a stdout
    # cannot answer, and must notice that: its descriptor 1 stays closed.
    open_standard((0, 2) if under_cgi else (0, 1, 2))
    if argv is None and under_cgi:
        argv = without_query(sys.argv[1:], os.environ)
    try:
        line = parse(argv)
        return line.command.run(line)
    except UsageError as error:
        traceback = error.traceback if isinstance(error, AppLoadError) else ""
        # There is no stderr if the parent process closed descriptor 2.
        if sys.stderr is not None:
            sys.stderr.write(f"{traceback}{PROGRAM}: {error}\n")
        return 2
    except Stopped as stop:
        return stop.status
    except KeyboardInterrupt:
        return 130
