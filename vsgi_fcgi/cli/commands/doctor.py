"""``vsgi-fcgi doctor``: a server that diagnoses each request instead of running the app."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, Final, cast

from vsgi_fcgi.addresses import InetAddress
from vsgi_fcgi.cli.commands.listeners import addresses_of
from vsgi_fcgi.cli.log_setup import configure_logging
from vsgi_fcgi.cli.own_process import OwnProcess, apply_umask_and_chdir
from vsgi_fcgi.cli.settings.command_line import CommandLine
from vsgi_fcgi.cli.settings.resolve import resolve
from vsgi_fcgi.doctor import Doctor
from vsgi_fcgi.doctor.request import WIRE, Arrival, ConnectionUse, WireRequest
from vsgi_fcgi.exceptions import ParamsError, UsageError
from vsgi_fcgi.listen.listeners import Listener, forget_sockets, open_listeners
from vsgi_fcgi.log.access_log import AccessLog
from vsgi_fcgi.protocol import Event, Limits, Request, Role, ServerProtocol
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.records import decode_pairs, iter_pairs
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.connection import RoleRequestReader, ServerConnection
from vsgi_fcgi.server.exchange import Exchange
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.server.workers.base import Dispatcher

_MIN_THREADS = 16
"""The number of requests that a trial sends at the same time."""

_logger = logging.getLogger("vsgi_fcgi.doctor")


def doctor(line: CommandLine) -> int:
    """Run the doctor until a signal stops it, and return the exit status.

    Args:
        line: the command line.

    Raises:
        UsageError: the doctor cannot do what the command line asks for.
    """
    configuration = resolve(line, os.environ)
    options = configuration.options
    if line.action == "print_config":
        sys.stdout.write(configuration.as_toml())
        return 0
    if options.http:
        raise UsageError(
            "--http: the doctor diagnoses a web server, and --http replaces it; leave --http out"
            " and name the address that your web server connects to, as in --bind"
        )
    addresses = addresses_of(options)
    options = apply_umask_and_chdir(options)
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
        process.set_up()
        _logger.critical(
            "THIS IS THE DOCTOR, NOT THE APP: it answers every client with what the web server"
            " sent; stop it when you have found the problem"
        )
        app = Doctor(options.mount_point)
        threads = max(options.threads, _MIN_THREADS)
        server = InspectingServer(
            app,
            authorizer=app,
            filter=app,
            config=replace(options, worker="thread", threads=threads),
        )
        server.add_listeners(listeners)
        server.at_exit.append(process.clean_up)
        return server.run(process_ends=True)
    finally:
        for listener in listeners:
            listener.close()
        process.clean_up()


def _refuse_open(listeners: Iterable[Listener]) -> None:
    """Refuse listeners that others than the local web server can reach.

    Raises:
        UsageError: one of them is open to others.
    """
    for listener in listeners:
        if listener.open_to_others:
            raise UsageError(
                f"{listener.uri}: other machines can reach this address, and the doctor shows every"
                " client what the web server sends; listen on a UNIX socket or on loopback"
            )
        name = listener.sock.getsockname()
        if isinstance(name, str) and name and _mode(name) & stat.S_IWOTH:
            raise UsageError(
                f"{name}: every local user may connect to this socket, as its mode is"
                f" {_mode(name):04o}; set it to 0660 (--socket-mode, SocketMode= of systemd, -M of"
                " spawn-fcgi) and give the socket to the web server's group"
            )


def _mode(path: str) -> int:
    """Return the permission bits of a socket, or 0 if it cannot be examined."""
    with contextlib.suppress(OSError):
        return stat.S_IMODE(os.stat(path).st_mode)
    return 0


# A server that records how its web server behaves. Other servers do not run this code.

_AT_ONCE: Final = 0.08
"""Seconds after a response. A web server that closes the connection within this time does not keep
connections open. nginx closes idle connections at the earliest 100 ms after a reload."""


class InspectedConnection(ServerProtocol):
    """Counts the requests of a connection, and records whether the web server keeps it open.

    Args:
        limits: the limits of the connection.
        values: the variables for GET_VALUES_RESULT, by name.
        roles: the roles that are served.

    Attributes:
        number: the number of the connection, among those that have carried a request; 0 before
            its first request.
        begun: number of requests that have begun on it.
    """

    __slots__ = ("_connection_use", "_last_ended", "_wants_keeping", "begun", "number")

    def __init__(self, limits: Limits, values: Mapping[str, str], roles: frozenset[int]) -> None:
        super().__init__(limits, values, roles, raw_params=True)
        self.number = 0
        self.begun = 0
        self._connection_use: ConnectionUse | None = None
        self._last_ended = 0.0
        self._wants_keeping = False

    def note(self, request: Request, numbers: count[int], connection_use: ConnectionUse) -> None:
        """Count a request that has begun.

        Args:
            request: the request.
            numbers: the numbers of connections that have not carried a request yet.
            connection_use: the record of how connections are used.
        """
        if not self.number:
            self.number = next(numbers)
            self._connection_use = connection_use
        self.begun += 1
        self._wants_keeping = request.keep_conn
        if self.begun > 1:
            connection_use.used_again()

    def receive_eof(self) -> list[Event]:
        """Take the end of the connection; record if the web server had asked to keep it open."""
        answered = self.begun == 1 and not self.requests
        if answered and self._wants_keeping and time.monotonic() - self._last_ended < _AT_ONCE:
            assert self._connection_use is not None
            self._connection_use.dropped()
        return super().receive_eof()

    def _release(self, request: Request) -> None:
        self._last_ended = time.monotonic()
        super()._release(request)


class InspectingRequestReader(RoleRequestReader):
    """Puts a `WireRequest` into the environ of each request.

    A request without a REQUEST_METHOD is treated as a GET and not refused, so that the doctor can
    report what is missing.
    """

    __slots__ = ("_connection_use", "_numbers")

    def __init__(
        self, services: Services, dispatcher: Dispatcher, access_log: AccessLog | None
    ) -> None:
        super().__init__(services, dispatcher, access_log)
        self._connection_use = ConnectionUse()
        self._numbers = count(1)

    def _start(self, exchange: Exchange) -> None:
        request = exchange.request
        block, limit = request.raw_params, self._services.config.max_params_count
        try:
            request.params, request.repeated = decode_pairs(block, limit)
        except ParamsError as error:
            request.params, request.repeated = {}, ()
            exchange.refuse(error.status, str(error))
            return
        connection, protocol = exchange.connection, exchange.connection.protocol
        assert isinstance(connection, ServerConnection)
        assert isinstance(protocol, InspectedConnection)
        protocol.note(request, self._numbers, self._connection_use)
        in_flight = [len(other.protocol.requests) for other in connection.connections]
        self._connection_use.began(sum(in_flight), max(in_flight, default=0))
        wire = WireRequest(
            pairs=tuple(iter_pairs(block, block.decode("latin-1"))),
            role=request.role,
            id=request.id,
            keep_conn=request.keep_conn,
            connection=protocol.number,
            turn=protocol.begun,
            neighbours=len(protocol.requests) - 1,
            asked_values=protocol.asked_values,
            address=_address(connection),
            arrival=Arrival(),
            connection_use=self._connection_use,
        )
        params: dict[str, Any] = request.params
        params[WIRE] = wire
        if not params.get("REQUEST_METHOD"):
            params["REQUEST_METHOD"] = "GET"
        super()._start(exchange)

    def _receive(self, exchange: Exchange, body: Body | None, data: Buffer) -> None:
        if exchange.request.role == Role.RESPONDER:
            arrival = cast(dict[str, Any], exchange.request.params)[WIRE].arrival
            arrival.ended = time.monotonic()
            arrival.size += len(data)
        super()._receive(exchange, body, data)


class InspectingServer(Server):
    """A `Server` whose apps find a `WireRequest` in ``environ["vsgi_fcgi.wire"]``."""

    _request_reader = InspectingRequestReader
    _protocol = InspectedConnection


def _address(connection: ServerConnection) -> str:
    """Return the address that the web server connected to, in the form of ``--bind``."""
    name: Any = connection.sock.getsockname()
    if isinstance(name, tuple):
        return str(InetAddress(*name[:2]))
    if isinstance(name, bytes):
        return f"unix:@{name[1:].decode('utf-8', 'replace')}" if name else ""
    # Absolute, because a relative path would name another socket in the web server.
    return f"unix:{os.path.abspath(name)}" if name else ""
