"""Test SCRIPT_NAME and PATH_INFO: what each web server sends, and the corrections.

The tables contain what the web servers really send; `tests/live/test_paths.py` checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.sinks import run_validated

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.front_ends.base import PathCorrection
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.wsgi.path_info import find_path, mount_point

Params = dict[str, str]

RIGHT, WHOLE, TWICE, MISSING = (
    PathCorrection.UNCHANGED,
    PathCorrection.WHOLE,
    PathCorrection.TWICE,
    PathCorrection.MISSING,
)
PROXIED, SLASH, SEGMENT = PathCorrection.PROXIED, PathCorrection.SLASH, PathCorrection.SEGMENT
UNCLEAR, NAMED, HIDDEN, OUTSIDE = (
    PathCorrection.UNCLEAR,
    PathCorrection.NAMED,
    PathCorrection.HIDDEN,
    PathCorrection.OUTSIDE,
)

PATHS = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/app",
    "/app/",
    "/app/x y",
    "/app/a//b;c",
    "/\xc3\xa9/%41",
    "//x",
]


def params(
    software: str, script: str | None, path: str | None, uri: str = "", **more: str
) -> Params:
    """What a web server sends, where None is nothing; the query is never empty."""
    found = {"SERVER_SOFTWARE": software, "SCRIPT_NAME": script, "PATH_INFO": path}
    found["REQUEST_URI"] = (uri or asked((script or "") + (path or ""))) + "?q=/a/../b"
    return {name: value for name, value in (found | more).items() if value is not None}


def asked(path: str) -> str:
    """A path as a client writes it."""
    return quote(path, "/;", "latin-1")


def nginx(script: str | None, path: str | None, document: str, uri: str = "") -> Params:
    return params("nginx/1.22.1", script, path, uri or asked(document), DOCUMENT_URI=document)


def nginx_alone(path: str) -> Params:
    """``include fastcgi_params;`` and nothing else."""
    return nginx(path, None, path)


def nginx_twice(path: str) -> Params:
    """The same with ``fastcgi_param PATH_INFO $uri;``."""
    return nginx(path, path, path)


def nginx_slash(path: str) -> Params:
    """With ``fastcgi_param SCRIPT_NAME /;`` too."""
    return nginx("/", path, path)


def nginx_empty(path: str) -> Params:
    """With an empty one, and PATH_INFO forgotten."""
    return nginx("", None, path)


def nginx_unsplit(path: str) -> Params:
    """With an empty one, and $fastcgi_path_info without fastcgi_split_path_info."""
    return nginx("", "", path)


def proxy_pass(path: str) -> Params:
    """Apache's mod_proxy_fcgi with ``ProxyPass / fcgi://localhost/``."""
    file = "proxy:fcgi://localhost" + asked(path)
    return params("Apache/2.4.71 (Debian)", path, None, SCRIPT_FILENAME=file)


def proxy_pass_generic(path: str) -> Params:
    """The same with ``ProxyFCGIBackendType GENERIC``."""
    return params("Apache", path, None, SCRIPT_FILENAME=asked(path))


def nginx_own(path: str) -> Params:
    """The example's nginx."""
    return nginx("", path, path)


def caddy(path: str) -> Params:
    return params("Caddy/v2.6.2", "", path)


def haproxy(path: str) -> Params:
    """With a path-info; empty values are left out."""
    return params("HAProxy 2.6.12-1+deb12u4", None, path)


def lighttpd(path: str) -> Params:
    """With fix-root-scriptname."""
    file = "/srv/www/"
    return params("lighttpd/1.4.69", "", path, SCRIPT_FILENAME=file, DOCUMENT_ROOT=file)


ROOT_FRONT_ENDS = (
    *(nginx_alone, nginx_twice, nginx_slash, nginx_empty, nginx_unsplit),
    *(proxy_pass, proxy_pass_generic, nginx_own, caddy, haproxy, lighttpd),
)


@pytest.mark.parametrize("front_end", ROOT_FRONT_ENDS)
def test_an_app_at_the_root(front_end: Callable[[str], Params]) -> None:
    """The app's path is the whole path, whether it is named or not."""
    for path, mount in product(PATHS, (None, "")):
        assert find_path(front_end(path), mount)[:2] == ("", path), mount


@pytest.mark.parametrize("front_end", [*ROOT_FRONT_ENDS, None])
def test_an_app_below_a_named_mount_point(front_end: Callable[[str], Params] | None) -> None:
    """Even if the web server says that it is at the root; None changes nothing."""
    for mount, rest in product(["/app", "/a/b"], ["", *PATHS]):
        found = params("any", mount, rest) if front_end is None else front_end(mount + rest)
        assert find_path(found, mount)[:2] == (mount, rest)


