"""From the command line to a running server, in the order that the parts need."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from vsgi_fcgi.cli.arguments import Arguments, parse
from vsgi_fcgi.cli.loading import load_app, parse_app_name
from vsgi_fcgi.cli.logs import configure_logging
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.listeners import Listener, open_listeners
from vsgi_fcgi.server.patching import check_patching


def serve(argv: Sequence[str] | None) -> int:
    """Listen, load the app, and serve it until a signal says to stop.

    Args:
        argv: the arguments without the program's name; None for those of the process.

    Returns:
        The server's exit status.

    Raises:
        UsageError: something that was asked for cannot be done.
    """
    arguments = parse(argv)
    parse_app_name(arguments.app)
    if arguments.chdir is not None:
        _change_directory(arguments.chdir)
    # Where `python -m` puts it, and where a console script puts the folder of the script.
    sys.path.insert(0, os.getcwd())
    # Listening comes first: a web server that connects early waits in the backlog instead of
    # being refused, and fd 0 has moved away before any code of the app can inherit it.
    listeners = open_listeners(arguments.addresses, arguments.config.backlog)
    try:
        return _serve_on(listeners, arguments)
    finally:
        # The server has closed them; after an error, or a Ctrl-C while the app was loading,
        # no file of a socket may stay behind.
        for listener in listeners:
            listener.close()


def _serve_on(listeners: Sequence[Listener], arguments: Arguments) -> int:
    # Imported before the app can monkey-patch the modules that the server takes names from.
    from vsgi_fcgi.server.server import Server

    app = load_app(arguments.app)
    check_patching(arguments.config.worker)
    # After the app, which may have set up a log of its own.
    configure_logging(arguments.config.log_level)
    server = Server(app, config=arguments.config)
    server.add_listeners(listeners)
    return server.run()


def _change_directory(folder: str) -> None:
    """Go to the folder of ``--chdir``.

    Raises:
        UsageError: it cannot be entered.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise UsageError(
            f"--chdir {folder} cannot be entered: {os.strerror(error.errno or 0)};"
            " name a folder that exists and that this user may enter"
        ) from error
