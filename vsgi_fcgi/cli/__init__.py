"""The command ``vsgi-fcgi``. What it needs is imported when `main` is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def command() -> None:
    """Run `main` and leave the process with its status: the console script."""
    leave(main())


def leave(status: int) -> NoReturn:
    """Leave the process, once it has served.

    By ``os._exit``, after what `atexit` and the standard streams are owed: the interpreter's own
    way out waits for every thread that an app has started and that is no daemon.

    Args:
        status: the exit status.
    """
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                # Whoever reads our output has gone before us; there is nobody to tell.
                continue
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve an app as the command line says.

    Args:
        argv: the arguments without the program's name; None for those of the process.

    Returns:
        The exit status: 2 for what the caller has to mend, said in one sentence on stderr;
        130 for a Ctrl-C before the server runs; else that of the server, 0 after a graceful
        stop.

    Raises:
        SystemExit: after ``--help`` and ``--version``.
    """
    from vsgi_fcgi.cli.arguments import PROGRAM
    from vsgi_fcgi.cli.serving import serve
    from vsgi_fcgi.exceptions import AppLoadError, UsageError

    try:
        return serve(argv)
    except UsageError as error:
        traceback = error.traceback if isinstance(error, AppLoadError) else ""
        # A parent that has closed fd 2 leaves us without a stderr.
        if sys.stderr is not None:
            sys.stderr.write(f"{traceback}{PROGRAM}: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