@pytest.mark.parametrize("software", ["lighttpd/1.4.69", "nginx/1.22.1", "HAProxy", "Apache", ""])
def test_what_is_right_is_not_changed(software: str) -> None:
    """nginx sends an empty PATH_INFO, and the others leave it out."""
    for mount, rest in product(["/app", "/app.fcgi", "/a/b", "/\xc3\xa9"], ["", *PATHS]):
        path = rest or ("" if software.startswith("nginx") else None)
        found = params(software, mount, path)
        if software.startswith("nginx"):
            found["DOCUMENT_URI"] = mount + rest
        if software == "Apache":
            # mod_fcgid's, and with SetHandler also mod_proxy_fcgi's.
            found["SCRIPT_FILENAME"] = "/srv/www/app.fcgi"
            assert find_path(found)[:2] == (mount, rest)
            found["SCRIPT_FILENAME"] = "proxy:fcgi://localhost//srv/www" + mount
        unclear = software == "HAProxy" and not rest
        assert find_path(found) == (mount, rest, UNCLEAR if unclear else RIGHT)
        assert find_path(found, mount)[:2] == (mount, rest)


APACHE = "Apache/2.4.71 (Debian)"


def proxied(script: str, file: str) -> Params:
    return params(APACHE, script, None, SCRIPT_FILENAME=f"proxy:fcgi://localhost{file}")


