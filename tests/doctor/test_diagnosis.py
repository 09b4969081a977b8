"""What the doctor finds, and what it does not: no false alarms."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import pytest
from support.seen import APACHE, CADDY, HAPROXY, LIGHTTPD, NGINX, case_of

from vsgi_fcgi.doctor.case import Case
from vsgi_fcgi.doctor.diagnosis import diagnose
from vsgi_fcgi.doctor.finding import Level
from vsgi_fcgi.doctor.trials import offers, outcome
from vsgi_fcgi.wsgi.seen import Habits

FIXED = {**NGINX, "SCRIPT_NAME": "", "PATH_INFO": "/a/b"}


def certain(case: Case) -> list[str]:
    """What is to be changed."""
    return [finding.code for finding in diagnose(case) if finding.counts]


def unsure(case: Case) -> list[str]:
    """What is not known."""
    return [finding.code for finding in diagnose(case) if finding.level is Level.MAYBE]


@pytest.mark.parametrize("params", [LIGHTTPD, FIXED, HAPROXY, APACHE, CADDY])
def test_nothing_is_wrong_with_what_is_right(params: Mapping[str, str]) -> None:
    assert certain(case_of(params)) == []


@pytest.mark.parametrize(
    ("base", "asked", "script", "path"),
    [
        # What only looks as if something had been taken off or put before the path.
        (CADDY, "/x/../a", "", "/a"),
        (CADDY, "//x/a", "", "/a"),
        (CADDY, "/x/./a", "", "/a"),
        (CADDY, "/shop/", "", "/"),
        (CADDY, "/old/x", "", "/new/x"),
        (CADDY, "http://localhost/a", "", "/a"),
        (CADDY, "*", "", "*"),
        (LIGHTTPD, "/shop/a", "/shop", "/a"),
        (LIGHTTPD, "/shop", "/shop", ""),
        (CADDY, "/%61", "", "/a"),
        (CADDY, "", "/shop", ""),
    ],
)
def test_paths_that_are_no_findings(
    base: Mapping[str, str], asked: str, script: str, path: str
) -> None:
    params = {**base, "REQUEST_URI": asked, "SCRIPT_NAME": script, "PATH_INFO": path}
    assert certain(case_of(params)) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"REQUEST_URI": "/shop/a/b"}, "path-stripped"),
        ({"SCRIPT_NAME": "/app.fcgi"}, "path-hidden"),
        ({"SCRIPT_NAME": "/shop", "PATH_INFO": "ping", "REQUEST_URI": "/shopping"}, "path-segment"),
        ({"SCRIPT_NAME": "/doctor-trial", "REQUEST_URI": "/doctor-trial/a/b"}, "path-split"),
        ({"REQUEST_URI": "/a/b?c=d"}, "query-missing"),
        ({"HTTP_CONTENT_TYPE": "a/b"}, "type-missing"),
        ({"HTTP_CONTENT_LENGTH": "5", "CONTENT_LENGTH": ""}, "length-missing"),
        ({"REQUEST_METHOD": ""}, "method-missing"),
    ],
)
def test_what_is_wrong(change: dict[str, str], code: str) -> None:
    assert certain(case_of({**LIGHTTPD, **change})) == [code]


def test_a_query_that_a_rewrite_has_dropped_is_no_finding() -> None:
    assert certain(case_of({**LIGHTTPD, "REQUEST_URI": "/old?c=d"})) == []


def test_what_one_request_does_not_tell() -> None:
    shop = {"SCRIPT_NAME": "/shop", "PATH_INFO": "/a", "REQUEST_URI": "/shop/a"}
    assert unsure(case_of({**LIGHTTPD, **shop})) == ["path-unclear"]
    assert unsure(case_of({**LIGHTTPD, **shop}, mount="/shop")) == []
    assert unsure(case_of({**HAPROXY, **shop})) == []
    whole = {name: value for name, value in HAPROXY.items() if name != "PATH_INFO"}
    assert unsure(case_of({**whole, "SCRIPT_NAME": "/a/b"})) == ["path-unclear"]


@pytest.mark.parametrize(
    ("script", "url"),
    [
        ("", "/doctor-trial/path"),
        ("/a", "/doctor-trial/path"),
        ("/shop/a", "/shop/doctor-trial/path"),
    ],
)
def test_where_the_path_is_tried(script: str, url: str) -> None:
    """In place of the last segment of SCRIPT_NAME: if that is right, the app is not asked."""
    params = {**LIGHTTPD, "SCRIPT_NAME": script, "PATH_INFO": "/x", "REQUEST_URI": f"{script}/x"}
    commands = {offer.name: offer.command for offer in offers(case_of(params))}
    assert commands["path"] == f"curl http://localhost{url}"
    assert "path" not in {offer.name for offer in offers(case_of(params, mount=script))}


def test_commands_are_quoted_for_a_shell() -> None:
    host = {"HTTP_HOST": "x$(reboot)'", "PATH_INFO": "/a;`b`"}
    for offer in offers(case_of({**LIGHTTPD, **host})):
        words = shlex.split(offer.command)
        assert words[-1].startswith("http://x$(reboot)'/")
        assert "`" not in offer.command


def test_haproxy_says_by_itself_that_authorization_is_missing() -> None:
    params = {**HAPROXY, "AUTH_TYPE": "Basic"}
    assert certain(case_of(params)) == ["authorization-missing"]
    assert certain(case_of({**params, "HTTP_AUTHORIZATION": "Basic YTpi"})) == []
    # nginx has checked the password itself.
    assert certain(case_of({**FIXED, "AUTH_TYPE": "Basic", "REMOTE_USER": "a"})) == []


def test_a_trial_of_authorization() -> None:
    params = {**LIGHTTPD, "QUERY_STRING": "doctor=authorization"}
    failed = outcome(case_of(params))
    assert failed is not None
    assert failed.finding is not None
    assert "setenv" not in failed.finding.matters
    assert "lighttpd passes it by itself" in failed.finding.matters
    passed = outcome(case_of({**params, "HTTP_AUTHORIZATION": "Basic YTpi"}))
    assert passed is not None
    assert passed.finding is None


def test_a_trial_is_known_without_a_query_string() -> None:
    assert case_of({**LIGHTTPD, "REQUEST_URI": "/a/b?x&doctor=upload"}).trial == "upload"
    assert case_of({**LIGHTTPD, "QUERY_STRING": "xdoctor=upload"}).trial == ""


def test_connections_that_are_dropped() -> None:
    habits = Habits()
    common: Any = {"keep_conn": True, "habits": habits}
    for _ in range(2):
        habits.dropped()
    assert certain(case_of(FIXED, **common)) == []
    habits.dropped()
    assert certain(case_of(FIXED, **common)) == ["connections-dropped"]
    assert certain(case_of(FIXED, **common, turn=2)) == []
    assert certain(case_of(FIXED, habits=habits)) == []
    habits.used_again()
    assert certain(case_of(FIXED, **common)) == []


@pytest.mark.parametrize(
    ("mount", "printed"),
    [
        ("/shop", "^(?<mount>/shop)(?<rest>"),
        ("/a.b", "^(?<mount>/a\\.b)(?<rest>"),
        ('/a"; }', "--script-name '/a\"; }'"),
        ("/a\nb", "--script-name '/a\nb'"),
    ],
)
def test_a_mount_point_cannot_break_out_of_the_lines(mount: str, printed: str) -> None:
    params = {**NGINX, "SCRIPT_NAME": mount, "DOCUMENT_URI": f"{mount}/a", "REQUEST_URI": "/x"}
    (found,) = [item for item in diagnose(case_of(params)) if item.counts]
    assert found.code == "path-missing"
    assert printed in found.remedies[0].lines


def test_only_what_happened_lately_counts() -> None:
    habits = Habits()
    habits.dropped()
    habits.began(3, 2)
    assert (habits.drops(10), habits.at_once(10)) == (1, (3, 2))
    assert (habits.drops(0), habits.at_once(0)) == (0, (0, 0))


@pytest.mark.parametrize(
    "shares", [{"id": 3}, {"neighbours": 1}, {"asked_values": True}], ids=["id", "beside", "values"]
)
def test_a_relay_is_told_by_what_nginx_cannot_do(shares: dict[str, Any]) -> None:
    assert case_of(FIXED, **shares).front.relayed
    assert not case_of(HAPROXY, **shares).front.relayed
    assert not case_of(FIXED).front.relayed


@pytest.mark.parametrize(
    ("params", "address", "name"),
    [
        (LIGHTTPD, "", "lighttpd"),
        (NGINX, "", "nginx"),
        (HAPROXY, "", "HAProxy"),
        (CADDY, "", "Caddy"),
        (APACHE, "127.0.0.1:9000", "Apache with mod_proxy_fcgi"),
        (APACHE, "unix:/run/app.sock", "Apache with mod_proxy_fcgi"),
        (APACHE, "unix:/var/lib/apache2/fcgid/sock/123.4", "Apache with mod_fcgid"),
        ({**LIGHTTPD, "SERVER_SOFTWARE": "vsgi_fcgi/0.1"}, "", "vsgi-fcgi gateway"),
        ({**LIGHTTPD, "SERVER_SOFTWARE": "Hiawatha"}, "", "a web server that is not known here"),
        ({**NGINX, "SERVER_SOFTWARE": ""}, "", "nginx"),
        ({"HTTP_HOST": "x"}, "", "nginx"),
        ({}, "", "a web server that is not known here"),
    ],
)
def test_the_web_server_is_recognised(params: dict[str, str], address: str, name: str) -> None:
    assert case_of(params, address=address).front.front_end.name == name


def test_a_port_that_debians_nginx_loses() -> None:
    params = {**FIXED, "SERVER_PORT": "8080"}
    assert unsure(case_of(params)) == ["port-missing"]
    assert certain(case_of(params)) == []
    assert unsure(case_of({**params, "HTTP_HOST": "localhost:8080"})) == []
    assert unsure(case_of({**params, "HTTP_HOST": "[::1]"})) == ["port-missing"]
    assert unsure(case_of({**params, "SERVER_PORT": "443"})) == []
    assert unsure(case_of({**LIGHTTPD, "SERVER_PORT": "8080"})) == []


@pytest.mark.parametrize(
    ("asked", "total", "most", "level"),
    [
        (False, 4, 1, Level.WRONG),
        (True, 4, 1, Level.MAYBE),
        (False, 4, 2, None),
        (False, 1, 1, None),
    ],
)
def test_a_trial_of_multiplexing(
    monkeypatch: pytest.MonkeyPatch, asked: bool, total: int, most: int, level: Level | None
) -> None:
    """HAProxy that asks what is possible shares connections; its threads may each have one."""
    monkeypatch.setattr("vsgi_fcgi.doctor.trials._OVERLAP", 0.01)
    habits = Habits()
    habits.began(total, most)
    params = {**HAPROXY, "QUERY_STRING": "doctor=multiplexing"}
    found = outcome(case_of(params, asked_values=asked, habits=habits))
    assert found is not None
    assert (found.finding and found.finding.level) is level
    assert ("No other request" in found.sentence) == (total == 1)


def test_what_apache_leaves_open() -> None:
    shop = {"REQUEST_URI": "/shop/a", "SCRIPT_NAME": "/shop"}
    handled = {**APACHE, **shop, "PATH_INFO": "/a", "SCRIPT_FILENAME": "proxy:fcgi://x/srv/shop"}
    assert unsure(case_of(handled)) == ["path-unclear"]
    passed = {**APACHE, "REQUEST_URI": "/shop/a", "SCRIPT_NAME": "/shop/a"}
    passed["SCRIPT_FILENAME"] = "proxy:fcgi://x/a"
    assert unsure(case_of(passed)) == []
    elsewhere = {**passed, "SCRIPT_FILENAME": "proxy:fcgi://x/other/b"}
    assert unsure(case_of(elsewhere)) == ["path-unclear"]
