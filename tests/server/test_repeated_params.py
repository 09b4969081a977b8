"""Test params that occur more than once and that the server itself uses."""

from __future__ import annotations

from support.fcgi import records
from support.fcgi.peer import request_params
from support.server import echo, running


def test_the_last_content_length_counts_for_the_server_as_for_the_app() -> None:
    """A configuration that names a param after an include means the later one."""
    first = request_params("/x", length=3)
    block = records.pairs(first) + records.pairs({"CONTENT_LENGTH": "5"})
    with running(echo) as server:
        client = server.connect()
        client.send(records.begin(1) + records.params(1, block))
        client.stdin(1, b"12345")
        assert client.answer(1).body == b"12345"