CASES = {
    # lighttpd at "/" without fix-root-scriptname, and at "/app/".
    "lighttpd-root": (params("lighttpd/1.4.69", "/", None), None, "", "/", SLASH),
    "lighttpd-unknown": (params("lighttpd/1.4.69", "/a", "/b"), None, "/a", "/b", RIGHT),
    "lighttpd-named": (params("lighttpd/1.4.69", "/a", "/b"), "", "", "/a/b", NAMED),
    "lighttpd-slash": (params("lighttpd/1.4.69", "/app/", None), None, "/app", "/", SLASH),
    "lighttpd-slash-named": (
        params("lighttpd/1.4.69", "/app/x", "/y"),
        *("/app", "/app", "/x/y", NAMED),
    ),
    # nginx.
    "nginx-no-document": (params("nginx/1.22.1", "/a/b", None), None, "", "/a/b", WHOLE),
    "nginx-nothing": (params("nginx/1.22.1", None, None), None, "", "", RIGHT),
    "nginx-split": (nginx("/app", None, "/app/x"), None, "/app", "/x", MISSING),
    "nginx-split-named": (nginx("/app", None, "/app/x"), "/app", "/app", "/x", NAMED),
    "nginx-split-not": (nginx("/", "", "/"), None, "", "/", SLASH),
    "nginx-split-inside": (nginx("/app", "x", "/appx"), None, "", "/appx", SEGMENT),
    "nginx-split-with-slash": (nginx("/app/", "x", "/app/x"), None, "/app", "/x", SLASH),
    "nginx-index": (nginx("/x/index.php", None, "/x/"), None, "", "/x/", MISSING),
    "nginx-other": (nginx("/app", None, "/x"), None, "/app", "", RIGHT),
    "nginx-own-named": (nginx("", "/app/x", "/app/x"), "/app", "/app", "/x", NAMED),
    "nginx-twice-slashes": (nginx("/", "/", "/", "//"), None, "", "/", TWICE),
    "nginx-twice-slashes-named": (nginx("/", "/", "/", "//"), "", "", "/", HIDDEN),
    "nginx-twice-folder-named": (
        nginx("/public/", "/public/", "/public/", "//public/.%2F"),
        *("", "", "/public/", HIDDEN),
    ),
    "nginx-mount-twice": (nginx("/app", "/app/x", "/app/x"), None, "/app", "/x", TWICE),
    "nginx-mount-twice-named": (nginx("/app", "/app/x", "/app/x"), "/app", "/app", "/x", TWICE),
    # A rewrite has taken the mount point off, and the path begins with the same name.
    "nginx-stripped": (
        nginx("/app", "/app/x", "/app/x", "/app/app/x"),
        *(None, "/app", "/app/x", RIGHT),
    ),
    "nginx-stripped-slashes": (
        nginx("/app", "/app/x", "/app/x", "/app//app/x"),
        *(None, "/app", "/app/x", RIGHT),
    ),
    # That can be read as /app/x too, by a web server that does not decode the slash, or drops the
    # other one.
    "nginx-stripped-kept": (
        nginx("/app", "/app/x", "/app/x", "/app/app%2Fq/../x"),
        *(None, "/app", "/app/x", RIGHT),
    ),
    "nginx-stripped-kept-named": (
        nginx("/app", "/app/x", "/app/x", "/app/app%2Fq/../x"),
        *("/app", "/app", "/app/x", RIGHT),
    ),
    "nginx-stripped-dots": (
        nginx("/app", "/app/x", "/app/x", "/app/app//../x"),
        *(None, "/app", "/app/x", RIGHT),
    ),
    "nginx-stripped-unsaid": (
        nginx("", "/app/x", "/app/x", "/app/app%2Fq/../x"),
        *("/app", "/app", "/app/x", NAMED),
    ),
    "nginx-unmerged-twice": (
        nginx("/b//c", "/b//c", "/b//c", "/a/../b//c"),
        *(None, "", "/b//c", TWICE),
    ),
    "nginx-unmerged-twice-named": (
        nginx("/app//c", "/app//c", "/app//c", "/a/../app//c"),
        *("/app", "/app", "//c", HIDDEN),
    ),
    "nginx-stripped-named": (
        nginx("/app", "/app/x", "/app/x", "/app/app/x"),
        *("/app", "/app", "/app/x", RIGHT),
    ),
    # nginx's values after another proxy has removed the mount point.
    "nginx-behind-another": (nginx("/app", "/x", "/x"), None, "/app", "/x", RIGHT),
    "nginx-behind-another-named": (nginx("/app", "/x", "/x"), "/app", "/app", "/x", RIGHT),
    "nginx-rewritten": (nginx("/new", None, "/new", "/old"), None, "", "/new", WHOLE),
    # HAProxy without path-info.
    "haproxy-root": (params("HAProxy 2.6.12", "/", None), None, "", "/", WHOLE),
    "haproxy-folder": (params("HAProxy 2.6.12", "/a/b/", None), None, "", "/a/b/", WHOLE),
    "haproxy-unclear": (params("HAProxy 2.6.12", "/a/b", None), None, "/a/b", "", UNCLEAR),
    "haproxy-named": (params("HAProxy 2.6.12", "/a/b", None), "", "", "/a/b", NAMED),
    "haproxy-inside": (params("HAProxy 2.6.12", "/app", "x"), None, "", "/appx", SEGMENT),
    "haproxy-slashes-named": (params("HAProxy 2.6.12", "/", "/", "//"), "", "", "//", NAMED),
    "haproxy-slash": (params("HAProxy 2.6.12", "/", "/x"), None, "", "//x", SLASH),
    # ProxyPass /app fcgi://localhost, with a slash at the end of either, and with another path.
    "proxy-mount": (proxied("/app/x/y", "/x/y"), None, "/app", "/x/y", PROXIED),
    "proxy-mount-bare": (proxied("/app", "/"), None, "/app", "", RIGHT),
    "proxy-mount-slash": (proxied("/app/", "/"), None, "/app", "/", PROXIED),
    "proxy-slashes": (proxied("/app/x/y", "//x/y"), None, "/app", "/x/y", PROXIED),
    "proxy-doubled": (proxied("/app//x//y", "///x//y"), None, "/app", "//x//y", PROXIED),
    "proxy-doubled-once": (proxied("/app//x", "//x"), None, "/app", "//x", PROXIED),
    "proxy-segment": (proxied("/app/xy", "/y"), None, "/app/xy", "", RIGHT),
    "proxy-encoded": (proxied("/app/\xff %", "/%FF%20%25"), None, "/app", "/\xff %", PROXIED),
    "proxy-kept": (proxied("/app/a%2Fb c", "/a%2Fb%20c"), None, "/app", "/a%2Fb c", PROXIED),
    # What "nocanon" makes of dots and slashes is not known.
    "proxy-raw": (proxied("/app/a/b", "/x/../a%2F/b"), None, "/app/a/b", "", RIGHT),
    "proxy-kept-slashes": (
        proxied("/app/%2F/y", "//%2F/y"),
        *(None, "/app", "/%2F/y", PROXIED),
    ),
    "proxy-same": (proxied("/app/x", "/app/x"), None, "", "/app/x", PROXIED),
    "proxy-other": (proxied("/app/x", "/other/x"), None, "/app/x", "", RIGHT),
    "proxy-named": (proxied("/app/x/y", "/x/y"), "", "", "/app/x/y", NAMED),
    # Escaped slashes that Apache keeps, behind which are dots that are none for it.
    "proxy-dots": (
        proxied("/app/x%2F..%2F../y", "/x%2F..%2F../y"),
        *(None, "/app", "/x%2F..%2F../y", PROXIED),
    ),
    "proxy-dots-slash": (
        proxied("/app/x%2F..%2F../y", "//x%2F..%2F../y"),
        *(None, "/app", "/x%2F..%2F../y", PROXIED),
    ),
    "proxy-dots-raw": (proxied("/app/x/y", "/x/..%2Fz/../y"), None, "/app/x/y", "", RIGHT),
    # .htaccess, which puts the script before every path.
    "script": (params(APACHE, "/app.fcgi", "/x", "/x"), None, "/app.fcgi", "/x", RIGHT),
    "script-named": (params(APACHE, "/app.fcgi", "/x y", "/x%20y"), "", "", "/x y", HIDDEN),
    "script-asked-for": (
        params(APACHE, "/app.fcgi", "/x", "/app.fcgi/x"),
        *("", "", "/app.fcgi/x", NAMED),
    ),
    "script-dots": (params(APACHE, "/app.fcgi", "/x", "/y/.././/x"), "", "", "/x", HIDDEN),
    # That can be read as /app.fcgi/x too.
    "script-unclear": (
        params(APACHE, "/app.fcgi", "/x", "/app.fcgi/y%2F../..%2Fz/../x"),
        *("", "", "/app.fcgi/x", NAMED),
    ),
    "script-unclear-below": (
        params(APACHE, "/app.fcgi", "/app/x", "/app.fcgi/y%2F../..%2Fz/../app/x"),
        *("/app", "", "/app.fcgi/app/x", OUTSIDE),
    ),
    "script-unclear-in-place": (
        params(APACHE, "/app.fcgi", "/x", "/app.fcgi/y%2F../..%2Fz/../app/x"),
        *("/app", "", "/app.fcgi/x", OUTSIDE),
    ),
    "script-kept": (params(APACHE, "/app.fcgi", "/a%2Fb", "/a%2Fb"), "", "", "/a%2Fb", HIDDEN),
    "script-folder": (
        params(APACHE, "/sub/app.fcgi", "/x", "/sub/x"),
        "/sub",
        "/sub",
        "/x",
        HIDDEN,
    ),
    "script-below": (params(APACHE, "/app.fcgi", "/app/x", "/app/x"), "/app", "/app", "/x", HIDDEN),
    "script-outside": (params(APACHE, "/app.fcgi", "/x", "/x"), "/app", "", "/x", OUTSIDE),
    "script-rewritten": (
        params(APACHE, "/app.fcgi", "/new", "/old"),
        *("", "", "/app.fcgi/new", NAMED),
    ),
    # The prefix was taken off (Caddy's handle_path), or it was not (h2o).
    "stripped": (params("Caddy", "", "/x", "/app/x"), "/app", "/app", "/x", NAMED),
    "stripped-twice": (
        params("Caddy", "", "/app/x", "/app/app/x"),
        "/app",
        "/app",
        "/app/x",
        NAMED,
    ),
    "stripped-unnamed": (params("Caddy", "", "/x", "/app/x"), None, "", "/x", RIGHT),
    "stripped-bare": (params("Caddy", "", "/", "/app/"), "/app", "/app", "/", NAMED),
    "prefix": (params("h2o", "", "/app/x"), "/app", "/app", "/x", NAMED),
    "outside": (params("any", "", "/appx"), "/app", "", "/appx", OUTSIDE),
    "outside-doubled": (params("any", "", "//app/x"), "/app", "", "//app/x", OUTSIDE),
    "no-uri": ({"SCRIPT_NAME": "/a", "PATH_INFO": "/b"}, "", "", "/a/b", NAMED),
    "no-path-at-all": (
        {"SCRIPT_NAME": "/a", "PATH_INFO": "", "DOCUMENT_URI": ""},
        "",
        "",
        "/a",
        NAMED,
    ),
    "nothing": ({}, None, "", "", RIGHT),
    "nothing-named": ({}, "/app", "", "", OUTSIDE),
    "asterisk": (params("any", "", "*", "*"), None, "", "*", RIGHT),
    "proxy-form": (
        params(APACHE, "/app.fcgi", "/x", "http://host/x"),
        *("", "", "/app.fcgi/x", NAMED),
    ),
}


