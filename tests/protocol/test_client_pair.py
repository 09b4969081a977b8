"""Connect both ends in memory: everything arrives, however it is interleaved and cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.fcgi import records
from support.fcgi.client_protocols import said
from support.fcgi.server_protocols import ALL_ROLES, server_protocol

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol import (
    ClientEvent,
    ClientProtocol,
    ClientRequest,
    DataEnded,
    DataReceived,
    Event,
    Limits,
    Outbound,
    Request,
    RequestAborted,
    RequestEnded,
    RequestRejected,
    RequestStarted,
    Role,
    Sending,
    StderrReceived,
    StdinEnded,
    StdinReceived,
    StdoutReceived,
)
from vsgi_fcgi.protocol.records import encode_pairs

MOST = 4
CONTENT = st.binary(min_size=1, max_size=40) | st.just(b"x" * 20_000) | st.just(b"y" * 70_000)


@dataclass
class Asked:
    """One request: the data sent at one end, and the data received at the other."""

    role: int
    name: str
    sent: dict[str, bytes] = field(default_factory=lambda: {"stdin": b"", "data": b""})
    came: dict[str, bytes] = field(default_factory=lambda: {"stdin": b"", "data": b""})
    ended: list[str] = field(default_factory=list)
    answered: dict[str, bytes] = field(default_factory=lambda: {"out": b"", "err": b""})
    got: dict[str, bytes] = field(default_factory=lambda: {"out": b"", "err": b""})
    status: int | None = None
    aborted: bool = False
    over: bool = False


def asked_of(request: ClientRequest) -> Asked:
    assert isinstance(request.owner, Asked)
    return request.owner


class Pair(RuleBasedStateMachine):
    """A client's end and a server's end, and two pipes that hold bytes back."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientProtocol(MOST)
        limits = Limits(requests=MOST, params_bytes=10_000)
        self.server = server_protocol(roles=ALL_ROLES, limits=limits)
        self.up = bytearray()
        self.down = bytearray()
        self.count = 0
        self.handles: list[ClientRequest] = []
        self.open: dict[Request, Asked] = {}
        self.names: dict[str, Asked] = {}

    @initialize()
    def ask(self) -> None:
        self.client.get_values(["FCGI_MPXS_CONNS"])

    # The client.

    @precondition(lambda self: len(self.client.requests) < MOST)
    @rule(role=st.sampled_from([1, 1, 2, 3]), padding=st.sampled_from([0, 200]))
    def begin(self, role: int, padding: int) -> None:
        self.count += 1
        asked = Asked(role, str(self.count))
        block = encode_pairs([("NAME", asked.name), ("PADDING", "p" * padding)])
        lowest = min(set(range(1, MOST + 1)) - set(self.client.requests))
        request = self.client.begin_request(block, role)
        assert request.id == lowest
        request.owner = self.names[asked.name] = asked
        self.handles.append(request)

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), content=CONTENT)
    def send(self, data: st.DataObject, content: bytes) -> None:
        request = data.draw(st.sampled_from(self.handles))
        asked = asked_of(request)
        if request.sending is Sending.STDIN:
            self.client.send_stdin(request, content)
            asked.sent["stdin"] += content
        elif request.sending is Sending.DATA:
            self.client.send_data(request, content)
            asked.sent["data"] += content

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def end_stream(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.handles))
        if request.sending is Sending.STDIN:
            self.client.end_stdin(request)
        elif request.sending is Sending.DATA:
            self.client.end_data(request)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.handles))
        asked = asked_of(request)
        if not asked.over:
            asked.aborted = True
        self.client.abort(request)

    # The server.

    @precondition(lambda self: self.open)
    @rule(data=st.data(), content=CONTENT, stderr=st.booleans())
    def answer(self, data: st.DataObject, content: bytes, stderr: bool) -> None:
        request = data.draw(st.sampled_from(list(self.open)))
        asked = self.open[request]
        if stderr:
            self.server.send_stderr(request, content)
            asked.answered["err"] += content
        else:
            self.server.send_stdout(request, content)
            asked.answered["out"] += content

    @precondition(lambda self: self.open)
    @rule(data=st.data(), status=st.integers(0, 2**32 - 1))
    def end(self, data: st.DataObject, status: int) -> None:
        request = data.draw(st.sampled_from(list(self.open)))
        self.open.pop(request).status = status
        self.server.end_request(request, app_status=status)

    # The wires.

    @rule(size=st.integers(1, 200) | st.just(10**6))
    def carry_up(self, size: int) -> None:
        self.up += b"".join(self.client.data_to_send())
        chunk = bytes(self.up[:size])
        del self.up[:size]
        for event in self.server.receive_data(chunk):
            self.heard(event)

    @rule(size=st.integers(1, 200) | st.just(10**6))
    def carry_down(self, size: int) -> None:
        self.down += b"".join(self.server.data_to_send())
        chunk = bytes(self.down[:size])
        del self.down[:size]
        for event in self.client.receive_data(chunk):
            self.told(event)

    def heard(self, event: Event) -> None:
        request = event.request
        assert not isinstance(event, RequestRejected)
        if isinstance(event, RequestStarted):
            asked = self.open[request] = self.names[request.params["NAME"]]
            assert request.role == asked.role
            return
        if isinstance(event, RequestAborted):
            known = self.open.pop(request, None)
            assert known is None or known.aborted
            return
        asked = self.names[request.params["NAME"]]
        if isinstance(event, StdinReceived):
            asked.came["stdin"] += event.data
        elif isinstance(event, DataReceived):
            asked.came["data"] += event.data
        elif isinstance(event, StdinEnded | DataEnded):
            asked.ended.append(type(event).__name__)

    def told(self, event: ClientEvent) -> None:
        if isinstance(event, StdoutReceived | StderrReceived):
            asked = asked_of(event.request)
            assert not asked.aborted
            assert not asked.over
            asked.got["out" if isinstance(event, StdoutReceived) else "err"] += event.data
        elif isinstance(event, RequestEnded):
            asked = asked_of(event.request)
            assert not asked.over
            asked.over = True
            if not asked.aborted:
                assert event.app_status == asked.status
                assert asked.got == asked.answered
                assert event.protocol_status == 0

    # What always holds.

    @invariant()
    def nothing_is_of_another_request(self) -> None:
        for asked in self.names.values():
            for stream in ("stdin", "data"):
                assert asked.sent[stream].startswith(asked.came[stream])
            for stream in ("out", "err"):
                assert asked.answered[stream].startswith(asked.got[stream])

    def teardown(self) -> None:
        """Whatever has happened, all of it comes to an end."""
        for request in self.handles:
            for _ in range(2):
                self.end_of(request)
        for _ in range(3):
            self.carry_up(10**9)
            for each in list(self.open):
                if each.outbound is Outbound.OPEN:
                    self.open.pop(each).status = 0
                    self.server.end_request(each)
            self.carry_down(10**9)
        assert not self.client.requests
        assert not self.server.requests
        for asked in self.names.values():
            assert asked.over
            if not asked.aborted and asked.status is not None and "StdinEnded" in asked.ended:
                assert asked.came["stdin"] == asked.sent["stdin"]
        self.nothing_is_of_another_request()

    def end_of(self, request: ClientRequest) -> None:
        if request.sending is Sending.STDIN:
            self.client.end_stdin(request)
        elif request.sending is Sending.DATA:
            self.client.end_data(request)


