"""The server: from its command line to a running process."""

from __future__ import annotations

import _socket  # never monkey-patched
import contextlib
import gc
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final

from vsgi_fcgi.addresses import Address
from vsgi_fcgi.children import give_up_in_children
from vsgi_fcgi.cli import importing
from vsgi_fcgi.cli.app_loader import load_app, parse_app_name
from vsgi_fcgi.cli.commands.listeners import (
    PUSH,
    STATUS,
    addresses_of,
    open_fronts,
    open_http,
    split,
)
from vsgi_fcgi.cli.log_setup import configure_logging
from vsgi_fcgi.cli.own_process import OwnProcess, apply_umask_and_chdir, stopped_early
from vsgi_fcgi.cli.settings.command import option_name
from vsgi_fcgi.cli.settings.command_line import PROGRAM, CommandLine
from vsgi_fcgi.cli.settings.options import Options
from vsgi_fcgi.cli.settings.resolve import Configuration, resolve
from vsgi_fcgi.descriptors import open_standard
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.http.config import HTTPConfig
from vsgi_fcgi.listen.listeners import Listener, forget_sockets, open_listeners
from vsgi_fcgi.log.handlers import never_wait
from vsgi_fcgi.push.config import PushConfig, check_bus
from vsgi_fcgi.server.cgi import NO_RESPONDER, CGIHandler, is_cgi
from vsgi_fcgi.server.early_signals import EarlySignals, Stopped
from vsgi_fcgi.server.roles import Apps
from vsgi_fcgi.supervisor.config import SUPERVISED_VARIABLE
from vsgi_fcgi.transport.monkey_patching import check_patching, patch_for_greenlets
from vsgi_fcgi.wsgi.response import App

if TYPE_CHECKING:
    from vsgi_fcgi.status.scoreboard import Scoreboard
    from vsgi_fcgi.supervisor.child import Supervised

# What few settings need is imported where it is used, because each import delays every start.

# The apps, one for each FastCGI role that is served


def app_names(options: Options) -> dict[str, str]:
    """Return the names of the apps, by the fields of `Apps`.

    Raises:
        AppLoadError: a name has the wrong form.
    """
    roles = {
        "responder": options.app,
        "authorizer": options.authorizer,
        "filter": options.filter,
    }
    names = {role: name for role, name in roles.items() if name is not None}
    for name in names.values():
        parse_app_name(name)
    return names


def load_apps(names: dict[str, str]) -> Apps:
    """Import all apps.

    Args:
        names: the names from `app_names`.

    Raises:
        AppLoadError: an app does not exist, or its code failed.
    """
    return Apps(**{role: load_app(name) for role, name in names.items()})


def same_for_all(names: dict[str, str], app: App) -> Apps:
    """Return `Apps` with one app in all roles that are served."""
    return Apps(**dict.fromkeys(names, app))


def debugged(apps: Apps) -> Apps:
    """Return the apps inside the debugger, except the authorizer.

    The debugger answers some requests itself, such as those for its style sheet, with status 200.
    From an authorizer, that status would grant access to everyone.
    """
    from vsgi_fcgi.cli.commands.debugger import with_debugger

    around = {
        role: with_debugger(app)
        for role, app in (("responder", apps.responder), ("filter", apps.filter))
        if app is not None
    }
    return Apps(authorizer=apps.authorizer, **around)


_MORE_PROCESSES = 16
"""Processes that the status can show in addition to four times the number of processes."""

_LAST_ITEMS = 1.0
"""Seconds in which published items are still sent to other processes and hosts at the end."""

_logger = logging.getLogger("vsgi_fcgi")

_DEMONSTRATION = "vsgi_fcgi.demo:app"