@pytest.mark.parametrize(
    ("sent", "mount", "script", "path", "finding"), CASES.values(), ids=CASES.keys()
)
def test_case(
    sent: Params, mount: str | None, script: str, path: str, finding: PathCorrection
) -> None:
    before = sent.copy()
    assert find_path(sent, mount) == (script, path, finding)
    assert sent == before


# Pieces of which a path that matters is soon made.
TEXT = st.lists(
    st.sampled_from(
        [
            *("/", "//", "/app", "/admin", "/..", "app", "admin", "public", "a", "x", "..", "."),
            *("%2e%2e", "%2F", "%2f", "%61pp", "%", "%zz", "\xe9", "?", "#", ";", "http://h", "\0"),
        ]
    ),
    max_size=6,
).map("".join)
ABSENT: st.SearchStrategy[str | None] = st.none() | TEXT
SOFTWARE = st.sampled_from(
    [None, "nginx/1.22.1", "HAProxy 2.6", "Apache/2.4", "lighttpd/1.4.69", "Caddy", ""]
)
ANY = st.fixed_dictionaries(
    {
        "SCRIPT_NAME": ABSENT,
        "PATH_INFO": ABSENT,
        "DOCUMENT_URI": ABSENT,
        "REQUEST_URI": ABSENT,
        "SCRIPT_FILENAME": ABSENT | TEXT.map("proxy:fcgi://h".__add__),
        "SERVER_SOFTWARE": SOFTWARE,
    }
).map(lambda found: {name: value for name, value in found.items() if value is not None})


