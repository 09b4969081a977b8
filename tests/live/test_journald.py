"""Test the log in a real systemd-journald, read with journalctl.

The journal runs in namespaces that end with the test. There it has the place of the machine's
journal, which gets no records.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_UNSHARE = (
    *("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"),
    "--mount-proc",
)
_JOURNALD = next(
    (
        path
        for path in ("/lib/systemd/systemd-journald", "/usr/lib/systemd/systemd-journald")
        if os.path.exists(path)
    ),
    "",
)

APP = """
def app(environ, start_response):
    environ["wsgi.errors"].write("written\\nby the app\\n")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""

SCRIPT = """
set -eu
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/systemd/journal
"$JOURNALD" test &
until [ -S /run/systemd/journal.test/socket ]; do sleep 0.02; done
mount --bind /run/systemd/journal.test /run/systemd/journal
"$PYTHON" -c "$DRIVER" >&2
journalctl --namespace=test --sync
SYSTEMD_COLORS=0 journalctl --namespace=test --output=json -t my-app -t vsgi-fcgi
"""

DRIVER = """
from pathlib import Path
from support.commands import serve
output = serve(Path(), "app", "--log-writer", "journald")
assert (output.status, output.out, output.err) == (0, "", ""), output
output = serve(
    *(Path(), "app", "--log-writer", "journald", "--proc-name", "my-app"),
    *("--log-format", "%(levelname)s: %(message)s"),
)
assert (output.status, output.out, output.err) == (0, "", ""), output
"""


def _why_not() -> str:
    if not _JOURNALD or shutil.which("journalctl") is None:
        return "systemd-journald is not installed"
    if shutil.which("unshare") is None or subprocess.run([*_UNSHARE, "true"]).returncode:
        return "no namespaces of our own can be made here"
    return ""


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    if reason := _why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("journal")
    (folder / "app.py").write_text(APP)
    tests = Path(__file__).parents[1]
    run = subprocess.run(
        [*_UNSHARE, "sh", "-c", SCRIPT],
        cwd=folder,
        env={
            **os.environ,
            **{"PYTHON": sys.executable, "DRIVER": DRIVER, "JOURNALD": _JOURNALD},
            "PYTHONPATH": str(tests),
        },
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def by(entries: list[dict[str, str]], identifier: str) -> list[dict[str, str]]:
    return [entry for entry in entries if entry["SYSLOG_IDENTIFIER"] == identifier]


def test_messages_and_priorities(entries: list[dict[str, str]]) -> None:
    first, listening, *middle, last = [
        (entry["PRIORITY"], entry["MESSAGE"]) for entry in by(entries, "vsgi-fcgi")
    ]
    assert first[0] == listening[0] == "6"
    assert first[1].startswith("vsgi_fcgi ")
    assert listening[1].startswith("listening on fcgi+unix://")
    assert ("3", "written\nby the app") in middle
    assert last == ("6", "stopped")


def test_where_an_entry_was_made(entries: list[dict[str, str]]) -> None:
    said = {entry["MESSAGE"]: entry for entry in by(entries, "vsgi-fcgi")}
    entry = said["written\nby the app"]
    assert entry["LOGGER"] == "vsgi_fcgi.app"
    assert entry["THREAD_NAME"].startswith("vsgi-fcgi-")
    assert said["stopped"]["CODE_FILE"].endswith("/server.py")
    # The journal names the function that has logged.
    assert said["stopped"]["CODE_FUNC"] == "_serve"
    assert int(said["stopped"]["CODE_LINE"]) > 1
    assert len({entry["_PID"] for entry in said.values()}) == 1


def test_a_name_and_a_format_of_its_own(entries: list[dict[str, str]]) -> None:
    messages = [entry["MESSAGE"] for entry in by(entries, "my-app")]
    assert "ERROR: written\nby the app" in messages
    assert messages[-1] == "INFO: stopped"