def serve(line: CommandLine) -> int:
    """Serve an app until a signal stops the server, and return the exit status.

    Args:
        line: the command line, of the command `SERVE`.

    Raises:
        UsageError: the server cannot do what the command line asks for.
    """
    under_cgi = is_cgi(os.environ)
    # Not None in the processes that a supervisor starts.
    child = _supervised()
    configuration = resolve(line, os.environ)
    if line.action == "print_config":
        sys.stdout.write(configuration.as_toml())
        return 0
    options = configuration.options
    if options.app is None and options.http:
        options = replace(options, app=_DEMONSTRATION, push=True)
    names = app_names(options)
    if not names:
        raise UsageError(f"APP is missing; name an app, as in {PROGRAM} mysite.wsgi, or see --help")
    if options.static and not options.http:
        raise UsageError("--static needs --http; a web server must serve the files itself")
    if options.push_bind or options.push_bus:
        options = replace(options, push=True)
        check_bus(options.push_bus)
    if options.processes is not None and (options.reload or options.debug):
        name = "--reload" if options.reload else "--debug"
        raise UsageError(f"{name} needs a single process; leave out --processes")
    if (options.processes is not None or options.reload) and not hasattr(_socket, "SOCK_SEQPACKET"):
        name = "--reload" if options.reload else "--processes"
        raise UsageError(
            f"{name} needs sockets of the type SOCK_SEQPACKET, which this system does not have;"
            f" leave out {name}"
        )
    if options.preload and options.processes is None:
        raise UsageError("--preload needs --processes")
    _check_effect(line.given, options)
    addresses = addresses_of(options, default=not options.http)
    started_in = _starting_folder()
    options = apply_umask_and_chdir(options)
    folder = _working_folder()
    if folder is not None:
        # First, as `python -m` does. A console script has the folder of the script there.
        sys.path.insert(0, folder)
    if child is not None:
        # The supervisor has written the pid file, and has changed the user.
        options = replace(options, pid_file=None, user=None, group=None)
    process = OwnProcess(options)
    if line.action == "check_config":
        return _check(configuration, options, names)
    if under_cgi and child is None and not options.names_an_address and not options.http:
        return _answer(options)
    # For other programs that call this, and for a CGI program whose options name an address.
    open_standard()
    process.check_rights()
    early = EarlySignals(options.graceful_timeout)
    early.at_exit.append(process.clean_up)
    is_template = child is not None and child.is_template
    if not is_template:
        early.install()
    try:
        return _open_and_serve(addresses, process, options, names, child, early, started_in)
    finally:
        early.close()


_PARTS: Final = {
    "access_log": ("access_log_format",),
    "processes": ("start_timeout",),
    "record": ("record_records", "record_body_bytes", "record_files", "record_total_bytes"),
    "reload": ("reload_extra",),
    "sendfile": ("sendfile_folder",),
    "status_path": ("status_allow",),
}
"""Settings that have no effect while another one has its default."""


def _check_effect(given: Mapping[str, object], options: Options) -> None:
    """Check that no option was given without the one that it belongs to.

    Only those of the command line: a file or the environment may serve several commands.

    Raises:
        UsageError: an option has no effect.
    """
    parts = {**_PARTS, "push": tuple(each.name for each in fields(PushConfig))}
    if not (options.status_bind or options.push_bind):
        parts["http"] = tuple(each.name for each in fields(HTTPConfig))
    for whole, names in parts.items():
        for name in names:
            unused = name != whole and getattr(options, whole) == getattr(Options, whole)
            if name in given and unused:
                raise UsageError(
                    f"{option_name(name)} has no effect without {option_name(whole)}; add this"
                    f" option, or leave out {option_name(name)}"
                )


def _supervised() -> Supervised | None:
    """Return the supervisor as this process sees it; None if no supervisor has started it.

    Raises:
        UsageError: the variable of a supervisor is set, but by something else.
    """
    # It is removed, so that the app and its children do not see it.
    given = os.environ.pop(SUPERVISED_VARIABLE, None)
    if given is None:
        return None
    from vsgi_fcgi.supervisor.child import Supervised

    try:
        return Supervised(json.loads(given))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UsageError(
            f"{SUPERVISED_VARIABLE} is only for processes that a supervisor starts; unset it"
        ) from error


