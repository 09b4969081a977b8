"""Test what the doctor finds, and that it raises no false alarms."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import pytest
from support.wire import APACHE, CADDY, HAPROXY, LIGHTTPD, NGINX, case_of

from vsgi_fcgi.doctor.diagnosis import Level, diagnose
from vsgi_fcgi.doctor.probes import trial_result, trials
from vsgi_fcgi.doctor.request import Case, ConnectionUse
from vsgi_fcgi.wsgi.path_info import mount_point

FIXED = {**NGINX, "SCRIPT_NAME": "", "PATH_INFO": "/a/b"}


def certain(case: Case) -> list[str]:
    """Return the findings that are problems."""
    return [finding.code for finding in diagnose(case) if finding.is_problem]


def unsure(case: Case) -> list[str]:
    """Return the findings that are not certain."""
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
        ({"CONTENT_LENGTH": "5"}, "body-not-sent"),
        ({"REQUEST_METHOD": ""}, "method-missing"),
    ],
)
def test_what_is_wrong(change: dict[str, str], code: str) -> None:
    assert certain(case_of({**LIGHTTPD, **change})) == [code]


def test_a_body_without_its_length() -> None:
    """Where nothing came of a body, the length is left out as it has to be."""
    params = {**LIGHTTPD, "HTTP_CONTENT_LENGTH": "5", "CONTENT_LENGTH": ""}
    assert certain(case_of(params, body_size=5)) == ["length-missing"]
    assert certain(case_of(params)) == []
    assert certain(case_of({**params, "CONTENT_LENGTH": "5"}, body_size=5)) == []


@pytest.mark.parametrize(
    ("base", "level", "lines"),
    [
        (
            FIXED,
            Level.CORRECTED,
            ['fastcgi_pass_request_body off;\nfastcgi_param CONTENT_LENGTH "";'],
        ),
        # Its configuration cannot leave it out.
        (CADDY, Level.NOTE, []),
    ],
)
def test_a_body_that_is_announced_and_not_sent(
    base: Mapping[str, str], level: Level, lines: list[str]
) -> None:
    case = case_of({**base, "CONTENT_LENGTH": "5"})
    (found,) = [finding for finding in diagnose(case) if finding.code == "body-not-sent"]
    assert found.level is level
    assert [remedy.lines for remedy in found.remedies] == lines
    # An authorizer gets no body, and a value that is no length is another matter.
    assert certain(case_of({**base, "CONTENT_LENGTH": "5"}, role=2)) == []
    assert certain(case_of({**base, "CONTENT_LENGTH": "-1"})) == []


def test_nginx_that_splits_nothing() -> None:
    """PATH_INFO is $fastcgi_path_info, without fastcgi_split_path_info."""
    params = {**NGINX, "PATH_INFO": ""}
    case = case_of(params)
    assert (certain(case), unsure(case)) == ([], ["path-unclear"])
    folder = {**params, "SCRIPT_NAME": "/a/", "DOCUMENT_URI": "/a/", "REQUEST_URI": "/a/"}
    assert (certain(case_of(folder)), unsure(case_of(folder))) == ([], ["path-unclear"])
    trial = "/doctor-trial/path"
    tried = {**params, "SCRIPT_NAME": trial, "DOCUMENT_URI": trial, "REQUEST_URI": trial}
    assert certain(case_of(tried)) == ["path-split"]
    # The root of the site, and where the app is named, or split off.
    root = {**params, "SCRIPT_NAME": "/", "DOCUMENT_URI": "/", "REQUEST_URI": "/"}
    assert certain(case_of(root)) == ["path-slash"]
    assert unsure(case_of(params, mount="")) == []
    below = {**params, "SCRIPT_NAME": "/a", "PATH_INFO": "/b"}
    assert unsure(case_of(below)) == []


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
    commands = {trial.name: trial.command for trial in trials(case_of(params))}
    assert commands["path"] == f"curl http://localhost{url}"
    assert "path" not in {trial.name for trial in trials(case_of(params, mount=script))}


def test_commands_are_quoted_for_a_shell() -> None:
    host = {"HTTP_HOST": "x$(reboot)'", "PATH_INFO": "/a;`b`"}
    for trial in trials(case_of({**LIGHTTPD, **host})):
        words = shlex.split(trial.command)
        assert words[-1].startswith("http://x$(reboot)'/")
        assert "`" not in trial.command


def test_haproxy_says_by_itself_that_authorization_is_missing() -> None:
    params = {**HAPROXY, "AUTH_TYPE": "Basic"}
    assert certain(case_of(params)) == ["authorization-missing"]
    assert certain(case_of({**params, "HTTP_AUTHORIZATION": "Basic YTpi"})) == []
    # nginx has checked the password itself.
    assert certain(case_of({**FIXED, "AUTH_TYPE": "Basic", "REMOTE_USER": "a"})) == []


SENT = {"QUERY_STRING": "doctor=header", "HTTP_X_TRIAL": "doctor"}


@pytest.mark.parametrize(
    ("params", "code", "level"),
    [
        ({"HTTP_X_FORWARDED_PROTO": "https"}, None, None),
        ({"HTTP_X_FORWARDED_PROTO": "doctor"}, "header-passes", Level.MAYBE),
        ({"HTTP_X_REAL_IP": "doctor, doctor"}, "header-passes", Level.MAYBE),
        ({"HTTP_X_FORWARDED_PROTO": "doctor, https"}, "header-joined", Level.WRONG),
    ],
)
@pytest.mark.parametrize("base", [LIGHTTPD, FIXED, HAPROXY, APACHE, CADDY])
def test_a_trial_of_headers(
    base: Mapping[str, str], params: dict[str, str], code: str | None, level: Level | None
) -> None:
    found = trial_result(case_of({**base, **SENT, **params}))
    assert found is not None
    assert (found.finding and found.finding.code, found.finding and found.finding.level) == (
        code,
        level,
    )
    if found.finding is not None:
        (name,) = params
        assert name in found.finding.seen
        assert "FORWARDED_PROTO" in found.finding.remedies[0].lines.upper().replace("-", "_")


def test_a_trial_of_headers_that_sent_none() -> None:
    found = trial_result(case_of({**LIGHTTPD, "QUERY_STRING": "doctor=header", "HTTP_A": "doctor"}))
    assert found is not None
    assert found.finding is None
    assert "did not arrive" in found.sentence


def test_a_header_that_came_twice_behind_haproxy() -> None:
    """Its set-param and a client that repeats a header look the same."""

    def twice(base: Mapping[str, str], name: str) -> Case:
        return case_of({**base, name: "client"}, more=[(name, "set")])

    found = twice(HAPROXY, "HTTP_X_SET")
    (finding,) = [item for item in diagnose(found) if item.code == "header-joined"]
    assert finding.level is Level.MAYBE
    assert "client, set" in finding.seen
    assert "http-request set-header" in finding.remedies[0].lines
    # Proxies add these, and clients repeat them.
    for name in ("HTTP_X_FORWARDED_FOR", "HTTP_COOKIE", "HTTP_VIA"):
        assert unsure(twice(HAPROXY, name)) == []
    # Others join what a client repeats, and what the configuration sets counts alone.
    assert unsure(twice(CADDY, "HTTP_X_SET")) == []


def test_a_trial_of_authorization() -> None:
    params = {**LIGHTTPD, "QUERY_STRING": "doctor=authorization"}
    failed = trial_result(case_of(params))
    assert failed is not None
    assert failed.finding is not None
    assert "setenv" not in failed.finding.matters
    assert "lighttpd forwards it by default" in failed.finding.matters
    passed = trial_result(case_of({**params, "HTTP_AUTHORIZATION": "Basic YTpi"}))
    assert passed is not None
    assert passed.finding is None


def test_a_trial_is_known_without_a_query_string() -> None:
    assert case_of({**LIGHTTPD, "REQUEST_URI": "/a/b?x&doctor=upload"}).trial == "upload"
    assert case_of({**LIGHTTPD, "QUERY_STRING": "xdoctor=upload"}).trial == ""


def test_connections_that_are_dropped() -> None:
    connection_use = ConnectionUse()
    common: Any = {"keep_conn": True, "connection_use": connection_use}
    for _ in range(2):
        connection_use.dropped()
    assert certain(case_of(FIXED, **common)) == []
    connection_use.dropped()
    assert certain(case_of(FIXED, **common)) == ["connections-dropped"]
    assert certain(case_of(FIXED, **common, turn=2)) == []
    assert certain(case_of(FIXED, connection_use=connection_use)) == []
    connection_use.used_again()
    assert certain(case_of(FIXED, **common)) == []


@pytest.mark.parametrize(
    ("mount", "printed"),
    [
        ("/shop", "^(?<mount>/shop)(?<rest>"),
        ("/a.b", "^(?<mount>/a[.]b)(?<rest>"),
        ('/a"; }', "--script-name '/a\"; }'"),
    ],
)
def test_a_mount_point_cannot_break_out_of_the_lines(mount: str, printed: str) -> None:
    params = {**NGINX, "SCRIPT_NAME": mount, "DOCUMENT_URI": f"{mount}/a", "REQUEST_URI": "/x"}
    (found,) = [item for item in diagnose(case_of(params)) if item.is_problem]
    assert found.code == "path-missing"
    assert printed in found.remedies[0].lines


@pytest.mark.parametrize(
    ("mount", "typed"),
    [
        ("/caf\xc3\xa9", ["--script-name", "/caf\u00e9"]),
        ("/a b", ["--script-name", "/a b"]),
        # Characters that a terminal would obey, and those that cannot be typed.
        ("/a\nb", []),
        ("/\x1b[31m", []),
        ("/\xff", []),
    ],
)
def test_a_mount_point_is_printed_as_it_is_typed(mount: str, typed: list[str]) -> None:
    params = {**NGINX, "SCRIPT_NAME": mount, "DOCUMENT_URI": f"{mount}/a", "REQUEST_URI": "/x"}
    (found,) = [item for item in diagnose(case_of(params)) if item.is_problem]
    lines = [item.lines for item in found.remedies if item.lines.startswith("--script-name")]
    assert shlex.split(" ".join(lines)) == typed
    if typed:
        given = mount_point(typed[1])
        assert case_of(params, mount=given).script == mount


def test_what_the_lines_are_for_is_the_place_of_the_app() -> None:
    """For Apache: if they replace the existing lines, the app must stay at its path."""
    at_shop = {"SCRIPT_NAME": "/shop/a", "SCRIPT_FILENAME": "proxy:fcgi://x/a"}
    for more, printed in (
        (
            at_shop,
            'ProxyPass "/shop" "unix:/run/app.sock|fcgi://app" enablereuse=on flushpackets=on',
        ),
        ({}, 'ProxyPass "/" "unix:/run/app.sock|fcgi://app/" enablereuse=on flushpackets=on'),
        # SetHandler: where it stands is not known.
        ({"SCRIPT_NAME": "/a", "PATH_INFO": "/b"}, "enablereuse=on flushpackets=on"),
    ):
        uri = {"REQUEST_URI": "/shop/a"} if more is at_shop else {}
        found = diagnose(case_of({**APACHE, **uri, **more}))
        (keep,) = [item for item in found if item.code == "connection-each"]
        assert [item.lines for item in keep.remedies] == [printed]


@pytest.mark.parametrize(
    ("address", "printed"),
    [
        ("127.0.0.1:9000", "server 127.0.0.1:9000;"),
        ("[::1]:9000", "server [::1]:9000;"),
        ("unix:/run/my app.sock", 'server "unix:/run/my app.sock";'),
        ('unix:/a"; }', "server unix:/run/app.sock;"),
        ("unix:@name", "server unix:/run/app.sock;"),
    ],
)
def test_an_address_is_printed_as_nginx_has_it(address: str, printed: str) -> None:
    (keep,) = [
        item for item in diagnose(case_of(FIXED, address=address)) if item.code == "connection-each"
    ]
    assert printed in keep.remedies[0].lines


def test_an_app_that_is_named_below_a_path_gets_the_lines_for_it() -> None:
    params = {**NGINX, "SCRIPT_NAME": "/shop/a", "DOCUMENT_URI": "/shop/a"}
    params["REQUEST_URI"] = "/shop/a"
    found = {item.code: item for item in diagnose(case_of(params, mount="/shop"))}
    assert found["path-named"].level is Level.NOTE
    assert "^(?<mount>/shop)" in found["path-named"].remedies[0].lines
    right = {**FIXED, "SCRIPT_NAME": "/shop", "REQUEST_URI": "/shop/a/b"}
    # By a rewrite: lighttpd's lines are not about that.
    taken_off = {**LIGHTTPD, "REQUEST_URI": "/shop/a/b"}
    for params in (right, taken_off):
        codes = [item.code for item in diagnose(case_of(params, mount="/shop"))]
        assert "path-named" not in codes


def test_what_an_app_at_the_root_is_asked_for_is_told() -> None:
    """Behind Caddy's handle and h2o's paths, an app at /shop has a 404 for it."""
    found = {item.code: item for item in diagnose(case_of({**CADDY, "PATH_INFO": "/shop/a"}))}
    assert found["path-root"].level is Level.NOTE
    assert found["path-root"].remedies[0].lines == "--script-name /shop"
    for path in ("/", "/a", "//a", "*"):
        codes = [item.code for item in diagnose(case_of({**CADDY, "PATH_INFO": path}))]
        assert "path-root" not in codes


def test_a_shared_connection_of_an_old_haproxy_is_told_of() -> None:
    def codes(version: str, neighbours: int) -> list[str]:
        params = {**HAPROXY, "SERVER_SOFTWARE": f"HAProxy {version}"}
        case = case_of(params, neighbours=neighbours, keep_conn=True)
        return [item.code for item in diagnose(case)]

    assert "multiplexing-fails" in codes("2.6.12-1+deb12u4", 1)
    assert "multiplexing-fails" not in codes("2.6.12-1+deb12u4", 0)
    assert "multiplexing-fails" in codes("3.0.11-1+deb13u4", 1)
    assert "multiplexing-fails" not in codes("3.2.26-1", 1)


def test_only_what_happened_lately_counts() -> None:
    connection_use = ConnectionUse()
    connection_use.dropped()
    connection_use.began(3, 2)
    assert (connection_use.drops(10), connection_use.at_once(10)) == (1, (3, 2))
    assert (connection_use.drops(0), connection_use.at_once(0)) == (0, (0, 0))


@pytest.mark.parametrize(
    "shares",
    [{"id": 3}, {"neighbours": 1}, {"asked_values": True}],
    ids=["id", "neighbours", "values"],
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
    ("version", "asked", "total", "most", "level"),
    [
        ("3.2.26", False, 4, 1, Level.NOTE),
        ("3.2.26", True, 4, 1, Level.MAYBE),
        ("3.2.26", False, 4, 2, None),
        ("3.2.26", False, 1, 1, None),
        # It may answer 500 itself if requests share connections, so separate ones are no mistake.
        ("2.6.12-1+deb12u4", False, 4, 1, Level.NOTE),
        ("2.6.12-1+deb12u4", True, 4, 1, Level.NOTE),
        ("2.6.12-1+deb12u4", False, 4, 2, Level.NOTE),
        ("3.0.11-1+deb13u4", False, 4, 2, Level.NOTE),
    ],
)
def test_a_trial_of_multiplexing(
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    asked: bool,
    total: int,
    most: int,
    level: Level | None,
) -> None:
    """An HAProxy that sends GET_VALUES shares connections; each of its threads may have one."""
    # A constant, which would make the test wait for seconds.
    monkeypatch.setattr("vsgi_fcgi.doctor.probes._OVERLAP", 0.0)
    connection_use = ConnectionUse()
    connection_use.began(total, most)
    params = {**HAPROXY, "QUERY_STRING": "doctor=multiplexing"}
    params["SERVER_SOFTWARE"] = f"HAProxy {version}"
    found = trial_result(case_of(params, asked_values=asked, connection_use=connection_use))
    assert found is not None
    assert (found.finding and found.finding.level) is level
    if found.finding is not None:
        assert ("a 500 of its own" in found.finding.matters) == (version < "3.2")
        advice = "no option mpxs-conns" if most > 1 else "    option mpxs-conns"
        assert advice in found.finding.remedies[0].lines
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
