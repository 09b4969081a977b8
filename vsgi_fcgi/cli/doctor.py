"""``vsgi-fcgi doctor``: listens as the server does, and looks into each request."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import replace

from vsgi_fcgi.cli.arguments import CommandLine
from vsgi_fcgi.cli.configuration import configure
from vsgi_fcgi.cli.listening import addresses_of
from vsgi_fcgi.cli.logs import configure_logging
from vsgi_fcgi.cli.process import OwnProcess, settle
from vsgi_fcgi.doctor import Doctor
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.inspecting import InspectingServer
from vsgi_fcgi.server.listeners import Listener, open_listeners
from vsgi_fcgi.server.systemd import forget_sockets

_LEAST_THREADS = 16
"""As many as requests of a trial come at the same time."""

_logger = logging.getLogger("vsgi_fcgi.doctor")


def examine(line: CommandLine) -> int:
    """Do what the command line asks for: answer as the doctor until a signal says to stop.

    Args:
        line: the command line.

    Returns:
        The exit status.

    Raises:
        UsageError: something that was asked for cannot be done.
    """
    configuration = configure(line, os.environ)
    options = configuration.options
    if line.action == "print_config":
        sys.stdout.write(configuration.as_toml())
        return 0
    if options.http:
        raise UsageError(
            "the doctor looks into what a web server sends, and --http is one of our own in which"
            " nothing is to be configured; leave it out, and listen for yours"
        )
    addresses = addresses_of(options)
    settle(options)
    process = OwnProcess(options)
    if line.action == "check_config":
        sys.stdout.write(configuration.checked())
        return 0
    process.check_rights()
    listeners = open_listeners(addresses, options.backlog, process.socket_ownership)
    forget_sockets(os.environ)
    try:
        _refuse_open(listeners)
        configure_logging(options)
        process.enter()
        _logger.critical(
            "THIS IS THE DOCTOR, NOT THE APP: it answers each request by what the web server has"
            " sent, to whoever asks; stop it when you have found what is wrong"
        )
        doctor = Doctor(options.mount_point)
        threads = max(options.threads, _LEAST_THREADS)
        server = InspectingServer(
            doctor,
            authorizer=doctor,
            filter=doctor,
            config=replace(options, worker="thread", threads=threads),
        )
        server.add_listeners(listeners)
        server.at_exit.append(process.leave)
        return server.run(process_ends=True)
    finally:
        for listener in listeners:
            listener.close()
        process.leave()


def _refuse_open(listeners: Iterable[Listener]) -> None:
    """Refuse what others than the web server of this machine may well reach.

    Raises:
        UsageError: one is open to them.
    """
    for listener in listeners:
        if listener.open_to_others:
            raise UsageError(
                f"the doctor shows whoever reaches {listener.uri} what the web server sends, and"
                " other machines reach it; listen on a UNIX socket or on loopback"
            )
        name = listener.sock.getsockname()
        if isinstance(name, str) and name and _mode(name) & stat.S_IWOTH:
            raise UsageError(
                f"the doctor listens on no socket that is open to everybody, and the mode of {name}"
                f" is {_mode(name):04o}; make it 0660 (--socket-mode, SocketMode= of systemd, -M of"
                " spawn-fcgi) and give it to the web server's group"
            )


def _mode(path: str) -> int:
    """The permissions of a socket; none if it is out of sight."""
    with contextlib.suppress(OSError):
        return stat.S_IMODE(os.stat(path).st_mode)
    return 0