def _open_and_serve(
    addresses: Sequence[Address],
    process: OwnProcess,
    options: Options,
    names: dict[str, str],
    child: Supervised | None,
    early: EarlySignals,
    started_in: str | None,
) -> int:
    # Listening comes first. A web server that connects early then waits in the backlog instead of
    # being refused, and descriptor 0 is moved before a child process of the app can inherit it.
    listeners = [] if child is None else child.listeners
    try:
        if child is None:
            with early.held():
                listeners = open_listeners(addresses, options.backlog, process.socket_ownership)
                listeners += open_http(options.http, options.backlog)
                for scheme, given in ((STATUS, options.status_bind), (PUSH, options.push_bind)):
                    ownership = process.socket_ownership
                    listeners += open_fronts(scheme, given, options.backlog, ownership)
        if child is None or not child.is_template:
            # From here on, code of the app runs, which may fork during its import.
            _give_up_in_children(listeners, early)
        forget_sockets(os.environ)
        if options.debug:
            from vsgi_fcgi.cli.commands.debugger import allow_debugger

            allow_debugger(listeners, os.environ)
        if child is None and (options.reload or options.processes is not None):
            return _supervise(process, listeners, options, early, started_in)
        return _serve_on(listeners, process, options, names, child, early)
    except Stopped as stop:
        return stopped_early(stop, listeners, options)
    finally:
        # The server has already closed them, unless an error or Ctrl-C ended the loading of the
        # app. The socket files must not stay behind.
        for listener in listeners:
            listener.close()
        process.clean_up()


def _give_up_in_children(listeners: Sequence[Listener], early: EarlySignals) -> None:
    for listener in listeners:
        give_up_in_children(listener)
        early.at_exit.append(listener.unlink)


def _supervise(
    process: OwnProcess,
    listeners: Sequence[Listener],
    options: Options,
    early: EarlySignals,
    folder: str | None,
) -> int:
    """Serve in other processes, which this one starts and replaces."""
    configure_logging(options)
    never_wait()
    with early.held():
        process.set_up()
    options.check_spool_dir()
    if options.reload:
        from vsgi_fcgi.supervisor.reload import supervise_and_watch

        extra = options.reload_extra
        return supervise_and_watch(listeners, extra, options.graceful_timeout, folder)
    from vsgi_fcgi.supervisor.supervisor import supervise

    board = _make_scoreboard(options)
    grace = options.graceful_timeout
    return supervise(listeners, options, grace, folder, board)


def _serve_on(
    listeners: Sequence[Listener],
    process: OwnProcess,
    options: Options,
    names: dict[str, str],
    child: Supervised | None,
    early: EarlySignals,
) -> int:
    # Imported before the app can monkey-patch the modules from which the server imports names.
    with importing():
        from gevent import reinit

        from vsgi_fcgi.server.server import Server

    with early.held():
        process.set_up()
    if child is not None and not child.is_template:
        child.start()
    fronts = split(listeners)
    options = _prepare_push(fronts.push, options)
    apps, options = _load(options, names, child)
    if child is not None and child.is_template:
        child.fork()
        # From here on, this is a process of its own.
        reinit()
        early.install()
        _give_up_in_children(listeners, early)
    else:
        # What the imports have made stays for good: the garbage collector need not look at it.
        gc.freeze()
    server = Server(apps.responder, authorizer=apps.authorizer, filter=apps.filter, config=options)
    server.add_listeners(fronts.fastcgi)
    server.at_exit.append(process.clean_up)
    if child is not None:
        child.accompany(server)
    if fronts.status:
        from vsgi_fcgi.cli.commands.status_front import StatusFront

        StatusFront(fronts.status, server, options)
    if fronts.push:
        from vsgi_fcgi.cli.commands.push_front import PushFront

        PushFront(fronts.push, server, options)
    if options.push:
        _connect_others(options, child)
    with contextlib.ExitStack() as stack:
        if options.push:
            from vsgi_fcgi.push.publishing import PROCESS

            stack.callback(PROCESS.close_outlets, _LAST_ITEMS)
        if fronts.http:
            from vsgi_fcgi.cli.commands.http_front import HTTPFront

            stack.callback(HTTPFront(fronts.http, server, options).remove)
        return server.run(process_ends=True)