PairTest = Pair.TestCase
PairTest.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)


# Arbitrary bytes.


def asked(count: int) -> ClientProtocol:
    connection = ClientProtocol()
    for role in (Role.RESPONDER, Role.AUTHORIZER, Role.FILTER)[:count]:
        connection.begin_request(b"", role)
    return connection


def outcome(data: list[bytes]) -> tuple[object, bool, bytes]:
    connection = asked(3)
    connection.abort(connection.requests[2])
    connection.data_to_send()
    events: list[ClientEvent] = []
    failed = False
    try:
        for chunk in data:
            connection.receive_data(chunk, events)
    except RemoteProtocolError:
        failed = True
    return said(events), failed, b"".join(connection.data_to_send())


def chunks(data: st.DataObject, received: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(received)), max_size=25)))
    return [received[start:end] for start, end in pairwise([0, *cuts, len(received)])]


JUNK = st.binary(max_size=200) | st.binary(max_size=200).map(b"\x01".__add__)


@settings(max_examples=120, deadline=None)
@given(JUNK, st.data())
def test_random_bytes_are_records_or_an_error(junk: bytes, data: st.DataObject) -> None:
    """And an error or none, it makes no difference how they were cut."""
    whole, cut = outcome([junk]), outcome(chunks(data, junk))
    assert cut[1:] == whole[1:]
    assert whole[1] or cut == whole


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Records as an application sends them, some of them wrong."""
    parts = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from([3, 6, 6, 6, 7, 7, 10, 11]))
        id = draw(st.sampled_from([0] if kind > 9 else [1, 2, 3, 1, 2, 3, 4]))
        content = bytes(8) if kind in (3, 11) else draw(st.binary(max_size=30))
        if kind == 10:
            content = records.pairs({"FCGI_MAX_REQS": "1"})
        parts.append(records.record(kind, id, content, padding=draw(st.binary(max_size=9))))
    return b"".join(parts)


@settings(max_examples=120, deadline=None)
@given(answers(), st.data())
def test_records_that_are_right_or_wrong(received: bytes, data: st.DataObject) -> None:
    whole, cut = outcome([received]), outcome(chunks(data, received))
    assert cut == whole
