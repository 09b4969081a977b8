"""From the command line to a running server, in the order that the parts need."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from vsgi_fcgi.cli.arguments import PROGRAM, parse
from vsgi_fcgi.cli.configuration import Configuration, configure
from vsgi_fcgi.cli.loading import load_app, parse_app_name
from vsgi_fcgi.cli.logs import configure_logging
from vsgi_fcgi.cli.options import Options
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.listeners import Listener, open_listeners
from vsgi_fcgi.server.patching import check_patching


def serve(argv: Sequence[str] | None) -> int:
    """Do what the command line asks for: as a rule, serve an app until a signal says to stop.

    Args:
        argv: the arguments without the program's name; None for those of the process.

    Returns:
        The exit status.

    Raises:
        UsageError: something that was asked for cannot be done.
    """
    line = parse(argv)
    configuration = configure(line, os.environ)
    if line.action == "print_config":
        sys.stdout.write(configuration.as_toml())
        return 0
    options = configuration.options
    if options.app is None:
        raise UsageError(f"no app is named; {PROGRAM} --help says how")
    parse_app_name(options.app)
    addresses = options.addresses()
    if options.chdir is not None:
        _change_directory(options.chdir)
    # Where `python -m` puts it, and where a console script puts the folder of the script.
    sys.path.insert(0, os.getcwd())
    if line.action == "check_config":
        return _check(configuration, options.app)
    # Listening comes first: a web server that connects early waits in the backlog instead of
    # being refused, and fd 0 has moved away before any code of the app can inherit it.
    listeners = open_listeners(addresses, options.backlog)
    try:
        return _serve_on(listeners, options, options.app)
    finally:
        # The server has closed them; after an error, or a Ctrl-C while the app was loading,
        # no file of a socket may stay behind.
        for listener in listeners:
            listener.close()


def _serve_on(listeners: Sequence[Listener], options: Options, app_name: str) -> int:
    # Imported before the app can monkey-patch the modules that the server takes names from.
    from vsgi_fcgi.server.server import Server

    app = load_app(app_name)
    check_patching(options.worker)
    # After the app, which may have set up a log of its own.
    configure_logging(options.log_level)
    server = Server(app, config=options)
    server.add_listeners(listeners)
    return server.run()


def _check(configuration: Configuration, app_name: str) -> int:
    """Load the app, and say what would be used."""
    load_app(app_name)
    check_patching(configuration.options.worker)
    lines = [*configuration.changed(), "", "The app was loaded, and the settings can be used."]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


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
