"""Test access rules for ``/admin`` next to a printed configuration, for all spellings."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from support.front_ends.printed import PROGRAMS, Printed
from support.front_ends.servers import EXAMPLES
from support.http import request
from support.processes import ProcessGroup

MOUNT = "/app"

# What docs/howto/paths.md says, with /app before /admin: where in the text, and what.
Rule = list[tuple[str, str]]
RULES: dict[str, Rule] = {
    "lighttpd": [
        (r'(?<=server.modules = \( )(?="mod_fastcgi")', '"mod_access", '),
        (r"\Z", '$HTTP["url"] =~ "^/app/admin(/|$)" { url.access-deny = ( "" ) }\n'),
    ],
    "nginx": [(r"(?=    location ~)", 'location ~ "^/+app/+admin(/|$)" { deny all; }\n')],
    "apache": [
        ("(?=</VirtualHost>)", '<Location "/app/admin">\nRequire all denied\n</Location>\n')
    ],
    "haproxy": [
        (
            "(?=    default_backend)",
            "    http-request deny if { path,url_dec -m reg '/[.][.]?(/|$)' }\n"
            "    http-request deny if { path,url_dec -m reg '^/+app/+admin(/|$)' }\n",
        )
    ],
    "caddy": [
        (r"(?=\t@)", "@admin path /app/admin /app/admin/*\nhandle @admin {\nrespond 403\n}\n")
    ],
    "h2o": [
        (
            '(?=      "/app":)',
            '      "/app/admin":\n        mruby.handler: "Proc.new { [403, {}, []] }"\n',
        ),
        (
            "(?=        fastcgi.connect)",
            "        mruby.handler: |\n"
            "          Proc.new do |env|\n"
            '            path = env["SCRIPT_NAME"] + env["PATH_INFO"]\n'
            "            %r{(/|%2f){2}}i =~ path ? [403, {}, []] : [399, {}, []]\n"
            "          end\n",
        ),
    ],
}

# Rules that look right, and are not asked for a path.
TRAPS: dict[str, tuple[str, Rule, str]] = {
    "lighttpd-order": (
        "lighttpd",
        [(r"\Z", 'server.modules += ( "mod_access" )\n'), RULES["lighttpd"][1]],
        "/admin",
    ),
    "nginx-regular": (
        "nginx",
        [(RULES["nginx"][0][0], "location /app/admin { deny all; }\n")],
        "/admin",
    ),
    "nginx-slashes": (
        "nginx",
        [(RULES["nginx"][0][0], "location ^~ /app/admin { deny all; }\n")],
        "//admin",
    ),
    "apache-slashes": (
        "apache",
        [
            (
                RULES["apache"][0][0],
                '<LocationMatch "^/app/admin">\nRequire all denied\n</LocationMatch>\n',
            )
        ],
        "//admin",
    ),
    "haproxy-encoded": (
        "haproxy",
        [(RULES["haproxy"][0][0], "    http-request deny if { path -m beg /app/admin }\n")],
        "/%61dmin",
    ),
    "haproxy-slashes": (
        "haproxy",
        [
            (
                RULES["haproxy"][0][0],
                "    http-request deny if { path,url_dec -m beg /app/admin }\n",
            )
        ],
        "//admin",
    ),
    "caddy-order": ("caddy", [(RULES["caddy"][0][0], "respond /app/admin* 403\n")], "/admin"),
    "h2o-slashes": ("h2o", RULES["h2o"][:1], "//admin"),
}

TRICKS = [
    *("/admin", "/admin/", "/admin/x", "//admin", "///admin//", "/./admin", "/x/../admin"),
    *("/%61dmin", "/%2e/admin", "/x/%2e%2e/admin", "/x/.%2e/admin", "%2Fadmin", "/%2Fadmin"),
    *("/x/..%2fadmin", "/x%2F..%2F../admin", "/x%2F../admin", "/app%2Fq/../admin", "//../admin"),
    *("//../app/admin", "/../app//admin", "/../app/./admin", "/..//app/admin", "/admin%2Fx"),
    *("/.//admin", "/x//..//admin", "/admin?/public", "/x/..//..//app/admin", "/;/../admin"),
]


def _with(rule: Rule) -> Callable[[str], str]:
    def change(text: str) -> str:
        for anchor, lines in rule:
            text, count = re.subn(anchor, lines.replace("\\", "\\\\"), text, count=1)
            assert count == 1, anchor
        return text

    return change


def _reached(web: Printed, target: str) -> bool:
    """Whether the app gets what it may take for /admin."""
    answer = request(web.port, target)
    if answer.status != 200:
        assert answer.status in (400, 403, 404), target
        return False
    path = re.sub("/+", "/", answer.json()["PATH_INFO"])
    return path == "/admin" or path.startswith("/admin/")


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_forbidden(program: str, processes: ProcessGroup) -> None:
    web = Printed(processes, program, "--script-name", MOUNT, change=_with(RULES[program]))
    assert request(web.port, f"{MOUNT}/administer").json()["PATH_INFO"] == "/administer"
    for trick in TRICKS:
        for before in (MOUNT, f"/{MOUNT}", "/%61pp", f"http://127.0.0.1:{web.port}{MOUNT}"):
            assert not _reached(web, before + trick), before + trick


def test_the_rules_are_those_of_the_manual() -> None:
    """Line by line, as a reader copies them."""
    manual = (EXAMPLES.parent / "docs" / "howto" / "paths.md").read_text().replace("\\|", "|")
    lines = [
        line.strip()
        for rule in RULES.values()
        for _, text in rule
        for line in text.splitlines()
        if "admin" in line or "path" in line
    ]
    assert len(lines) == 10
    for line in lines:
        assert line in manual


@pytest.mark.parametrize(("program", "rule", "trick"), TRAPS.values(), ids=TRAPS)
def test_what_is_not_asked(program: str, rule: Rule, trick: str, processes: ProcessGroup) -> None:
    web = Printed(processes, program, "--script-name", MOUNT, change=_with(rule))
    assert _reached(web, MOUNT + trick)