@settings(max_examples=200)
@given(ANY)
def test_path_bytes_are_the_web_servers(sent: Params) -> None:
    """And never those of REQUEST_URI."""
    script, path, _ = find_path(sent)
    allowed = {sent.get("SCRIPT_NAME", "") + sent.get("PATH_INFO", "")}
    assert script + path in allowed | {sent.get("DOCUMENT_URI", "")}


@settings(max_examples=200)
@given(ANY, st.sampled_from(["", "/app", "/a/b"]))
@example({"SCRIPT_NAME": "/app", "PATH_INFO": "/../admin", "REQUEST_URI": "/app/../admin"}, "")
def test_path_bytes_below_a_mount_point(sent: Params, mount: str) -> None:
    """PATH_INFO may be without the SCRIPT_NAME that a rewrite gave it, or behind the mount point.

    Each only if it was requested, before the rewrite.
    """
    found, path, finding = find_path(sent, mount)
    script, rest = sent.get("SCRIPT_NAME", ""), sent.get("PATH_INFO", "")
    if found + path not in (script + rest, sent.get("DOCUMENT_URI")):
        assert found + path in (rest, mount + rest)
        without_rewrite = {"PATH_INFO": found + path, "REQUEST_URI": sent["REQUEST_URI"]}
        # A mount point of the same name is found only if REQUEST_URI names the path.
        assert find_path({**without_rewrite, "SCRIPT_NAME": "/none"}, "")[:2] == ("", found + path)
    assert found in (mount, "")
    assert (finding is PathCorrection.OUTSIDE) <= (found == "")


# Addresses of which web servers may take different names away.
ASKED = st.lists(
    st.sampled_from(
        ["/", "/", "//", "..", "/..", "/.", "/app", "app", "/x", "%2F", "%2f", "%252F", "%2e", ".."]
    ),
    max_size=9,
).map(lambda parts: "/app" + "".join(parts))


def resolved(path: str, *, merges: bool) -> str:
    """What dot segments leave of a path."""
    found: list[str] = []
    *names, last = path.split("/")[1:]
    for name in names:
        if name == "..":
            del found[-1:]
        elif name != "." and not (merges and not name):
            found.append(name)
    if last == "..":
        del found[-1:]
    return "/" + "/".join([*found, "" if last in (".", "..") else last])


def nginx_reads(asked: str, *, merges: bool) -> str:
    return resolved(unquote(asked, "latin-1"), merges=merges)


def apache_keeps(asked: str, *, merges: bool) -> str:
    """With ``AllowEncodedSlashes NoDecode``."""
    kept = asked.replace("%2F", "%252F").replace("%2f", "%252f")
    return resolved(unquote(kept, "latin-1"), merges=merges)


def apache_decodes(asked: str, *, merges: bool) -> str:
    """With ``On``: dots are looked at before and after."""
    escaped = asked.replace("%2F", "\1").replace("%2f", "\1")
    found = resolved(unquote(escaped, "latin-1"), merges=merges)
    return resolved(found.replace("\1", "/"), merges=merges)


