"""A recording for tests, and the parts that others are made of."""

from __future__ import annotations

from support.fcgi import records
from support.fcgi.records import BEGIN_REQUEST, END_REQUEST, PARAMS, STDIN, STDOUT
from vsgi_fcgi.recording import BLOCKED, IN, NOTE, OUT, UNBLOCKED
from vsgi_fcgi.recording.file import About
from vsgi_fcgi.recording.records import Record

ABOUT = About(
    vsgi_fcgi_recording=1,
    server="vsgi_fcgi 0",
    peer="connection 1 on fcgi+unix:///app.sock",
    began="2026-01-01T00:00:00+00:00",
    reasons=["request 2: the web server has aborted it"],
    dropped=3,
    max_requests=10,
    max_params_bytes=1000,
    max_params_count=20,
    roles=[1],
)


def record(time: float, direction: str, kind: int, id: int, content: bytes = b"") -> Record:
    size = len(content)
    return Record(time, direction, kind, id, size, size, content)


def begin(time: float, id: int) -> Record:
    return record(time, IN, BEGIN_REQUEST, id, b"\0\1\1\0\0\0\0\0")


def params(time: float, id: int, uri: str) -> Record:
    block = records.pairs({"REQUEST_METHOD": "GET", "REQUEST_URI": uri})
    return record(time, IN, PARAMS, id, block)


def end(time: float, id: int) -> Record:
    return record(time, OUT, END_REQUEST, id, bytes(8))


# Request 1 waits for data, then for its app, then for the web server. Request 2 is aborted.
RECORDS = [
    begin(0.0, 1),
    params(0.0, 1, "/one"),
    record(0.0, IN, PARAMS, 1),
    Record(2.0, IN, STDIN, 1, 100, 100),
    record(3.0, IN, STDIN, 1),
    record(7.0, OUT, STDOUT, 1, b"Status: 200 OK\r\n\r\n"),
    Record(7.5, NOTE, text=f"{BLOCKED}: 9 bytes wait to be sent"),
    Record(17.5, NOTE, text=UNBLOCKED),
    record(17.5, OUT, STDOUT, 1),
    end(17.5, 1),
    begin(18.0, 2),
    params(18.0, 2, "/<script>alert(1)</script>"),
    record(18.0, IN, PARAMS, 2),
    record(18.0, IN, STDIN, 2),
    record(19.0, IN, 2, 2),
    Record(19.0, NOTE, text=ABOUT.reasons[0]),
    end(19.0, 2),
]
