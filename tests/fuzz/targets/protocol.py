"""Fuzz both ends of FastCGI connections, params and header blocks."""

from __future__ import annotations

from support.fcgi import records
from support.fcgi.client_protocols import said as client_said
from support.fcgi.server_protocols import ALL_ROLES, receive, said, sent, server_protocol

from fuzz.driver import Target
from fuzz.pieces import pieces
from vsgi_fcgi.exceptions import ParamsError, RemoteProtocolError, ResponseError
from vsgi_fcgi.protocol import (
    ClientEvent,
    ClientProtocol,
    Event,
    Limits,
    Outbound,
    RequestStarted,
    ServerProtocol,
    StdinEnded,
)
from vsgi_fcgi.protocol.events import REQUEST_COST
from vsgi_fcgi.protocol.records import decode_pairs, encode_pairs
from vsgi_fcgi.wsgi.environ import (
    base_environ,
    check_seconds,
    content_length,
    environ_to_params,
    make_environ,
    request_line,
)
from vsgi_fcgi.wsgi.response_head import InterimFilter, ResponseHeadReader, parse_response_head

LIMITS = Limits(requests=4, params_bytes=300, params_count=6)
_PAIR_COST = 128


def _check_books(protocol: ServerProtocol) -> None:
    """Check that a connection keeps no more than its limits and what it has rejected."""
    blocks = [len(request.block) for request in protocol.requests.values()]
    assert all(size <= LIMITS.params_bytes for size in blocks)
    counted = sum(request.counted for request in protocol.requests.values())
    most = REQUEST_COST + LIMITS.params_bytes + _PAIR_COST * LIMITS.params_count
    assert protocol.params_held <= most * counted


def _server_outcome(data: list[bytes]) -> tuple[object, bytes, bool]:
    protocol = server_protocol(roles=ALL_ROLES, limits=LIMITS)
    events: list[Event] = []
    failed = False
    try:
        for piece in data:
            events += receive(protocol, piece)
            _check_books(protocol)
    except RemoteProtocolError:
        failed = True
    else:
        answered = [each for each in protocol.requests.values() if each.outbound is Outbound.OPEN]
        for request in answered:
            protocol.respond(request, b"Status: 200 OK\r\n\r\n" + bytes(request.id % 99))
        protocol.give_up_discarding()
        assert not protocol.requests
    out = sent(protocol)
    records.read_records(out)
    protocol.receive_eof()
    assert not protocol.params_held
    return said(events), out, failed


def server(data: bytes) -> object:
    """Receive from a web server.

    - Only RemoteProtocolError leaves `receive_data`.
    - Params and requests stay within the limits, and the end of the connection frees all.
    - What is sent are whole records.
    - The input in pieces gives the same events and the same output.
    - Requests that are answered as soon as they are complete are forgotten.
    """
    whole, cut = _server_outcome([data]), _server_outcome(pieces(data))
    assert cut[1:] == whole[1:], (cut, whole)
    # Events of a read that ends in an error are not reported.
    assert whole[2] or cut == whole, (cut, whole)
    protocol = server_protocol(roles=ALL_ROLES, limits=LIMITS)
    names = []
    try:
        for piece in pieces(data):
            for event in receive(protocol, piece):
                names.append(type(event).__name__)
                request = event.request
                ready = isinstance(event, StdinEnded if request.id & 1 else RequestStarted)
                if ready and request.outbound is Outbound.OPEN:
                    protocol.send_stdout(request, b"x")
                    protocol.end_request(request)
            _check_books(protocol)
            # Above the limit are only requests that were rejected, and not answered here.
            assert len(protocol.requests) <= 256 * LIMITS.requests
    except RemoteProtocolError as error:
        names.append(str(error)[:9])
    protocol.refuse_incomplete()
    _check_books(protocol)
    assert not protocol.unread()
    records.read_records(sent(protocol))
    return (*names[:30], whole[2])


def _client_outcome(data: list[bytes]) -> tuple[object, bool, bytes]:
    protocol = ClientProtocol(3)
    for role in (1, 2, 3):
        protocol.begin_request(b"", role)
    protocol.abort(protocol.requests[2])
    protocol.data_to_send()
    events: list[ClientEvent] = []
    failed = False
    try:
        for piece in data:
            protocol.receive_data(piece, events)
    except RemoteProtocolError:
        failed = True
    names = {type(event).__name__ for event in events}
    ended = sum(type(event).__name__ == "RequestEnded" for event in events)
    assert len(protocol.receive_eof()) == 3 - ended, names
    return client_said(events), failed, b"".join(protocol.data_to_send())


def client(data: bytes) -> object:
    """Receive from an application server, with three requests in flight, one of them aborted.

    - Only RemoteProtocolError leaves `receive_data`.
    - Each request ends once.
    - The input in pieces gives the same events, also those before an error.
    """
    whole, cut = _client_outcome([data]), _client_outcome(pieces(data))
    assert cut == whole, (cut, whole)
    events = whole[0]
    assert isinstance(events, list)
    return (*(event[:2] for event in events[:30]), whole[1])


