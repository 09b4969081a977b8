"""Test the remedies in docs/topics/web-servers.md: with them, the cases are correct."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.front_ends import servers as frontends
from support.front_ends.hosts import replaced
from support.matrix.answers import HEADERS_OUT
from support.matrix.matrix import Case, check
from support.matrix.requests import HEADERS, PATHS, QUERIES
from support.matrix.servers import ROWS
from support.processes import ProcessGroup

CASES = {case.name: case for case in (*PATHS, *QUERIES, *HEADERS, *HEADERS_OUT)}

REMEDIES = {
    "lighttpd": (
        "lighttpd.conf",
        {
            "server.bind": 'server.http-parseopts = ( "url-invalid-utf8-reject" => "disable" )\n'
            'server.range-requests = "disable"\nserver.bind'
        },
        ["invalid UTF-8", "invalid UTF-8 in the query", "Range", "Range of an answer"],
    ),
    "HAProxy": (
        "haproxy.cfg",
        {
            "\nglobal\n": "\nglobal\n    expose-experimental-directives\n",
            "\ndefaults\n": "\ndefaults\n    option accept-invalid-http-request\n",
            "frontend web\n": "frontend web\n"
            "    http-request normalize-uri percent-decode-unreserved\n"
            "    http-request normalize-uri path-strip-dotdot\n",
        },
        ["UTF-8 as it is", "UTF-8 as it is in the query", "..", "%2e%2e"],
    ),
    "Caddy": (
        "Caddyfile",
        {"\t\ttransport fastcgi": "\t\theader_up -X_Real\n\t\ttransport fastcgi"},
        ["_ in a name", "_ alone in a name"],
    ),
}
"""By web server: its example, the replacements in it, and the cases that are then correct."""


@pytest.mark.parametrize("name", REMEDIES)
def test_what_helps(
    name: str, tmp_path: Path, processes: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, changes, names = REMEDIES[name]
    examples = tmp_path / "examples"
    examples.mkdir()
    shutil.copy(frontends.EXAMPLES / file, examples)
    text = (examples / file).read_text()
    for old, new in changes.items():
        text = replaced(text, old, new)
    (examples / file).write_text(text)
    monkeypatch.setattr(frontends, "EXAMPLES", examples)
    web = ROWS[name][""](processes)
    check(web.port, "", [(case(name), case(name).expect) for name in names])


def case(name: str) -> Case:
    """A case; of a path that the web server has made another, REQUEST_URI may be that one."""
    found = CASES[name]
    if name in ("..", "%2e%2e"):
        expect = {key: value for key, value in found.expect.items() if key != "REQUEST_URI"}
        return Case(name, found.ask, expect)
    return found
