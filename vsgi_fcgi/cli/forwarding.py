"""``vsgi-fcgi gateway`` and ``vsgi-fcgi relay``: processes that pass requests on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, cast

import gevent
from gevent.event import Event

from vsgi_fcgi.cli.arguments import PROGRAM, CommandLine
from vsgi_fcgi.cli.configuration import configure
from vsgi_fcgi.cli.gateway_options import GATEWAY, GatewayOptions
from vsgi_fcgi.cli.http_listeners import open_http, with_static
from vsgi_fcgi.cli.listening import addresses_of
from vsgi_fcgi.cli.logs import configure_logging
from vsgi_fcgi.cli.process import OwnProcess, settle
from vsgi_fcgi.cli.relay_options import RelayOptions
from vsgi_fcgi.client.gateway import Gateway
from vsgi_fcgi.client.http_server import HTTPServer
from vsgi_fcgi.client.relay import Relay
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.loop import Loop
from vsgi_fcgi.server.listeners import Listener, open_listeners
from vsgi_fcgi.server.log import Log
from vsgi_fcgi.server.peers import allowed_peers, is_allowed
from vsgi_fcgi.server.signals import Signals
from vsgi_fcgi.server.systemd import forget_sockets
from vsgi_fcgi.settings import MIB

_BACKLOG = 1024
_LOG_RECORDS = 10000
_LOG_BYTES = 16 * MIB
_LOG_FLUSH = 2.0
"""Seconds that the log gets to write what waits when the process ends."""


class Service(Protocol):
    """What such a process does."""

    def start(self) -> None:
        """Begin to accept."""

    def stop(self, grace: float) -> bool:
        """Accept no more, and let requests end; returns whether all did."""


class _RelayService:
    """A relay, started and stopped as the gateway is."""

    def __init__(self, listeners: Sequence[Listener], options: RelayOptions, log: Log) -> None:
        allowed = allowed_peers(os.environ)
        self._relay = Relay(
            listeners,
            options.upstream,
            options,
            log,
            is_allowed=None if allowed is None else partial(is_allowed, allowed=allowed),
        )

    def start(self) -> None:
        self._relay.start()

    def stop(self, grace: float) -> bool:
        relay = self._relay
        relay.stop(grace)
        relay.done.wait()
        relay.close()
        return not relay.cut_off


def forward(line: CommandLine) -> int:
    """Do what the command line of one of these commands asks for.

    Args:
        line: the command line.

    Returns:
        The exit status: 0 if every request was answered, 1 if some were cut off.

    Raises:
        UsageError: something that was asked for cannot be done.
    """
    configuration = configure(line, os.environ)
    options = configuration.options
    if line.action == "print_config":
        sys.stdout.write(configuration.as_toml())
        return 0
    if not options.upstream:
        raise UsageError(
            "no --upstream says where the FastCGI application server listens;"
            f" {PROGRAM} {line.command.name} --help says how"
        )
    if line.command is GATEWAY and not options.http:
        raise UsageError("no --http says where to listen, as in --http 127.0.0.1:8000")
    settle(options)
    process = OwnProcess(options)
    make = _make_gateway if line.command is GATEWAY else _make_relay
    if line.action == "check_config":
        log = Log(_LOG_RECORDS, _LOG_BYTES)
        make([], options, log)
        sys.stdout.write(configuration.checked())
        return 0
    process.check_rights()
    listeners = _open(line, options, process)
    forget_sockets(os.environ)
    try:
        configure_logging(options)
        process.enter()
        return _run(listeners, options, make, process)
    finally:
        for listener in listeners:
            listener.close()
        process.leave()


def _open(line: CommandLine, options: Any, process: OwnProcess) -> list[Listener]:
    if line.command is GATEWAY:
        return open_http(options.http, _BACKLOG)
    return open_listeners(addresses_of(options), options.backlog, process.socket_ownership)


def _make_gateway(listeners: Sequence[Listener], options: GatewayOptions, log: Log) -> Service:
    gateway = Gateway(*options.upstream, config=options, log=log)
    # Made now, so that an address that makes no sense is said before anybody connects.
    assert gateway.upstreams
    app = with_static(gateway, options.static)
    return HTTPServer([listener.sock for listener in listeners], app, options, log)


def _make_relay(listeners: Sequence[Listener], options: RelayOptions, log: Log) -> Service:
    return _RelayService(listeners, options, log)


def _run(
    listeners: Sequence[Listener],
    options: Any,
    make: Callable[[Sequence[Listener], Any, Log], Service],
    process: OwnProcess,
) -> int:
    """Run until a signal says to stop."""
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
            process.leave()
            log.flush(_LOG_FLUSH)
        finally:
            os._exit(1)

    service = make(listeners, options, log)
    log.start()
    # A cast: the type stubs leave out a timer's `again`.
    loop = cast(Loop, gevent.get_hub().loop)
    signals = Signals(loop, options.graceful_timeout, on_signal, on_deadline)
    signals.install()
    try:
        service.start()
        for listener in listeners:
            log.info("listening on %s, for %s", listener.uri, ", ".join(options.upstream))
        stopping.wait()
        for listener in listeners:
            listener.unlink()
        whole = service.stop(options.graceful_timeout)
    finally:
        signals.restore(True)
        log.info("stopped")
        log.stop(_LOG_FLUSH)
    return 0 if whole else 1