def params(data: bytes) -> object:
    """Decode a block of params, and make an environ of it.

    - Only ParamsError leaves `decode_pairs`, and only ValueError the checks of single params.
    - An accepted block is encoded and decoded again with the same result.
    - An environ is made of any params, and has what PEP 3333 requires.
    - Its params can be encoded, and an environ that is made of them has the same params.
    """
    try:
        first, repeated = decode_pairs(data, _MAX_PARAMS)
    except ParamsError as error:
        return error.status, str(error)[:12]
    assert decode_pairs(encode_pairs([*first.items(), *repeated]), _MAX_PARAMS) == (first, repeated)
    refused = []
    for check in (content_length, lambda values: check_seconds(values, "FCGI_DATA_LAST_MOD")):
        try:
            check(dict(first))
        except ValueError as error:
            refused.append(str(error)[:5])
    request_line(first).encode("ascii")
    base = base_environ(multithread=True)
    mounted = make_environ(dict(first), repeated, base, None, 0, None, "/a")
    environ = make_environ(dict(first), repeated, base, None, 0, None)
    for name in ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "SERVER_NAME", "SERVER_PORT"):
        assert type(environ[name]) is type(mounted[name]) is str, name
    again = environ_to_params(environ)
    decoded, more = decode_pairs(encode_pairs(again), 1000)
    assert (list(decoded.items()), more) == (again, ())
    final = environ_to_params(make_environ(decoded, (), base, None, 0, None))
    assert dict(final) == dict(again), (final, again)
    return len(first), len(repeated), *refused, *sorted(set(first) & _KNOWN)


_KNOWN = {"CONTENT_LENGTH", "PATH_INFO", "SCRIPT_NAME", "HTTP_HOST", "HTTPS", "SERVER_SOFTWARE"}
_MAX_PARAMS = 12
_HEAD_LIMIT = 300


def _head_outcome(data: list[bytes]) -> object:
    reader = ResponseHeadReader(_HEAD_LIMIT)
    rest: list[bytes] = []
    head = None
    try:
        for piece in data:
            if head is None:
                found = reader.feed(piece)
                if found is not None:
                    head = found[0]
                    rest.append(found[1])
            else:
                rest.append(piece)
    except ResponseError:
        return "refused"
    if head is None:
        return None
    return head.status, head.reason, head.headers, head.length, b"".join(rest)


def _interim_outcome(data: list[bytes]) -> bytes | str:
    filter = InterimFilter(_HEAD_LIMIT)
    out, final = [], False
    try:
        for piece in data:
            found = piece if final else filter.feed(piece)
            if found is not None:
                final = True
                out.append(found)
        if not final:
            out.append(filter.end())
    except ResponseError:
        return "refused"
    return b"".join(out)


def header_block(data: bytes) -> object:
    """Read the header block of a response from another application.

    - Only ResponseError leaves the readers.
    - A block within the limit is read, and no block beyond it.
    - The input in pieces gives the same head and body, or is refused as well.
    - An accepted head has no line ends in it, and can be encoded and parsed again.
    """
    whole = _head_outcome([data])
    cut = _head_outcome(pieces(data))
    assert cut == whole, (cut, whole)
    interim = _interim_outcome([data])
    assert _interim_outcome(pieces(data)) == interim
    if isinstance(interim, bytes):
        assert data.endswith(interim)
    if not isinstance(whole, tuple):
        return whole
    status, reason, headers, length, _ = whole
    block = f"Status: {status} {reason}" + "".join(f"\r\n{n}: {v}" for n, v in headers)
    assert not {"\r", "\n", "\0"} & set(reason + "".join(n + v for n, v in headers))
    again = parse_response_head(block.encode("latin-1"))
    assert (again.status, again.headers, again.length) == (status, headers, length)
    assert again.reason == reason.strip(" \t") or again.reason
    return status, length is None, len(headers), type(interim)


_PAIRS = records.pairs({"REQUEST_METHOD": "POST", "PATH_INFO": "/a", "CONTENT_LENGTH": "3"})
_ENDS = records.record(records.STDOUT, 1) + records.record(records.END_REQUEST, 1, bytes(8))
_RECORDS = tuple(
    records.record(kind, id, content, padding=padding)
    for kind, content in (
        *((kind, content) for kind in (4, 5, 6, 7, 8) for content in (b"", b"abc")),
        *((1, bytes((0, role, flags, 0, 0, 0, 0, 0))) for role in (1, 2, 3) for flags in (0, 1)),
        (2, b""),
        (3, bytes(8)),
        (4, records.pairs({"A": "b"})),
        (4, b"\x7f\xff" * 90),
        (9, records.pairs({"FCGI_MAX_CONNS": ""})),
        (10, records.pairs({"FCGI_MAX_CONNS": "1"})),
        (11, bytes(8)),
        (99, b"xyz"),
    )
    for id in ((0,) if kind > 8 else (1, 2, 3))
    for padding in ((b"", b"pad") if id < 2 else (b"",))
)