@settings(max_examples=200)
@given(
    ASKED,
    st.sampled_from([nginx_reads, apache_keeps, apache_decodes]),
    st.booleans(),
    st.sampled_from([None, "/app"]),
)
@example("/app/app%2Fq/../x", nginx_reads, True, None)
@example("/app/app//../x", nginx_reads, False, "/app")
@example("/app/x%2F..%2F../app", apache_keeps, True, None)
def test_nobody_asks_for_another_split(
    asked: str, reads: Callable[..., str], merges: bool, mount: str | None
) -> None:
    """Whatever the address can be taken for: the app is at /app, and gets all that follows."""
    path = reads(asked, merges=merges)
    assume(path.startswith("/app/"))
    rest = path.removeprefix("/app")
    assert find_path(params("any", "/app", rest, asked), mount)[:2] == ("/app", rest)
    # A script that may have been asked for is not dropped.
    assert find_path(params("any", "/app", rest, asked), "")[:2] == ("", path)
    escaped = quote(rest, "/;", "latin-1")
    if reads is apache_keeps:
        escaped = escaped.replace("%252F", "%2F").replace("%252f", "%2f")
    for file in (escaped, f"/{escaped}"):
        assert find_path(proxied(path, file), mount)[:2] == ("/app", rest)
    if reads is nginx_reads:
        # A rewrite has taken /app off; the mount point may be known to the server alone.
        assert find_path(nginx("/app", rest, rest, asked), mount)[:2] == ("/app", rest)
        assert find_path(nginx("", rest, rest, asked), mount)[1] == rest


@settings(max_examples=200)
@given(ANY, st.sampled_from([None, "", "/app"]))
def test_it_is_settled(sent: Params, mount: str | None) -> None:
    """The correction stays, even if REQUEST_URI alone disagrees."""
    script, path, _ = find_path(sent, mount)
    if script[:1] in ("", "/") and path[:1] in ("", "/") and script + path:
        settled = {"SCRIPT_NAME": script, "PATH_INFO": path, "REQUEST_URI": asked(script + path)}
        assert find_path(settled, mount) == (script, path, settled_finding(script, path, mount))
        assert not script.endswith("/")


def settled_finding(script: str, path: str, mount: str | None) -> PathCorrection:
    return RIGHT if mount is None or script == mount else OUTSIDE


@pytest.mark.parametrize("uri", ["/admin/../public", "/admin/%2e%2e/public", "/%61dmin/../public"])
def test_the_path_that_access_rules_saw(uri: str) -> None:
    """Requests for /public, each."""
    for sent in (
        nginx("/public", None, "/public", uri),
        nginx("/public", "/public", "/public", uri),
        nginx("", "/public", "/public", uri),
        params("lighttpd/1.4.69", "/public", None, uri),
        params("Apache", "/app.fcgi", "/public", uri),
    ):
        for mount in (None, "", "/admin", "/public"):
            script, path, _ = find_path(sent, mount)
            assert "admin" not in script + path


@pytest.mark.parametrize(
    ("given", "mount"),
    [("", ""), ("/", ""), ("/app", "/app"), ("/app/", "/app"), ("/é", "/\xc3\xa9")],
)
def test_a_mount_point_as_people_write_it(given: str, mount: str) -> None:
    assert mount_point(given) == mount
    assert Config(script_name=given).mount_point == mount


def test_a_mount_point_that_is_none() -> None:
    assert Config().mount_point is None
    with pytest.raises(UsageError, match=r"^script_name is 'app', but must be empty or begin"):
        Config(script_name="app")


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO"])
def test_the_environ(name: str) -> None:
    """It has the corrected values and passes the checks of PEP 3333; REQUEST_URI is unchanged."""
    seen: dict[str, object] = {}

    def app(environ: dict[str, object], start_response: Callable[..., object]) -> list[bytes]:
        seen.update(environ)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    raw = {"REQUEST_URI": "/a%2F/../b?c", "RAW_URI": "/a%2F/../b?c", "DOCUMENT_URI": "/b"}
    sent = {"SCRIPT_NAME": "/", "PATH_INFO": "/", name: "/b", "SERVER_SOFTWARE": "nginx/1"}
    assert run_validated(app, "GET", b"", **raw, **sent).status == "200 OK"
    expected = ("", "/b") if name == "PATH_INFO" else ("/b", "/")
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == expected
    assert {key: seen[key] for key in raw} == raw
