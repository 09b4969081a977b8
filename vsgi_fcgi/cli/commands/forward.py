"""``vsgi-fcgi gateway`` and ``vsgi-fcgi relay``: processes that forward requests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vsgi_fcgi.cli.commands.listeners import addresses_of, open_http, with_static
from vsgi_fcgi.cli.log_setup import configure_logging
from vsgi_fcgi.cli.own_process import OwnProcess, apply_umask_and_chdir, stopped_early
from vsgi_fcgi.cli.settings.command import option_name
from vsgi_fcgi.cli.settings.command_line import CommandLine
from vsgi_fcgi.cli.settings.options import (
    HTTPOptions,
    ListeningOptions,
    ProcessOptions,
    UpstreamOptions,
)
from vsgi_fcgi.cli.settings.resolve import resolve
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.http.config import HTTPConfig
from vsgi_fcgi.listen.listeners import Listener, forget_sockets, open_listeners
from vsgi_fcgi.listen.ownership import SocketConfig
from vsgi_fcgi.listen.tcp import allowed_peers
from vsgi_fcgi.relay.config import RelayConfig
from vsgi_fcgi.server.early_signals import EarlySignals, Stopped
from vsgi_fcgi.settings import MIB, GracefulConfig

if TYPE_CHECKING:
    # Loads gevent, without which the manual page is built.
    from vsgi_fcgi.log.log import Log

_REQUIRED = {
    "upstream": "the application server, as in --upstream unix:/run/app.sock",
    "http": "the address to serve HTTP on, as in --http 127.0.0.1:8000",
}
"""The options without which there is nothing to do, if the command has them."""

_LOG_RECORDS = 10000
_LOG_BYTES = 16 * MIB
_LOG_FLUSH = 2.0
"""Seconds that the log has at the end of the process to write its queue."""


class Service(Protocol):
    """What forwards the requests: the gateway's HTTP server, or the relay."""

    def start(self) -> None:
        """Start to accept connections."""

    def stop(self, grace: float) -> bool:
        """Stop accepting, and wait for running requests.

        Args:
            grace: seconds that the requests have to end.

        Returns:
            True if all of them ended in time.
        """


def forward(
    line: CommandLine,
    open_listeners: Callable[[Any, OwnProcess], list[Listener]],
    make_service: Callable[[Sequence[Listener], Any, Log], Service],
) -> int:
    """Run a service that forwards requests, until a signal stops it.

    Args:
        line: the command line.
        open_listeners: opens the listening sockets, from the options and the process.
        make_service: makes the service, from the listeners, the options and a log.

    Returns:
        The exit status: 0 if every request was answered, 1 if some were aborted.

    Raises:
        UsageError: the service cannot do what the command line asks for.
    """
    configuration = resolve(line, os.environ)
    options = configuration.options
    if line.action == "print_config":
        sys.stdout.write(configuration.as_toml())
        return 0
    for name, meaning in _REQUIRED.items():
        if name in line.command.fields and not getattr(options, name):
            raise UsageError(f"{option_name(name)} is missing; name {meaning}")
    options = apply_umask_and_chdir(options)
    process = OwnProcess(options)
    if line.action == "check_config":
        from vsgi_fcgi.log.log import Log

        make_service([], options, Log(_LOG_RECORDS, _LOG_BYTES))
        sys.stdout.write(configuration.checked())
        return 0
    process.check_rights()
    early = EarlySignals(options.graceful_timeout)
    early.install()
    listeners: list[Listener] = []
    try:
        try:
            with early.held():
                listeners = open_listeners(options, process)
            forget_sockets(os.environ)
            configure_logging(options)
            with early.held():
                process.set_up()
            return _run(listeners, options, make_service, process)
        except Stopped as stop:
            return stopped_early(stop, listeners, options)
        finally:
            for listener in listeners:
                listener.close()
            process.clean_up()
    finally:
        early.close()


