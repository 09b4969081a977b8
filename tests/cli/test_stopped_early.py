"""A signal at any moment of the start: the command stops, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
"""Serve again and again, and raise SIGTERM each time at another line of some functions."""

import json, os, signal, sys, traceback
import vsgi_fcgi.cli.commands.serve, vsgi_fcgi.server.server  # not again in each child

FUNCTIONS = ("listen_unix", "PidFile.acquire", "Signals.install")


def serve(number):
    """Raise the signal at the line with this number in the order of their execution.

    Returns:
        The exit status, and whether there was such a line.
    """
    seen, done = set(), False

    def trace(frame, event, arg):
        nonlocal done
        code = frame.f_code
        if event == "call":
            return trace if code.co_qualname in FUNCTIONS else None
        line = code.co_filename, frame.f_lineno
        if event == "line" and line not in seen and not done:
            seen.add(line)
            if len(seen) > number:
                done = True
                signal.raise_signal(signal.SIGTERM)
        if event == "return" and code.co_qualname == "Signals.install" and not done:
            signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    argv = ["--socket", "app.sock", "--pid-file", "app.pid", "vsgi_fcgi.demo:app"]
    return vsgi_fcgi.cli.main(argv), done


def in_child(number):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.dup2(os.open("log", os.O_RDWR | os.O_CREAT | os.O_TRUNC), 2)
    try:
        status, found = serve(number)
    except BaseException:
        traceback.print_exc()
        status, found = 1, True
    os._exit(status if found else 99)


number = 0
while (status := in_child(number)) != 99:
    left = [name for name in ("app.sock", "app.pid") if os.path.exists(name)]
    print(json.dumps([status, left, open("log").read()]))
    for name in left:
        os.unlink(name)
    number += 1
'''


@pytest.mark.process
def test_a_signal_at_any_line_leaves_nothing_behind(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, timeout=50, check=False
    )
    assert run.returncode == 0, run.stderr
    ends = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(ends) > 30
    for status, left, log in ends:
        assert (status, left) == (0, []), log
        assert log.rstrip().endswith(
            ("INFO SIGTERM: stopped before the server ran", "INFO stopped")
        )
