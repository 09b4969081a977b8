"""Test ``--push-bind`` with the requests of GRIP's clients and of others."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from gripcontrol import GripPubControl, parse_grip_uri, validate_sig
from support.fcgi.peer import Client
from support.processes import ProcessGroup
from support.published import PublishedSite

pytestmark = pytest.mark.process

ITEM = {"channel": "news", "id": "1", "formats": {"http-stream": {"content": "data: hi\n\n"}}}


# PyJWT warns of a key of less than 32 bytes.
KEY = "a+b/c&d=" * 4


@pytest.fixture
def group(tmp_path: Path) -> Iterator[ProcessGroup]:
    with ProcessGroup(tmp_path) as group:
        yield group


def grip_url(site: PublishedSite) -> str:
    """GRIP_URL, as the app sees it."""
    return grip(site)[0]


def grip(site: PublishedSite) -> tuple[str, str]:
    """GRIP_URL and Grip-Sig, as the app sees them."""
    with Client(site.address) as client:
        _, url, signature = client.get("/").body.decode().split(" ")
    return url, signature


def test_requests_are_answered_like_those_to_pushpin(tmp_path: Path, group: ProcessGroup) -> None:
    site = PublishedSite(
        group, tmp_path / "site", "--max-item-bytes", "2000", "--max-items-queued", "10"
    )
    assert site.post(json.dumps({"items": [ITEM, ITEM]})) == (200, "Published\n")
    assert site.post(json.dumps({"items": [ITEM]}), "/publish") == (200, "Published\n")
    (items,) = site.delivered().values()
    assert items == [["news", "1", "data: hi\n\n"]] * 3
    status, sentence = site.post("{bad")
    assert status == 400
    assert "JSON" in sentence
    assert site.request("GET", "/publish/") == (405, "Method not allowed: GET.\n")
    assert site.post("", "/other")[0] == 404
    status, sentence = site.post(b" " * 8001)
    assert status == 413
    assert "the body is larger than 8000 bytes" in sentence
    large = {"channel": "news", "formats": {"http-stream": {"content": "x" * 2001}}}
    status, sentence = site.post(json.dumps({"items": [ITEM, large]}))
    assert status == 413
    assert "an item is larger than 2000 bytes" in sentence
    status, sentence = site.post(json.dumps({"items": [ITEM] * 11}))
    assert (status, sentence) == (413, "more than 10 items at a time\n")
    (site.folder / "full").touch()
    status, sentence = site.post(json.dumps({"items": [ITEM]}))
    assert status == 503
    assert "max_items_queued" in sentence
    assert len(next(iter(site.delivered().values()))) == 3


def test_web_pages_cannot_publish(tmp_path: Path, group: ProcessGroup) -> None:
    site = PublishedSite(group, tmp_path / "site")
    body = json.dumps({"items": [ITEM]})
    assert site.post(body, Host="evil.example")[0] == 403
    assert site.post(body, Origin="https://evil.example")[0] == 403
    assert site.post(body, Origin="null")[0] == 403
    assert site.post(body, Host="localhost:5561")[0] == 200
    assert len(next(iter(site.delivered().values()))) == 1


# It uses a function that Python 3.12 deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:gripcontrol")
def test_gripcontrol_publishes_to_grip_url(tmp_path: Path, group: ProcessGroup) -> None:
    site = PublishedSite(group, tmp_path / "site", "--push-key", KEY)
    url, signature = grip(site)
    assert url == f"http://127.0.0.1:{site.port}?key={'a%2Bb%2Fc%26d%3D' * 4}"
    config = parse_grip_uri(url)
    assert config["key"] == KEY
    assert validate_sig(signature, config["key"])
    assert not validate_sig(signature, "other")
    control = GripPubControl(config)
    control.publish_http_stream("news", "data: one\n\n", id="1", blocking=True)
    control.publish_http_response("news", "two", id="2", blocking=True)
    control.publish_http_stream("news", "data: three\n\n", id="3")
    control.finish()
    (ids,) = site.ids().values()
    assert ids == ["1", "2", "3"]


def test_the_app_gets_a_key_and_keeps_its_own_url(tmp_path: Path, group: ProcessGroup) -> None:
    one, two = (grip_url(PublishedSite(group, tmp_path / name)) for name in ("one", "two"))
    assert len(parse_grip_uri(one)["key"]) == 32
    assert parse_grip_uri(one)["key"] != parse_grip_uri(two)["key"]
    own = "http://pushpin.example:5561"
    site = PublishedSite(group, tmp_path / "own", env={"GRIP_URL": own})
    assert grip_url(site) == own


def test_an_app_publishes_in_its_own_process(tmp_path: Path, group: ProcessGroup) -> None:
    site = PublishedSite(group, tmp_path / "site")
    with Client(site.address) as client:
        client.get("/?7", b"data: mine\n\n")
    (items,) = site.delivered().values()
    assert items == [["app", "7", "data: mine\n\n"]]


def test_a_unix_socket_takes_what_is_published(tmp_path: Path, group: ProcessGroup) -> None:
    path = tmp_path / "push.sock"
    site = PublishedSite(group, tmp_path / "site", "--push-bind", f"unix:{path}")
    body = json.dumps({"items": [ITEM]}).encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(
            b"POST /publish/ HTTP/1.1\r\nHost: some.name\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(site.ids()) == 1


def test_the_log_warns_if_other_machines_can_publish(tmp_path: Path, group: ProcessGroup) -> None:
    site = PublishedSite(group, tmp_path / "site", "--push-bind", "0.0.0.0:0")
    site.process.wait_for_log("other machines can publish")
    # Then names of this machine must work, too.
    assert site.post(json.dumps({"items": [ITEM]}), Host="host.example")[0] == 200
