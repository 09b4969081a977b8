"""Gathers the requests of authorizers and filters; made only where one of them is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vsgi_fcgi.protocol import DataEnded, DataReceived, Event, Outbound, Request, Role
from vsgi_fcgi.server.assembler import Assembler
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.filter_body import FilterBody
from vsgi_fcgi.wsgi.environ import byte_count, check_seconds, join_repeated

if TYPE_CHECKING:
    from vsgi_fcgi.server.channel import Channel

_AUTHORIZER: Final = int(Role.AUTHORIZER)
_FILTER: Final = int(Role.FILTER)
_ENDED: Final = Outbound.ENDED


class RoleAssembler(Assembler):
    """Knows what `Assembler` need not: requests without STDIN, and those with DATA behind it.

    The file of a filter is gathered as a body is, in memory and then in a temporary file, and
    within the same limits. ``request.context`` of such a request is a `FilterBody` from its start
    on.
    """

    __slots__ = ()

    def _started(self, channel: Channel, request: Request) -> None:
        role, params = request.role, request.params
        if role == _AUTHORIZER:
            if request.repeated:
                join_repeated(params, request.repeated)
                request.repeated = ()
            # That of the client's request, of which the body is not for an authorizer.
            params.pop("CONTENT_LENGTH", None)
        super()._started(channel, request)
        if request.outbound is not _ENDED:
            if role == _AUTHORIZER:
                self._context.dispatcher.submit(channel, request, None)
            elif role == _FILTER:
                self._expect_file(channel, request)

    def _expect_file(self, channel: Channel, request: Request) -> None:
        params = request.params
        limit = self._context.config.max_body_bytes
        try:
            expected = byte_count(params, "FCGI_DATA_LENGTH")
            check_seconds(params, "FCGI_DATA_LAST_MOD")
        except ValueError as error:
            self.refuse(channel, request, 400, str(error))
            return
        if expected is not None and expected > limit:
            self._refuse_file(channel, request, f"its file is larger than {limit} bytes")
            return
        data = Body(expected, self._memory, self._spool)
        length = byte_count(params, "CONTENT_LENGTH")
        body = request.context = FilterBody(length, data, self._memory, self._spool)
        body.began = self._now()

    def _data(self, channel: Channel, event: Event) -> None:
        request = event.request
        if isinstance(event, DataReceived):
            self._data_received(channel, request, request.context.data, event)
        elif isinstance(event, DataEnded):
            self._data_ended(channel, request, request.context.data)

    def _data_received(
        self, channel: Channel, request: Request, data: Body, event: DataReceived
    ) -> None:
        size, limit = data.size + len(event.data), self._context.config.max_body_bytes
        if data.expected is not None and size > data.expected:
            reason = f"more of its file came than the {data.expected} bytes of FCGI_DATA_LENGTH"
            self._refuse_file(channel, request, reason)
        elif size > limit:
            self._refuse_file(channel, request, f"its file is larger than {limit} bytes")
        else:
            self._received(channel, request, data, event.data)

    def _data_ended(self, channel: Channel, request: Request, data: Body) -> None:
        if data.expected is not None and data.size < data.expected:
            reason = f"{data.size} bytes of its file of {data.expected} came"
            self._refuse_file(channel, request, reason)
        else:
            self._ended(channel, request, data)

    def _refuse_file(self, channel: Channel, request: Request, reason: str) -> None:
        """Refuse a request for its file. That is the web server's: no client can mend it."""
        self.refuse(channel, request, 500, reason)

    def _complete(self, channel: Channel, request: Request, body: Body) -> None:
        whole = request.context
        if not isinstance(whole, FilterBody):
            super()._complete(channel, request, body)
        elif whole.complete:
            super()._complete(channel, request, whole)