def _run(
    listeners: Sequence[Listener],
    options: Any,
    make_service: Callable[[Sequence[Listener], Any, Log], Service],
    process: OwnProcess,
) -> int:
    """Run the service until a signal stops it, and return the exit status."""
    # Imported here because the manual page is built without gevent.
    from gevent.event import Event

    from vsgi_fcgi.log.log import Log
    from vsgi_fcgi.server.signals import Signals
    from vsgi_fcgi.transport.loop import get_loop

    log = Log(_LOG_RECORDS, _LOG_BYTES)
    stopping = Event()

    def on_signal(name: str) -> None:
        log.info("%s: stopping", name)
        stopping.set()

    def on_deadline(why: str) -> None:
        try:
            log.warning("%s: leaving with requests open", why)
            for listener in listeners:
                listener.unlink()
            process.clean_up()
            log.flush(_LOG_FLUSH)
        finally:
            os._exit(1)

    def on_reopen() -> None:
        log.reopen()
        log.info("SIGUSR1: the log files were opened again")

    def on_record() -> None:
        log.info("SIGUSR2: the gateway records no connections")

    service = make_service(listeners, options, log)
    log.start()
    signals = Signals(
        get_loop(),
        options.graceful_timeout,
        on_signal,
        on_deadline,
        on_reopen,
        getattr(service, "record_now", on_record),
    )
    signals.install()
    try:
        service.start()
        for listener in listeners:
            log.info("listening on %s, for %s", listener.uri, ", ".join(options.upstream))
        stopping.wait()
        for listener in listeners:
            listener.unlink()
        complete = service.stop(options.graceful_timeout)
    finally:
        signals.restore(True)
        log.info("stopped")
        log.stop(_LOG_FLUSH)
    return 0 if complete else 1


# ``vsgi-fcgi gateway``: an HTTP server that forwards requests to FastCGI application servers.

_BACKLOG = 1024


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class GatewayOptions(
    ProcessOptions, HTTPOptions, UpstreamOptions, HTTPConfig, ClientConfig, GracefulConfig
):
    """Options of the gateway.

    Raises:
        UsageError: a value is out of its bounds; the message begins with the field's name.
    """


def gateway(line: CommandLine) -> int:
    """Run the gateway until a signal stops it, and return the exit status.

    Args:
        line: the command line.

    Raises:
        UsageError: the gateway cannot do what the command line asks for.
    """
    return forward(line, _open_http_sockets, _make_gateway)


def _open_http_sockets(options: GatewayOptions, process: OwnProcess) -> list[Listener]:
    return open_http(options.http, _BACKLOG)


def _make_gateway(listeners: Sequence[Listener], options: GatewayOptions, log: Log) -> Service:
    # Imported here because both load gevent, and the manual page is built without it.
    from vsgi_fcgi.client.gateway import Gateway
    from vsgi_fcgi.http.server import HTTPServer

    app = Gateway(*options.upstream, config=options, log=log)
    # Parse the addresses now, to report a wrong one before the first client connects.
    assert app.upstreams
    sockets = [listener.sock for listener in listeners]
    return HTTPServer(sockets, with_static(app, options.static), options, log)


# ``vsgi-fcgi relay``: many FastCGI connections of web servers carried over few.


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class RelayOptions(ListeningOptions, ProcessOptions, UpstreamOptions, SocketConfig, RelayConfig):
    """Options of the relay.

    Raises:
        UsageError: a value is out of its bounds; the message begins with the field's name.
    """


def relay(line: CommandLine) -> int:
    """Run the relay until a signal stops it, and return the exit status.

    Args:
        line: the command line.

    Raises:
        UsageError: the relay cannot do what the command line asks for.
    """
    return forward(line, _open_fastcgi_sockets, _RelayService)


def _open_fastcgi_sockets(options: RelayOptions, process: OwnProcess) -> list[Listener]:
    return open_listeners(addresses_of(options), options.backlog, process.socket_ownership)


class _RelayService(Service):
    """A relay that starts and stops as the gateway's HTTP server does.

    Attributes:
        record_now: writes recordings.
    """

    def __init__(self, listeners: Sequence[Listener], options: RelayOptions, log: Log) -> None:
        # Imported here because it loads gevent, and the manual page is built without it.
        from vsgi_fcgi.relay.relay import Relay

        self._relay = Relay(
            listeners,
            options.upstream,
            options,
            log,
            allowed=allowed_peers(os.environ),
        )
        self.record_now = self._relay.connections.record_now

    def start(self) -> None:
        self._relay.start()

    def stop(self, grace: float) -> bool:
        relay = self._relay
        relay.stop(grace)
        relay.done.wait()
        relay.close()
        return not (relay.cut_off or relay.connections.late)
