"""Test SCRIPT_NAME and PATH_INFO behind real web servers, for every way to mount an app."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.front_ends.servers import AppServer
from support.front_ends.sites import (
    APP,
    SETTINGS,
    ApacheSites,
    CaddySites,
    H2OSites,
    HAProxySites,
    LighttpdSites,
    NginxSites,
    Sites,
)
from support.processes import ProcessGroup

KINDS: dict[str, type[Sites]] = {
    "lighttpd": LighttpdSites,
    "nginx": NginxSites,
    "haproxy": HAProxySites,
    "apache": ApacheSites,
    "h2o": H2OSites,
    "caddy": CaddySites,
}

ROOT, MOUNT = "", "/app"

# Where each site has its app, as is found by default.
FOUND = {
    "lighttpd": {"root": ROOT, "mount": MOUNT},
    "nginx": {
        **dict.fromkeys(["alone", "own", "twice", "slash", "empty", "index"], ROOT),
        **dict.fromkeys(["mount", "mount-half", "mount-param", "mount-twice"], MOUNT),
        "mount-stripped": MOUNT,
    },
    "haproxy": {"root": ROOT, "root-slash": ROOT, "mount": MOUNT, "mount-slash": MOUNT},
    "apache": {
        **dict.fromkeys(["pass", "pass-generic", "pass-mount-whole", "fcgid"], ROOT),
        **dict.fromkeys(["pass-decoded", "fcgid-decoded"], ROOT),
        **dict.fromkeys(["pass-mount", "pass-mount-slash", "fcgid-mount", "handler-mount"], MOUNT),
    },
    "h2o": {"root": ROOT},
    "caddy": {"root": ROOT, "mount-path-said": MOUNT},
}

# Sites that do not send enough: the default result, and the correct one with --script-name.
UNKNOWN = {
    ("lighttpd", "unfixed"): (
        ROOT,
        {"/": ("", "/"), "/app": ("/app", ""), "/app/x": ("/app", "/x"), "/x/y": ("/x", "/y")},
    ),
    ("lighttpd", "mount-slash"): (
        MOUNT,
        {"/app/": ("/app", "/"), "/app/x": ("/app/x", ""), "/app/x/y": ("/app/x", "/y")},
    ),
    ("lighttpd", "script"): (ROOT, {"/": ("/app.fcgi", "/"), "/x/y": ("/app.fcgi", "/x/y")}),
    ("haproxy", "alone"): (
        ROOT,
        {"/": ("", "/"), "/app/": ("", "/app/"), "/app/x": ("/app/x", "")},
    ),
    ("apache", "handler"): (ROOT, {"/": ("", "/"), "/app/x": ("/app", "/x")}),
    ("apache", "script"): (ROOT, {"/": ("/app.fcgi", "/"), "/app/x": ("/app.fcgi", "/app/x")}),
    ("h2o", "mount"): (
        MOUNT,
        {"/app": ("", "/app"), "/app/": ("", "/app/"), "/app/x/y": ("", "/app/x/y")},
    ),
    ("h2o", "mount-slash"): (MOUNT, {"/app/": ("", "/app/"), "/app/x/y": ("", "/app/x/y")}),
    ("caddy", "mount"): (
        MOUNT,
        {"/app": ("", "/app"), "/app/": ("", "/app/"), "/app/x/y": ("", "/app/x/y")},
    ),
    ("caddy", "mount-route"): (MOUNT, {"/app": ("", "/app"), "/app/x/y": ("", "/app/x/y")}),
    ("caddy", "mount-path"): (MOUNT, {"/app/": ("", "/"), "/app/x/y": ("", "/x/y")}),
}

# What they make of an encoded slash and of two.
SLASHES = "/app/a%2Fb//c"
READ = {"lighttpd": "/app/a/b/c", "nginx": "/app/a/b/c", "haproxy": "/app/a/b//c"}
READ |= {"apache": "/app/a%2Fb/c", "h2o": "/app/a/b//c", "caddy": "/app/a/b//c"}

TARGETS = {
    "/": "/",
    "/app": "/app",
    "/app/": "/app/",
    "/app/x%20y/%C3%A9?a=/b": "/app/x y/\xc3\xa9",
    "/x/../app/%61": "/app/a",
    "/app/%2561": "/app/%61",
    "/appx": "/appx",
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, AppServer]]:
    with ExitStack() as stack:
        found = {}
        for setting, options in SETTINGS.items():
            group = stack.enter_context(ProcessGroup(tmp_path_factory.mktemp(setting)))
            found[setting] = AppServer(group, APP, "--threads", "2", *options)
        yield found


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def sites(
    kind: str, servers: dict[str, AppServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sites]:
    with ProcessGroup(tmp_path_factory.mktemp(kind)) as group:
        yield KINDS[kind](group, servers)


def targets(kind: str, site: str) -> dict[str, str]:
    """What to ask a site for, with the path that the web server then has."""
    found = TARGETS | {SLASHES: READ[kind]}
    if kind in ("haproxy", "caddy"):
        # They change nothing in a path except for the percent signs.
        found["/x/../app/%61"] = "/x/../app/a"
    if kind == "caddy" and "path" in site:
        # What takes the mount point off merges slashes, too.
        found[SLASHES] = "/app/a/b/c"
    if (kind, site) == ("apache", "script"):
        # A rewrite decodes again.
        del found["/app/%2561"]
    if kind == "apache" and site.endswith("decoded"):
        found[SLASHES] = "/app/a/b/c"
    if "mount" in site:
        found = {ask: path for ask, path in found.items() if path.startswith("/app/")}
    if site == "mount-slash" and kind == "haproxy":
        # Without a rest HAProxy leaves PATH_INFO out, and it looks like a whole path.
        del found["/app/"]
    return found


def split(path: str, mount: str) -> tuple[str, str]:
    if path == mount or path.startswith(mount + "/"):
        return mount, path.removeprefix(mount)
    return "", path


def test_each_site_is_asked(kind: str) -> None:
    asked = set(FOUND[kind]) | {site for owner, site in UNKNOWN if owner == kind}
    assert set(KINDS[kind].SITES) - asked <= {"rewritten"}


def test_by_default(sites: Sites, kind: str) -> None:
    for site, mount in FOUND[kind].items():
        for target, path in targets(kind, site).items():
            assert sites.path(site, "auto", target) == split(path, mount), (site, target)


@pytest.mark.parametrize(("setting", "mount"), [("root", ROOT), ("app", MOUNT)])
def test_with_the_mount_point_named(sites: Sites, kind: str, setting: str, mount: str) -> None:
    """It overrides the web server, and paths that are not below it are at the root."""
    unknown = {site for owner, site in UNKNOWN if owner == kind}
    for site in FOUND[kind].keys() | unknown:
        if site in ("mount-stripped", "mount-path") and setting == "root":
            # The web server has taken the mount point off.
            continue
        for target, path in targets(kind, site).items():
            assert sites.path(site, setting, target) == split(path, mount), (site, target)


def test_what_a_web_server_does_not_tell(sites: Sites, kind: str) -> None:
    """And so nothing is changed, but for what can never be right."""
    for (owner, site), (_, pairs) in UNKNOWN.items():
        if owner == kind:
            for target, expected in pairs.items():
                assert sites.path(site, "auto", target) == expected, (site, target)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_path_that_is_not_allowed(sites: Sites, kind: str, setting: str) -> None:
    """Rules about /admin hold for the path that the app gets, however it was asked for."""
    tricks = ["/admin", "/admin/x", "/public/../admin", "/%61dmin", "/public/%2e%2e/admin"]
    tricks += ["//admin", "/./admin/", "/public/..%2Fadmin", "/public//../admin?/public"]
    for site in sites.SITES:
        if (kind, site) == ("lighttpd", "script"):
            # Its rules are about the path that a rewrite has left: /app.fcgi/admin.
            continue
        for target in tricks:
            answer = sites.ask(site, setting, target)
            if answer.status == 200:
                found = answer.json()
                path = found["SCRIPT_NAME"] + found["PATH_INFO"]
                # Apache leaves an encoded slash alone, HAProxy dots and slashes, h2o two slashes.
                assert not path.startswith("/admin"), (site, target)
                left = kind == "haproxy" or (kind == "h2o" and "//" in target)
                assert "%2F" in path or left, (site, target)
            else:
                assert answer.status in (403, 404), (site, target)


def test_a_client_does_not_say_where_the_app_is(sites: Sites, kind: str) -> None:
    """Else it would get /app/x/admin as /admin, for which it has no access rule asked."""
    ends = ["/x%2F..%2F../admin", "/app%2Fq/../admin", "/%2F/admin", "/x/..%2Fy/../admin"]
    found = {site: mount for site, mount in FOUND[kind].items() if "index" not in site}
    for site, mount in found.items():
        for target in [before + end for end in ends for before in (MOUNT, MOUNT * 2)]:
            settings = ["auto"] if mount == ROOT else ["auto", "app"]
            for setting in settings:
                answer = sites.ask(site, setting, target)
                if answer.status == 200:
                    script = answer.json()["SCRIPT_NAME"]
                    assert script == mount, (site, setting, target)
                    if site == "mount-stripped" and target == "/app/app%2Fq/../admin":
                        assert answer.json()["PATH_INFO"] == "/app/admin"
                else:
                    assert answer.status in (400, 403, 404), (site, setting, target)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_path_that_is_allowed(sites: Sites, kind: str, setting: str) -> None:
    """It is not taken for the other one that is in its address."""
    tricks = [
        "/admin/../public",
        "/%61dmin/../public",
        "/admin/%2e%2e/public",
        "//admin//..//public",
    ]
    reached = 0
    for site in sites.SITES:
        # There, nginx's configuration says that everything is below /app.
        for target in () if "mount" in site else tricks:
            answer = sites.ask(site, setting, target)
            if answer.status == 200:
                found = answer.json()
                path = (found["SCRIPT_NAME"] + found["PATH_INFO"]).removeprefix("/app.fcgi")
                # HAProxy does not change dots and slashes, so they pass its rule; h2o leaves two
                # slashes. Caddy's rule is about a clean path, but what it sends is not.
                left = {"haproxy": target, "caddy": unquote(target)}
                if "//" in target:
                    left["h2o"] = "//admin//public"
                assert path == left.get(kind, "/public"), (site, target)
                assert found["REQUEST_URI"] == target
                reached += 1
    assert reached


def test_a_rewritten_path(servers: dict[str, AppServer], processes: ProcessGroup) -> None:
    """It is the one that nginx made of it, and not the one that was asked for."""
    nginx = NginxSites(processes, servers)
    for target in ("/old/x", "/%6fld/x", "/new/../old/x"):
        assert nginx.path("rewritten", "auto", target) == ("", "/new/x")
        assert nginx.path("rewritten", "root", target) == ("", "/new/x")
    for setting in ("auto", "app"):
        assert nginx.path("mount-stripped", setting, "/app/app/x") == ("/app", "/app/x")


# Addresses that are written to be misread.
ADDRESSES = st.lists(
    st.sampled_from(
        [
            *("/", "//", "/admin", "/public", "/app", "/..", "/.", "admin", "..", "old", "new"),
            *("%2F", "%2e", "%61dmin", "%2561", "%41", ";", "%3f", "%23", "?/admin", "%5c", "+"),
        ]
    ),
    max_size=7,
).map(lambda parts: "/" + "".join(parts))


def test_any_address(servers: dict[str, AppServer], processes: ProcessGroup) -> None:
    """The app's path is the one that nginx decoded, and applied its rules to."""
    nginx = NginxSites(processes, servers)
    names = [name for name in nginx.SITES if "mount" not in name]

    @settings(max_examples=200, deadline=None)
    @given(ADDRESSES, st.sampled_from(names), st.sampled_from(list(SETTINGS)))
    def ask(target: str, site: str, setting: str) -> None:
        answer = nginx.ask(site, setting, target)
        if answer.status == 200:
            found = answer.json()
            path = found["SCRIPT_NAME"] + found["PATH_INFO"]
            assert path == found["DOCUMENT_URI"]
            assert not path.startswith("/admin")
            assert found["REQUEST_URI"] == target
        else:
            assert answer.status in (400, 403)

    ask()
