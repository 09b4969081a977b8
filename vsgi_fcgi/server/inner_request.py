"""Requests that the server itself makes to the app, for a held request.

Such a request runs in a worker like any other. Only its connection is none: an `InnerRequest` takes
what the worker writes, and makes one `Answer` of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from vsgi_fcgi.exceptions import ResponseError
from vsgi_fcgi.protocol import Inbound, Request, Role, ServerProtocol
from vsgi_fcgi.push.held import Answer
from vsgi_fcgi.server.exchange import SUBMITTED, Exchange
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.server.workers.base import Dispatcher
from vsgi_fcgi.transport.spool_file import Extent
from vsgi_fcgi.transport.thread_affinity import main_only
from vsgi_fcgi.wsgi.response_head import ResponseHeadReader

_MAX_HEAD: Final = 65536
"""Maximum number of bytes of a header block."""

Done = Callable[[Answer | None], None]


class Context(Protocol):
    """The main context, as this module sees it."""

    services: Services
    dispatcher: Dispatcher

    @property
    def make_protocol(self) -> Callable[[], ServerProtocol]:
        """Makes the protocol of a connection."""

    @property
    def make_exchange(self) -> type[Exchange]:
        """The class of the exchanges."""


@main_only
def ask(context: Context, params: dict[str, str], uri: str | None, done: Done) -> bool:
    """Run the app for a request of the server.

    Args:
        context: the main context.
        params: the params of the client's request.
        uri: what to request, relative to the client's request; None to repeat that.
        done: called with the answer, or with None if there is none.

    Returns:
        False if the URI is not one of this app.
    """
    params = dict(params)
    if uri is not None and not _point_to(params, uri):
        return False
    request = Request(1, int(Role.RESPONDER), True)
    request.inbound = Inbound.ENDED
    request.params, request.repeated = params, ()
    carrier = InnerRequest(context, done)
    exchange = context.make_exchange(carrier, request)
    context.dispatcher.submit(exchange)
    return True


def _point_to(params: dict[str, str], uri: str) -> bool:
    """Make params those of a GET request for another URI.

    Returns:
        False if the URI is invalid, or is one of another app.
    """
    host = params.get("HTTP_HOST") or params.get("SERVER_NAME", "")
    base = f"http://{host}{params.get('REQUEST_URI', '/')}"
    try:
        target = urlsplit(urljoin(base, uri))
    except ValueError:
        # A bracket in the client's Host or in the app's URI begins an invalid IPv6 address.
        return False
    mount = params.get("SCRIPT_NAME", "")
    path = unquote_to_bytes(target.path).decode("latin-1")
    if target.netloc != host or not (path + "/").startswith(mount + "/"):
        return False
    for name in ("CONTENT_LENGTH", "CONTENT_TYPE"):
        params.pop(name, None)
    params["REQUEST_METHOD"] = "GET"
    params["REQUEST_URI"] = f"{target.path}?{target.query}" if target.query else target.path
    params["PATH_INFO"] = path[len(mount) :]
    params["QUERY_STRING"] = target.query
    return True


class InnerRequest:
    """Stands in for the connection of a request that has none, and for its writer and its reader.

    Args:
        context: the main context.
        done: called once, with the answer or None.
    """

    peer = "a held request"

    def __init__(self, context: Context, done: Done) -> None:
        self.services = context.services
        self.protocol = context.make_protocol()
        self._done: Done | None = done
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def reader(self) -> Any:
        """What refuses the request: this object."""
        return self

    @property
    def writer(self) -> Any:
        """What takes the response: this object."""
        return self

    def pause(self) -> None:
        """Do nothing: there is no input."""

    resume = pause

    def ended_badly(self, what: str) -> None:
        """Do nothing: there is no connection that could be recorded."""

    def _end(self, answer: Answer | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(answer)

    # As the reader.

    def refuse(self, exchange: Exchange, status: int, reason: str) -> None:
        """End a request that no worker gets."""
        self.services.log.warning("the app was not asked for a held request: %s", reason)
        exchange.cancel()
        self._end(None)

    def complete_body(self, exchange: Exchange) -> None:
        """Do nothing: there is no body."""

    def answer(self, request: Request, response: bytes) -> None:
        """Take the answer to a request that no worker got, which is an error."""
        self._end(None)

    # As the writer.

    def put(self, exchange: Exchange) -> None:
        """Take the posted pieces of a response."""
        response = exchange.response
        if response is None:
            return  # `finish` takes the final piece
        if exchange.state is not SUBMITTED:
            response.drop()
            return
        self._take(exchange)

    def _take(self, exchange: Exchange) -> None:
        response = exchange.response
        assert response is not None
        response.take()
        while response.pieces:
            piece = response.pieces.popleft()
            if isinstance(piece, Extent) or self._is_full(len(piece)):
                response.pieces.clear()
                exchange.cancel()
                self._end(None)
                return
            self._pieces.append(bytes(piece))
            response.credit(len(piece))

    def _is_full(self, size: int) -> bool:
        self._size += size
        return self._size > _MAX_HEAD + self.services.config.max_item_bytes

    def finish(self, exchange: Exchange) -> None:
        """Take the end of a response."""
        if not exchange.end_run():
            self._end(None)
            return
        if exchange.response is not None:
            self._take(exchange)
            if exchange.cancelled:
                return
        held = exchange.held
        data = b"".join([*self._pieces, exchange.final, exchange.more])
        exchange.end()
        if held is not None:
            held.outlet = None
            self._end(held.answer)
        elif exchange.broken:
            self._end(None)
        else:
            self._end(_answer_of(data))

    def answer_instead(self, exchange: Exchange, response: bytes) -> None:
        """End a request whose app has run too long."""
        exchange.cancel()
        self._end(None)

    def queue(self, exchange: Exchange) -> None:
        """Do nothing: nothing is sent."""

    end_held = queue


def _answer_of(data: bytes) -> Answer | None:
    try:
        found = ResponseHeadReader(_MAX_HEAD).feed(data)
    except ResponseError:
        return None
    if found is None:
        return None
    head, body = found
    return Answer(None, f"{head.status} {head.reason}", head.headers, body)
