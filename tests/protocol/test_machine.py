"""Test every state with every input: all orders in which the two sides can send."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.fcgi import records
from support.fcgi.server_protocols import ALL_ROLES, sent, server_protocol

from vsgi_fcgi.exceptions import LocalProtocolError, RemoteProtocolError
from vsgi_fcgi.protocol import (
    Event,
    Inbound,
    Limits,
    Outbound,
    Request,
    RequestAborted,
    RequestRejected,
    RequestStarted,
    RoleRefused,
)
from vsgi_fcgi.protocol.events import REQUEST_COST

MAX_REQUESTS = 3
MAX_PARAMS = 40
IDS = st.integers(1, 5)
ROLES = st.sampled_from([1, 1, 1, 2, 3, 9])
CONTENT = st.sampled_from([b"", b"", b"\x01\x01ab", b"\x01", b"x" * 30])

ORDER = {
    name: place
    for place, name in enumerate(
        ["RequestStarted", "StdinReceived", "StdinEnded", "DataReceived", "DataEnded"]
    )
}


class ConnectionMachine(RuleBasedStateMachine):
    """Drives one connection from both sides, and checks what always holds."""

    def __init__(self) -> None:
        super().__init__()
        self.handles: list[Request] = []
        self.events: dict[Request, list[Event]] = {}
        self.dead = False

    @initialize(all_roles=st.booleans())
    def connect(self, all_roles: bool) -> None:
        limits = Limits(requests=MAX_REQUESTS, params_bytes=MAX_PARAMS, params_count=3)
        roles = ALL_ROLES if all_roles else {1}
        self.connection = server_protocol(roles=roles, limits=limits)

    # The web server.

    def receive(self, data: bytes) -> None:
        try:
            self.note(self.connection.receive_data(data))
        except RemoteProtocolError:
            self.dead = True
            self.note(self.connection.receive_eof())
        for request in self.connection.requests.values():
            if request not in self.handles:
                self.handles.append(request)

    def note(self, events: list[Event]) -> None:
        for event in events:
            before = self.events.setdefault(event.request, [])
            assert not any(isinstance(known, RequestAborted | RoleRefused) for known in before)
            if isinstance(event, RequestRejected):
                assert not any(isinstance(known, RequestRejected) for known in before)
            elif isinstance(event, RoleRefused):
                assert not before
            elif not isinstance(event, RequestAborted):
                assert not any(isinstance(known, RequestRejected) for known in before)
                place = ORDER[type(event).__name__]
                assert isinstance(event, RequestStarted) is not bool(before)
                assert all(ORDER[type(known).__name__] <= place for known in before)
            before.append(event)

    @precondition(lambda self: not self.dead)
    @rule(id=IDS, role=ROLES, keep_conn=st.sampled_from([True, True, True, False]))
    def begin(self, id: int, role: int, keep_conn: bool) -> None:
        # An id that is in use would end nearly every run early.
        request = self.connection.requests.get(id)
        if request is None or request.outbound is Outbound.ENDED:
            self.receive(records.begin(id, role, keep_conn=keep_conn))
            assert not self.dead

    @precondition(lambda self: not self.dead)
    @rule(id=IDS, content=CONTENT)
    def params(self, id: int, content: bytes) -> None:
        self.receive(records.record(records.PARAMS, id, content))

    @precondition(lambda self: not self.dead)
    @rule(id=IDS)
    def next_stream_record(self, id: int) -> None:
        """Go on as a web server would, so that runs come far."""
        request = self.connection.requests.get(id)
        if request is not None and request.inbound < Inbound.ENDED:
            kind = (records.PARAMS, records.STDIN, records.DATA)[request.inbound]
            self.receive(records.record(kind, id))
            assert not self.dead

    @precondition(lambda self: not self.dead)
    @rule(
        id=IDS,
        kind=st.sampled_from([records.STDIN, records.STDIN, records.DATA, records.ABORT_REQUEST]),
        content=CONTENT,
    )
    def stream(self, id: int, kind: int, content: bytes) -> None:
        self.receive(records.record(kind, id, content, padding=content))

    @precondition(lambda self: not self.dead)
    @rule(kind=st.sampled_from([0, 9, 12, 255]), content=st.sampled_from([b"", b"\x01\x00F"]))
    def management(self, kind: int, content: bytes) -> None:
        sent(self.connection)
        self.receive(records.record(kind, 0, content))
        assert not self.dead
        assert len(records.read_records(sent(self.connection))) == 1

    @precondition(lambda self: not self.dead)
    @rule(id=st.integers(0, 5), kind=st.integers(0, 13), content=CONTENT | st.just(bytes(8)))
    def anything(self, id: int, kind: int, content: bytes) -> None:
        self.receive(records.record(kind, id, content))

    # The server. It keeps handles of requests that have ended long ago.

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), how=st.sampled_from(["respond", "end", "unknown", "output", "discard"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        request = data.draw(st.sampled_from(self.handles))
        connection = self.connection
        was_open = request.outbound is Outbound.OPEN
        earlier = connection.unsent_size
        if how == "respond":
            connection.respond(request, b"body")
        elif how == "end":
            connection.send_stderr(request, b"oh")
            connection.end_request(request)
        elif how == "unknown":
            connection.end_request(request, protocol_status=2)
        elif how == "output":
            connection.send_stdout(request, b"some")
        elif was_open:
            connection.discard(request)
        if was_open:
            assert (request.outbound is Outbound.OPEN) is (how in ("output", "discard"))
        else:
            assert connection.unsent_size == earlier

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def break_off(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.handles))
        try:
            self.connection.break_off(request)
        except LocalProtocolError:
            assert self.connection.multiplexes
        else:
            assert request.outbound is Outbound.ENDED

    @rule()
    def give_up_discarding(self) -> None:
        self.connection.give_up_discarding()
        requests = self.connection.requests.values()
        assert all(request.outbound is Outbound.OPEN for request in requests)

    @rule()
    def lose(self) -> None:
        open_requests = [
            request
            for request in self.connection.requests.values()
            if request.outbound is Outbound.OPEN
        ]
        events = self.connection.receive_eof()
        assert [event.request for event in events] == open_requests
        self.note(events)
        assert self.connection.finished
        self.dead = True

    # What always holds.

    @invariant()
    def the_books_balance(self) -> None:
        if not hasattr(self, "connection"):
            return
        connection = self.connection
        requests = connection.requests
        held = connection.params_held
        assert held >= sum(len(each.block) for each in requests.values())
        unfinished = [each for each in requests.values() if each.inbound < Inbound.ENDED]
        assert held >= REQUEST_COST * len(unfinished)
        assert bool(held) == any(each.counted for each in requests.values())
        assert sum(len(each.block) for each in requests.values()) <= MAX_PARAMS * (MAX_REQUESTS + 1)
        for id, request in requests.items():
            assert request.id == id
            assert not request.block or request.inbound is Inbound.PARAMS
            if request.outbound is Outbound.ENDED:
                assert connection.closing
                assert request.inbound is Inbound.DISCARDING
        assert connection.finished is (connection.closing and not requests)

    @invariant()
    def requests_are_bounded(self) -> None:
        if hasattr(self, "connection"):
            # Above the limit there are only those that were rejected and not answered yet.
            accepted = [
                request
                for request in self.connection.requests.values()
                if not any(isinstance(e, RequestRejected) for e in self.events.get(request, ()))
            ]
            # One more may be there that was refused for its role: it is answered at once, and
            # where it stays until its input has ended (no KEEP_CONN), nothing begins after it.
            assert len(accepted) <= MAX_REQUESTS + 1
            opened = [request for request in accepted if request.outbound is Outbound.OPEN]
            assert len(opened) <= MAX_REQUESTS

    @invariant()
    def no_request_that_was_let_go_is_open(self) -> None:
        if hasattr(self, "connection"):
            active = set(self.connection.requests.values())
            for request in self.handles:
                assert request in active or request.outbound is Outbound.ENDED

    def teardown(self) -> None:
        for request in self.handles:
            assert len(request.block) <= MAX_PARAMS


TestConnectionMachine = ConnectionMachine.TestCase
TestConnectionMachine.settings = settings(max_examples=70, stateful_step_count=40, deadline=None)