TARGETS = (
    Target(
        "server",
        server,
        (
            records.request(1, {"A": "b"}, b"body") * 2,
            records.request(1, {"A": "b" * 200}, b"body", keep_conn=False, size=40),
            records.get_values("FCGI_MPXS_CONNS", "X"),
            records.begin(1)
            + records.begin(2, 2)
            + records.begin(3, 3)
            + records.params(3, _PAIRS, end=False)
            + records.params(1, _PAIRS)
            + records.params(2, _PAIRS)
            + records.stdin(1, b"abc")
            + records.params(3)
            + records.stdin(3, b"abc", size=1)
            + records.data(3, b"defg", size=3),
            records.begin(1)
            + records.params(1)
            + records.stdin(1, b"x", end=False)
            + records.abort(1)
            + b"".join(records.begin(id) for id in range(1, 7)),
            records.begin(1, 9) + records.begin(2) + records.params(2, b"\x05"),
            records.begin(1) + records.params(1, b"\x7f" * 400),
            records.begin(1) + records.params(1, records.pairs([("A", "b")] * 7)),
        ),
        _RECORDS,
    ),
    Target(
        "client",
        client,
        (
            records.record(records.STDOUT, 1, b"Status: 200 OK\r\n\r\nhello") + _ENDS,
            records.stream(records.STDERR, 3, b"oh")
            + _ENDS
            + records.stream(records.STDOUT, 3, b"x" * 60, size=9)
            + records.record(records.STDOUT, 2, b"gone")
            + records.record(3, 2, bytes(8)),
            records.record(10, 0, records.pairs({"FCGI_MPXS_CONNS": "1"}))
            + records.record(11, 0, b"\x63" + bytes(7))
            + records.record(3, 3, bytes(8)),
        ),
        _RECORDS,
    ),
    Target(
        "params",
        params,
        (
            _PAIRS,
            records.pairs({"SCRIPT_NAME": "/a//b", "PATH_INFO": "c", "HTTPS": "on"}),
            records.pairs({"A" * 130: "b" * 140, "HTTP_PROXY": "x", "HTTP_CONNECTION": "a"}),
            records.pairs(
                [
                    ("HTTP_COOKIE", "a"),
                    ("SERVER_SOFTWARE", "lighttpd/1.4.69"),
                    ("HTTP_COOKIE", "b"),
                    ("A", "1"),
                    ("A", "2"),
                ]
            ),
        ),
        tuple(
            records.pairs([(name, value)])
            for name in (
                "SCRIPT_NAME",
                "PATH_INFO",
                "REQUEST_URI",
                "QUERY_STRING",
                "SERVER_NAME",
                "SERVER_PORT",
                "CONTENT_LENGTH",
                "HTTP_HOST",
                "HTTPS",
                "DOCUMENT_URI",
                "REQUEST_SCHEME",
                "FCGI_DATA_LAST_MOD",
                "SERVER_PROTOCOL",
                "HTTP_CONTENT_LENGTH",
                "SCRIPT_FILENAME",
                "HTTP_CONNECTION",
            )
            for value in ("", "/a", "0", "on", "%2f", "/a/b?c")
        )
        + tuple(
            records.pairs([("SERVER_SOFTWARE", name)])
            for name in (
                "nginx/1.22.1",
                "lighttpd/1.4.69",
                "Apache/2.4.62 (Debian)",
                "h2o/2.2.5",
                "Caddy/2.6.2",
                "HAProxy 2.6.12",
            )
        ),
    ),
    Target(
        "header-block",
        header_block,
        (
            b"Status: 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
            b"Content-Type: a/b\n\nbody",
            b"Location: /x\r\n\r\n",
            b"Status: 103 Early Hints\r\nLink: </a>\r\n\r\nstatus:404\r\n\r\n",
            b"Status: 100\n\nStatus: 101 S\r\n\r\n",
            b"Status: 204\r\nContent-Length: 0\r\nConnection: x\r\n\r\n",
            b"X: " + b"y" * 290 + b"\r\n\r\nz",
        ),
        (
            b"Status: 103\r\n\r\n",
            b"Status: 200\r\n",
            b"Content-Length: ",
            b"\r\n\r\n",
            b"\n\n",
            b"\n\r\n",
            b"\r",
            b": ",
            b"A: b\r\n",
            b"Location: ",
            b"Transfer-Encoding: x\r\n",
            b"Status: 1",
            b"x" * 60,
        ),
        {
            "a block of just the limit, cut inside its end": b"X: "
            + b"y" * 297
            + b"\r\n\r\n"
            + b"z" * 10
        },
    ),
)
