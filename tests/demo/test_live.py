"""Test the demonstration behind real web servers."""

from __future__ import annotations

import hashlib
import os
import re

import pytest
from support.front_ends.places import Place
from support.http import connect
from support.processes import wait_until

pytestmark = pytest.mark.live


def test_the_page_names_its_web_server_and_its_links_work(place: Place) -> None:
    answer = place.request("/", Cookie="session=hunter2", Authorization="Basic aHVudGVyMg==")
    assert answer.status == 200
    name = "nginx" if place.prefix else "lighttpd"
    assert re.search(rf"<b>{name}/[0-9.]+</b>", answer.text)
    assert "hunter2" not in answer.text
    assert "aHVudGVyMg" not in answer.text
    for kind, pattern in (("css", 'stylesheet" href='), ("javascript", "script src=")):
        found = re.search(f'{pattern}"{place.prefix}(/[^"]+)"', answer.text)
        assert found is not None
        assert f"text/{kind}" in place.request(found[1]).headers["Content-Type"]


def test_an_upload_of_five_megabytes(place: Place) -> None:
    body = os.urandom(5_000_000)
    found = place.request("/upload", method="POST", body=body).json()
    assert (found["bytes"], found["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    # Without a length beforehand.
    pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    again = place.request("/upload", method="POST", body=pieces).json()
    assert (again["bytes"], again["sha256"]) == (found["bytes"], found["sha256"])


def test_events_come_tick_by_tick(place: Place) -> None:
    """Not together at the end, as they would if something gathered the answer.

    The first comes with the headers in any case. Two at once are the fault of a busy machine.
    """
    received, seen_at_once = b"", []
    with connect(place.web.port) as sock:
        head = f"GET {place.prefix}/events?ticks=4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        sock.sendall(head.encode())
        while data := sock.recv(65536):
            before = received.count(b"event: tick\n")
            received += data
            seen_at_once.append(received.count(b"event: tick\n") - before)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.count(b"event: end\n") == 1
    assert sum(seen_at_once) == 4
    assert max(seen_at_once) < 3, seen_at_once


def test_an_error_is_a_500_and_its_traceback_is_in_the_log(place: Place) -> None:
    before = place.web.server_log().count("DemonstrationError")
    answer = place.request("/error")
    assert answer.status == 500
    assert "DemonstrationError" not in answer.text
    wait_until(lambda: place.web.server_log().count("DemonstrationError") > before, "the traceback")
    assert place.request("/").status == 200


@pytest.mark.parametrize("path", ["/none", "/upload"])
def test_what_is_not_to_be_had(place: Place, path: str) -> None:
    answer = place.request(path)
    assert answer.status == (405 if path == "/upload" else 404)
    assert answer.headers["Allow"] == ("POST" if path == "/upload" else None)
    assert f'href="{place.prefix}/"' in answer.text