def _prepare_push(listeners: Sequence[Listener], options: Options) -> Options:
    """Tell the app where to publish, before it is imported.

    Returns:
        The settings, with a key that signs Grip-Sig.
    """
    if not options.push:
        return options
    # It imports hashlib, which takes a while.
    import secrets

    # The app must know the key, so the server cannot make one up later.
    key = options.push_key or secrets.token_hex(16)
    if listeners:
        from vsgi_fcgi.cli.commands.push_front import set_grip_url

        set_grip_url(os.environ, listeners, key)
    return replace(options, push_key=key)


def _connect_others(options: Options, child: Supervised | None) -> None:
    """Exchange published items with other processes and hosts."""
    import secrets

    from vsgi_fcgi.push.publishing import PROCESS, Outlet

    host = secrets.token_hex(8)
    try:
        if child is not None:
            host = child.host
            child.on_published = PROCESS.receive
            PROCESS.add_outlet(
                Outlet("the other processes", child.publish, options.max_items_queued)
            )
        if options.push_bus is not None:
            from vsgi_fcgi.push.bus import Bus

            bus = Bus(options.push_bus, host, PROCESS.receive)
            PROCESS.add_outlet(Outlet("the bus", bus.send, options.max_items_queued))
            bus.start()
    except RuntimeError as error:
        raise UsageError(
            "a server with held requests needs threads that publish, but this host allows no more;"
            " lower --processes or --threads"
        ) from error


def _make_scoreboard(options: Options) -> Scoreboard | None:
    """Make the scoreboard that the processes share, if the status is served."""
    if not options.status_bind and options.status_path is None:
        return None
    from vsgi_fcgi.status.scoreboard import Scoreboard

    # Also for old processes during a reload, and some more for SIGTTIN.
    processes = 4 * options.process_count + _MORE_PROCESSES
    return Scoreboard(Scoreboard.create(processes, options.max_running))


def _answer(options: Options) -> int:
    """Answer the single request of a CGI program.

    The process belongs to the web server, so --user, --pid-file and --access-log have no effect.
    """
    if options.app is None:
        raise UsageError(NO_RESPONDER)
    # Made before the app is loaded, which may print to stdout.
    handler = CGIHandler(options)
    app = load_app(options.app)
    configure_logging(options)
    return handler.serve(app)


def _load(
    options: Options, names: dict[str, str], child: Supervised | None
) -> tuple[Apps, Options]:
    """Return the apps, and the settings to serve them with.

    Under ``--reload``, a page with the error replaces an app that cannot be loaded.

    Raises:
        UsageError: an app cannot be loaded.
    """
    try:
        apps = _load_apps_for(options, names)
    except UsageError as error:
        if child is None or not options.reload:
            raise
        configure_logging(options)
        # In the main context, as the app may have patched `threading` before it failed.
        options = replace(options, worker="main", request_timeout=None)
        return same_for_all(names, child.stand_in(error)), options
    # After the apps, which may have set up logging themselves.
    configure_logging(options)
    if options.worker == "greenlet":
        _logger.info("--worker greenlet: gevent has patched the standard library for the app")
    if options.debug:
        apps = debugged(apps)
    return apps, options


def _load_apps_for(options: Options, names: dict[str, str]) -> Apps:
    """Load the apps, and check that the kind of worker can run them."""
    if options.worker == "greenlet":
        # Before the app, and everything that it imports.
        patch_for_greenlets()
    apps = load_apps(names)
    check_patching(options.worker)
    return apps


def _check(configuration: Configuration, options: Options, names: dict[str, str]) -> int:
    """Load the apps and print the settings, for ``--check-config``."""
    _load_apps_for(options, names)
    options.check_worker()
    options.check_spool_dir()
    configure_logging(options)
    loaded = "The app was loaded" if len(names) == 1 else "The apps were loaded"
    sys.stdout.write(configuration.checked(f"{loaded}, and the settings are valid."))
    return 0


def _working_folder() -> str | None:
    """Return the working directory, or None if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _starting_folder() -> str | None:
    """Return the working directory, as a path through its symbolic links if the shell knows them.

    After a deployment, the link leads to the new release, and the directory itself is the old one.

    Returns:
        The path; None if the directory was removed.
    """
    path = os.environ.get("PWD", "")
    try:
        if os.path.isabs(path) and os.path.samefile(path, "."):
            return path
        return os.getcwd()
    except OSError:
        return None
