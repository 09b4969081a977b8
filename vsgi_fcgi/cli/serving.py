"""From the command line to a running server, in the order that the parts need."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from vsgi_fcgi.cli.apps import app_names, debugged, load_apps, same_for_all
from vsgi_fcgi.cli.arguments import PROGRAM, CommandLine, parse
from vsgi_fcgi.cli.config_options import CONFIG
from vsgi_fcgi.cli.configuration import Configuration, configure
from vsgi_fcgi.cli.debugger import prepare
from vsgi_fcgi.cli.doctor_options import DOCTOR
from vsgi_fcgi.cli.http_listeners import open_http, part
from vsgi_fcgi.cli.listening import addresses_of
from vsgi_fcgi.cli.loading import load_app
from vsgi_fcgi.cli.logs import configure_logging
from vsgi_fcgi.cli.options import SERVE, Options
from vsgi_fcgi.cli.process import OwnProcess, settle
from vsgi_fcgi.cli.supervised import Supervised, supervised
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.cgi import NO_RESPONDER, Gateway, is_cgi, without_query
from vsgi_fcgi.server.listeners import Listener, open_listeners
from vsgi_fcgi.server.patching import check_patching
from vsgi_fcgi.server.roles import Apps
from vsgi_fcgi.server.systemd import forget_sockets

_DEMONSTRATION = "vsgi_fcgi.demo:app"


def serve(argv: Sequence[str] | None) -> int:
    """Do what the command line asks for: as a rule, serve an app until a signal says to stop.

    Args:
        argv: the arguments without the program's name; None for those of the process.

    Returns:
        The exit status.

    Raises:
        UsageError: something that was asked for cannot be done.
    """
    if argv is None and is_cgi(os.environ):
        argv = without_query(sys.argv[1:], os.environ)
    line = parse(argv)
    if line.command is CONFIG:
        from vsgi_fcgi.cli.config import config

        return config(line)
    if line.command is DOCTOR:
        from vsgi_fcgi.cli.doctor import examine

        return examine(line)
    if line.command is not SERVE:
        from vsgi_fcgi.cli.forwarding import forward

        return forward(line)
    return serve_line(line)


def serve_line(line: CommandLine) -> int:
    """Serve an app as a command line says that was read already.

    Args:
        line: the command line, of the command `SERVE`.

    Returns:
        The exit status.

    Raises:
        UsageError: something that was asked for cannot be done.
    """
    under_cgi = is_cgi(os.environ)
    # Not None in the processes that --reload starts.
    child = supervised(os.environ)
    configuration = configure(line, os.environ)
    if line.action == "print_config":
        sys.stdout.write(configuration.as_toml())
        return 0
    options = configuration.options
    if options.app is None and options.http:
        options = replace(options, app=_DEMONSTRATION)
    names = app_names(options)
    if not names:
        raise UsageError(f"no app is named; {PROGRAM} --help says how")
    if options.static and not options.http:
        raise UsageError("--static is for --http; behind a web server, have that serve the files")
    addresses = addresses_of(options, default=not options.http)
    started_in = _working_folder()
    settle(options)
    folder = _working_folder()
    if folder is not None:
        # Where `python -m` puts it, and where a console script puts the folder of the script.
        sys.path.insert(0, folder)
    # Under --reload, the pid file and the name are the parent's.
    process = OwnProcess(options if child is None else child.own(options))
    if line.action == "check_config":
        return _check(configuration, names)
    if under_cgi and child is None and not options.names_an_address and not options.http:
        return _answer(options)
    process.check_rights()
    # Listening comes first: a web server that connects early waits in the backlog instead of
    # being refused, and fd 0 has moved away before any code of the app can inherit it.
    if child is not None:
        listeners = child.listeners
    else:
        listeners = open_listeners(addresses, options.backlog, process.socket_ownership)
        try:
            listeners += open_http(options.http, options.backlog)
        except UsageError:
            for listener in listeners:
                listener.close()
            raise
    forget_sockets(os.environ)
    try:
        if options.debug:
            prepare(listeners, os.environ)
        if options.reload and child is None:
            return _supervise(listeners, options, started_in)
        return _serve_on(listeners, process, options, names, child)
    finally:
        # The server has closed them; after an error, or a Ctrl-C while the app was loading,
        # no file of a socket may stay behind.
        for listener in listeners:
            listener.close()
        process.leave()


def _supervise(listeners: Sequence[Listener], options: Options, folder: str | None) -> int:
    """Serve in a child process that is renewed when a file changes."""
    from vsgi_fcgi.cli.reloading import supervise

    # It is the children who become the user: this process has to start one after the other.
    process = OwnProcess(replace(options, user=None, group=None))
    configure_logging(options)
    process.enter()
    try:
        return supervise(listeners, options, folder)
    finally:
        process.leave()


def _serve_on(
    listeners: Sequence[Listener],
    process: OwnProcess,
    options: Options,
    names: dict[str, str],
    child: Supervised | None,
) -> int:
    # Imported before the app can monkey-patch the modules that the server takes names from.
    from vsgi_fcgi.server.server import Server

    process.enter()
    if child is not None:
        child.start()
    apps, options = _load(options, names, child)
    server = Server(apps.responder, authorizer=apps.authorizer, filter=apps.filter, config=options)
    http, fastcgi = part(listeners)
    server.add_listeners(fastcgi)
    server.at_exit.append(process.leave)
    if not http:
        return server.run(process_ends=True)
    from vsgi_fcgi.cli.http_front import HTTPFront

    front = HTTPFront(http, server, options)
    try:
        return server.run(process_ends=True)
    finally:
        front.remove()


def _answer(options: Options) -> int:
    """Answer the one request that this process was started for, as a CGI program.

    It is the web server's own process: it has no user, pid file or log of requests of its own.
    """
    if options.app is None:
        raise UsageError(NO_RESPONDER)
    # Before the app is loaded, which may print.
    gateway = Gateway(options)
    app = load_app(options.app)
    configure_logging(options)
    return gateway.serve(app)


def _load(
    options: Options, names: dict[str, str], child: Supervised | None
) -> tuple[Apps, Options]:
    """The apps, and the settings to serve them with.

    Raises:
        UsageError: one cannot be loaded, and nobody waits for it to be mended.
    """
    try:
        apps = load_apps(names)
        check_patching(options.worker)
    except UsageError as error:
        if child is None:
            raise
        configure_logging(options)
        # The page needs no threads, which the app may have patched before it failed.
        return same_for_all(names, child.stand_in(error)), replace(options, worker="main")
    # After the apps, which may have set up a log of its own.
    configure_logging(options)
    if options.debug:
        apps = debugged(apps)
    if child is not None:
        child.loaded()
    return apps, options


def _check(configuration: Configuration, names: dict[str, str]) -> int:
    """Load the apps, and say what would be used."""
    load_apps(names)
    check_patching(configuration.options.worker)
    configure_logging(configuration.options)
    loaded = "The app was loaded" if len(names) == 1 else "The apps were loaded"
    sys.stdout.write(configuration.checked(f"{loaded}, and the settings can be used."))
    return 0


def _working_folder() -> str | None:
    """Where this process is; None in a folder that was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
