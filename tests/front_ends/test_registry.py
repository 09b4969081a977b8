"""Test that one file describes a web server for the server, the doctor and ``config``."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.front_ends.base import UNKNOWN, FrontEnd
from vsgi_fcgi.front_ends.registry import ALL, PROGRAMS, find_front_end
from vsgi_fcgi.front_ends.site import Place, Site

MADE_UP = '''
"""Parrot, a made-up web server."""

from vsgi_fcgi.front_ends.base import (
    FrontEnd, Notes, PathCorrection, Printed, Quirks, Remedy,
)
from vsgi_fcgi.front_ends.site import File, fill, steps

_KEEP = "perch 3;"


def files(site):
    heading = site.heading("Parrot", "1.0", steps("As /etc/parrot.conf, then", "parrot reload"))
    text = fill("{{heading}}\\n{{keep}}\\n{{line}}\\n", heading=heading, keep=_KEEP,
                line=PARROT.lines("to {{server}} at {{root}};", site))
    return [File("/etc/parrot.conf", text)]


PARROT = FrontEnd(
    key="parrot",
    name="Parrot",
    software="parrot",
    keeps=True,
    multiplexes=False,
    quirks=lambda version: Quirks(repeats_headers=version < (2,), crashes_on_stderr=True),
    split_path=lambda script, params: ("", script, PathCorrection.WHOLE),
    remedies={"path": Remedy("Parrot, at the perch", "say path;"),
              "keep": Remedy("Parrot, at the perch", _KEEP)},
    notes=Notes(body_not_sent=" Parrot forgets it."),
    printed=Printed(program="parrot", aliases=("polly",), title="Parrot", tested="1.0",
                    files=files, group="birds"),
)

FRONT_ENDS = (PARROT,)
'''

LOOK = """
import contextlib, io, json, sys
import vsgi_fcgi.front_ends
vsgi_fcgi.front_ends.__path__.append(sys.argv[1])

from support.wire import case_of
from vsgi_fcgi.cli import main
from vsgi_fcgi.doctor.diagnosis import diagnose
from vsgi_fcgi.front_ends.registry import crashes_on_stderr
from vsgi_fcgi.wsgi.environ import base_environ, make_environ

def run(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["config", *words])
    return status, out.getvalue(), err.getvalue()

params = {
    "REQUEST_METHOD": "POST", "SCRIPT_NAME": "/a/b", "REQUEST_URI": "/a/b", "CONTENT_LENGTH": "5",
    "SERVER_SOFTWARE": "Parrot/1.3", "HTTP_X": "1",
}
base = base_environ(multithread=True)
environ = make_environ(dict(params), [("HTTP_X", "2")], base, None, 0, None)
case = case_of(params)
json.dump({
    "printed": run("parrot", "mysite.wsgi", "--script-name", "/shop"),
    "refused": run("polly", "mysite.wsgi"),
    "crashes": [crashes_on_stderr(name) for name in ("Parrot/1.3", "Sparrow/1.3")],
    "environ": [environ[name] for name in ("HTTP_X", "SCRIPT_NAME", "PATH_INFO")],
    "front": case.front.front_end.name,
    "findings": {
        item.code: [item.matters, *(remedy.lines for remedy in item.remedies)]
        for item in diagnose(case)
    },
}, sys.stdout)
"""


@pytest.mark.process
def test_a_web_server_is_added_by_one_file(tmp_path: Path) -> None:
    """To the configurations, to the doctor and to the quirks."""
    (tmp_path / "parrot.py").write_text(MADE_UP)
    argv = [sys.executable, "-c", LOOK, str(tmp_path)]
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    status, text, _ = seen["printed"]
    assert status == 0
    assert text.startswith("# Parrot in front of mysite.wsgi, written by vsgi-fcgi config.")
    assert "--bind unix:/run/mysite.sock --socket-group birds" in text
    assert text.endswith("perch 3;\nto /run/mysite.sock at /shop;\n")
    assert "did you mean parrot?" in seen["refused"][2]
    assert seen["crashes"] == [True, False]
    assert seen["environ"] == ["1, 2", "", "/a/b"]
    assert seen["front"] == "Parrot"
    assert "Parrot forgets it." in seen["findings"]["body-not-sent"][0]
    assert seen["findings"]["path-whole"][1] == "say path;"
    assert seen["findings"]["connection-each"][1] == "perch 3;"


@pytest.mark.parametrize("front_end", ALL, ids=lambda item: item.key)
def test_each_web_server_is_found_by_what_it_says(front_end: FrontEnd) -> None:
    address = "/var/lib/apache2/fcgid/sock/123.4" if front_end.owns_socket else "/run/app.sock"
    assert find_front_end(f"{front_end.software.title()}/1.2", address) is front_end
    assert find_front_end(f"not {front_end.software}/1.2") is UNKNOWN


@pytest.mark.parametrize("mount", ["", "/a.b"])
@pytest.mark.parametrize("front_end", [item for item in ALL if item.printed], ids=lambda i: i.key)
def test_the_doctor_says_what_is_printed(front_end: FrontEnd, mount: str) -> None:
    """Of what both know; what the printed lines have in a comment is an alternative."""
    assert front_end.printed is not None
    address = UnixAddress("/run/app.sock")
    site = Site(name="app", app="app", command=("vsgi-fcgi",), address=address, mount=mount)
    text = "".join(file.text for file in front_end.printed.files(site))
    printed = {line.strip(" \t#") for line in text.splitlines()}
    place = Place(name="app", address=address, mount=mount)
    for subject in ("path-mount" if mount else "path", "keep", "stream", "multiplexing", "alone"):
        remedy = front_end.remedies.get(subject)
        lines = front_end.lines(remedy.lines, place).splitlines() if remedy else []
        # Debian's file has the params that are printed one by one.
        own = {"include fastcgi_params;", "fastcgi_pass unix:/run/app.sock;"}
        assert {line.strip(" #") for line in lines} - own <= printed, textwrap.indent(text, "  ")


def test_each_program_is_printed_by_one_web_server() -> None:
    assert len(PROGRAMS) == sum(item.printed is not None for item in ALL)
    assert len({item.key for item in ALL}) == len(ALL)
