"""``--status-path``: the status over FastCGI, answered without a worker."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import partial
from typing import cast

from vsgi_fcgi.log.access_format import rebuild_target
from vsgi_fcgi.log.access_log import AccessLog
from vsgi_fcgi.server.exchange import READING, Exchange, LoggedExchange
from vsgi_fcgi.server.publishing import Publisher
from vsgi_fcgi.status.app import PATHS, Response, respond, respond_as_cgi
from vsgi_fcgi.transport.closing import Outcome
from vsgi_fcgi.transport.thread_affinity import main_only


class StatusPath:
    """Answers the requests for the status.

    Args:
        path: the URL path of the status.
        allowed: addresses of clients that may read it, besides those of this machine.
        publisher: makes the responses.
        access_log: the access log, or None if there is none.
    """

    def __init__(
        self,
        path: str,
        allowed: Sequence[str],
        publisher: Publisher,
        access_log: AccessLog | None,
    ) -> None:
        self._path = path.rstrip("/")
        self._allowed = allowed
        self._publisher = publisher
        self._access_log = access_log

    @main_only
    def take(self, exchange: Exchange) -> bool:
        """Answer a complete request later if it is for the status; return whether it is."""
        get = exchange.request.params.get
        path, _, query = (get("REQUEST_URI") or rebuild_target(get)).partition("?")
        if not path.startswith(self._path):
            return False
        rest = path[len(self._path) :] or "/"
        if rest not in PATHS:
            return False
        client = get("REMOTE_ADDR") or ""
        if client not in self._allowed and not _is_loopback(client):
            exchange.refuse(403, f"status_allow does not name the client {client or 'at all'}")
            return True
        task = partial(respond, self._publisher, rest, query, self._path)
        if not self._publisher.ask(task, partial(self._answer, exchange)):
            exchange.refuse(503, "too many requests for the status wait")
        return True

    def _answer(self, exchange: Exchange, response: Response) -> None:
        if exchange.state is not READING:
            return  # the web server has given it up
        data = respond_as_cgi(response)
        if self._access_log is not None:
            logged = cast(LoggedExchange, exchange)
            self._access_log.refused(logged, data, Outcome.COMPLETE)
        exchange.answer(data)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
