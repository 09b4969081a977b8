"""What web servers make impossible: the table in docs/topics/web-servers.md, for tests.

The tests expect exactly these values. If a new version of a web server is correct, they fail, and
the line must be removed here and on the page.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from support.matrix.matrix import ANY, Seen


@dataclass(frozen=True)
class Topic:
    """What some web servers do in a way of their own: a row on the page.

    Attributes:
        name: what the row is called.
        why: the reason.
        seen: the actual values by web server, by the name of the case. With a status in it
            nothing else is expected.
        below: where that is different for an app below a mount point.
        gone: the version of Debian's package in which a web server does it no more.
    """

    name: str
    why: str
    seen: Mapping[str, Mapping[str, Seen]]
    below: Mapping[str, Mapping[str, Seen]] = field(default_factory=dict)
    gone: Mapping[str, str] = field(default_factory=dict)


_KEPT = {"..": "/a/../b", "..%2F": "/a/../b", "%2e%2e": "/a/../b", ".": "/a/./b"}
_DOTS = {case: {"PATH_INFO": path} for case, path in _KEPT.items()}

TOPICS = (
    Topic(
        "Dot segments in the path",
        "HAProxy and Caddy pass on the requested path, decoded.",
        {"HAProxy": _DOTS, "Caddy": _DOTS},
    ),
    Topic(
        "Doubled slashes in the path",
        "They are merged before the app is looked for.",
        {
            "lighttpd": {"//": {"PATH_INFO": "/a/b"}, "// in front": {"PATH_INFO": "/a"}},
            "mod_fcgid": {"//": {"PATH_INFO": "/a/b"}, "// in front": {"PATH_INFO": "/a"}},
            "mod_proxy_fcgi": {"// in front": {"PATH_INFO": "/a"}},
        },
        below={"mod_proxy_fcgi": {"// in front": {}}},
    ),
    Topic(
        "A newline in the path, as `%0A`",
        "lighttpd refuses control characters; HAProxy's path-info does not match one.",
        {"lighttpd": {"%0A": {"status": 400}}, "HAProxy": {"%0A": {"status": 500}}},
    ),
    Topic(
        "Invalid UTF-8 in the path or the query, as `%FF`",
        "server.http-parseopts, url-invalid-utf8-reject.",
        {
            "lighttpd": {
                "invalid UTF-8": {"status": 400},
                "invalid UTF-8 in the query": {"status": 400},
            }
        },
    ),
    Topic(
        "Bytes above 127 in the address that are not escaped",
        "They are no URI: HAProxy refuses them, lighttpd and Caddy escape them.",
        {
            "lighttpd": {"UTF-8 as it is in the query": {"QUERY_STRING": "%C3%A9"}},
            "HAProxy": {
                "UTF-8 as it is": {"status": 400},
                "UTF-8 as it is in the query": {"status": 400},
            },
            "Caddy": {"UTF-8 as it is": {"REQUEST_URI": "{mount}/%C3%A9"}},
        },
    ),
    Topic(
        "A path that cannot be decoded, as `%zz` or `%00`",
        "It should be a 400.",
        {
            "lighttpd": {"%zz": {"PATH_INFO": "/a%zzb", "status": 200}},
            "mod_fcgid": {"%00": {"status": 404}},
            "mod_proxy_fcgi": {"%00": {"status": 404}},
            "HAProxy": {"%zz": {"status": 500}, "%00": {"status": 500}},
            "h2o": {
                "%zz": {"PATH_INFO": "/a%zzb", "status": 200},
                "%00": {"PATH_INFO": "/a\0b", "status": 200},
            },
        },
        below={"HAProxy": {"%zz": {"status": 404}}},
    ),
    Topic(
        "`OPTIONS *`",
        "It is about the web server, which must answer it itself.",
        {
            "nginx": {"OPTIONS *": {"status": 400}},
            "HAProxy": {"OPTIONS *": {"status": 500}},
            "h2o": {"OPTIONS *": {"PATH_INFO": "/*"}},
        },
    ),
    Topic(
        "An address with a host in it, as `GET http://other.test/a`",
        "That host is to count, and not the header Host; lighttpd and HAProxy insist that both are "
        "the same.",
        {
            "lighttpd": {"an address with a host": {"status": 400}},
            "nginx": {"an address with a host": {"HTTP_HOST": "other.test:{port}"}},
            "HAProxy": {"an address with a host": {"status": 400}},
            "h2o": {
                "an address with a host": {
                    "PATH_INFO": "/http://other.test/a",
                    "HTTP_HOST": "127.0.0.1:{port}",
                }
            },
        },
    ),
    Topic(
        "Two Host headers",
        "They should be refused; h2o uses the last one.",
        {"h2o": {"two Host headers": {"status": 200, "HTTP_HOST": "other.test"}}},
    ),
    Topic(
        "Cookies in more than one header",
        "Apache and Caddy join them as they join any header; h2o with a semicolon alone.",
        {
            "mod_fcgid": {"a repeated Cookie": {"HTTP_COOKIE": "a=1, b=2"}},
            "mod_proxy_fcgi": {"a repeated Cookie": {"HTTP_COOKIE": "a=1, b=2"}},
            "Caddy": {"a repeated Cookie": {"HTTP_COOKIE": "a=1, b=2"}},
            "h2o": {"a repeated Cookie": {"HTTP_COOKIE": "a=1;b=2"}},
        },
    ),
    Topic(
        "`X_Real` is taken for `X-Real`",
        "CGI has one name for both. The others drop headers with an underscore.",
        {
            "lighttpd": {
                "_ in a name": {"HTTP_X_REAL": "bad"},
                "_ alone in a name": {"HTTP_X_REAL": "bad"},
            },
            "Caddy": {
                "_ in a name": {"HTTP_X_REAL": ("good", "bad")},
                "_ alone in a name": {"HTTP_X_REAL": "bad"},
            },
            "h2o": {
                "_ in a name": {"HTTP_X_REAL": "good, bad"},
                "_ alone in a name": {"HTTP_X_REAL": "bad"},
            },
        },
        gone={"Caddy": "2.6.2-12"},
    ),
    Topic(
        "Headers without a value",
        "lighttpd leaves them out, both ways.",
        {
            "lighttpd": {
                "an empty header": {"HTTP_X_THING": None},
                "an empty header out": {"X-Thing:": None},
            }
        },
    ),
    Topic(
        "GATEWAY_INTERFACE is missing",
        "h2o does not send it.",
        {"h2o": {"GATEWAY_INTERFACE": {"GATEWAY_INTERFACE": None}}},
    ),
    Topic(
        "SERVER_NAME is not what the client asked for",
        "h2o sends the name under hosts.",
        {"h2o": {"SERVER_NAME": {"SERVER_NAME": "localhost"}}},
    ),
    Topic(
        "`wsgi.multiprocess` is True",
        "They start the server on a socket that they open, and may start more of them.",
        {
            "lighttpd": {"wsgi": {"wsgi.multiprocess": True}},
            "mod_fcgid": {"wsgi": {"wsgi.multiprocess": True}},
        },
    ),
    Topic(
        "PATH is in the environ",
        "Apache sends that of its own environment.",
        {
            "mod_fcgid": {"the web server's environment": {"PATH": ANY}},
            "mod_proxy_fcgi": {"the web server's environment": {"PATH": ANY}},
        },
    ),
    Topic(
        "A POST without Content-Length and without a body",
        "lighttpd wants a length.",
        {"lighttpd": {"no body": {"status": 411}}},
    ),
    Topic(
        "Range",
        "lighttpd itself cuts the range out of any response with status 200.",
        {
            "lighttpd": {
                "Range": {"status": 206},
                "Range of an answer": {"status": 206, "body": 2},
            }
        },
    ),
    Topic(
        "Chunked uploads of more than 16 KB",
        "They have to fit a buffer of HAProxy.",
        {"HAProxy": {"chunked, 100 KB": {"status": 400}}},
    ),
    Topic(
        "Content-Length of an answer is removed",
        "mod_proxy_fcgi does.",
        {
            "mod_proxy_fcgi": {
                case: {"Content-Length:": None}
                for case in ("HEAD", "HEAD of 1 MB", "HEAD of 404", "Content-Length")
            }
        },
    ),
    Topic(
        "Headers that are there twice become one",
        "All but Set-Cookie.",
        {
            "mod_fcgid": {"two of another name": {"X-Thing:": "1, 2"}},
            "mod_proxy_fcgi": {"two of another name": {"X-Thing:": "1, 2"}},
        },
    ),
    Topic(
        "500 instead of an answer, where many requests begin at once on one connection",
        "HAProxy's issue 2568: pinned by test_64_clients_at_once_of_2_threads, with its remedy.",
        {"HAProxy": {}},
        gone={"HAProxy": "3.0"},
    ),
    Topic(
        "A connection that is closed without an answer, under load",
        "Pinned by test_64_clients_at_once_of_2_threads, where no other does it.",
        {"mod_fcgid": {}, "mod_proxy_fcgi": {}},
    ),
    Topic(
        "`wsgi.errors` is not in the web server's log",
        "Caddy 2.6 throws it away; HAProxy 2.6 dies of it, and is sent none. It is pinned by "
        "test_wsgi_errors_at_every_moment.",
        {"HAProxy": {}, "Caddy": {}},
        gone={"HAProxy": "2.6.14"},
    ),
    Topic(
        "Location with status 200",
        "In CGI it is a redirect, and mod_fcgid takes it for one whatever Status says. A path is "
        "asked for at once, here without an end.",
        {
            "mod_fcgid": {
                "200 to a URL": {"status": 302},
                "200 to a path": {"status": 500},
                "200 to a relative path": {"status": 302},
            }
        },
    ),
    Topic(
        "`Server` and `Date` of the app",
        "The web server adds or puts its own.",
        {
            "mod_fcgid": {"Server": {"Server:": ANY}, "Date": {"Date:": ANY}},
            "Caddy": {"Server": {"Server:": ["Caddy", "mine"]}},
            "h2o": {
                "Server": {"Server:": ["h2o/2.2.5", "mine"]},
                "Date": {"Date:": ANY},
            },
        },
    ),
    Topic(
        "X-Sendfile and X-Accel-Redirect",
        "They are for the web server.",
        {
            "lighttpd": {"X-Sendfile": {"X-Sendfile:": None}},
            "nginx": {"X-Accel-Redirect": {"status": 500}},
        },
    ),
)


@cache
def _package_version(server: str) -> str:
    """Return the version of a web server's package; "" if it is not one of Debian's."""
    query = ["dpkg-query", "--show", "--showformat=${Version}", server.lower()]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def is_gone(topic: Topic, server: str) -> bool:
    """Return whether the web server that is installed does it no more."""
    if server not in topic.gone or not (installed := _package_version(server)):
        return False
    compare = ["dpkg", "--compare-versions", installed, "ge", topic.gone[server]]
    return subprocess.run(compare, check=False).returncode == 0


def seen_instead(server: str, case: str, *, mounted: bool) -> Seen:
    """What a web server makes of a case in a way of its own.

    Args:
        server: the web server.
        case: the name of the case.
        mounted: the app is below a mount point.
    """
    for topic in TOPICS:
        if is_gone(topic, server):
            continue
        below = topic.below.get(server, {})
        if mounted and case in below:
            return below[case]
        if found := topic.seen.get(server, {}).get(case):
            return found
    return {}


def exceptions() -> Iterator[tuple[str, str, Seen]]:
    """All exceptions: the web server, the case, and the actual values."""
    for topic in TOPICS:
        for server, cases in topic.seen.items():
            for case, seen in cases.items():
                yield server, case, seen
