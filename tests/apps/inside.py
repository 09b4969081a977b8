"""An app that shows what its process has, and what a child process inherits from it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from typing import Any

LIST = 'for fd in /proc/$$/fd/*; do if [ -e "$fd" ]; then echo "${fd##*/}"; fi; done'
"""A shell command that prints its descriptors, without that for the folder, which is closed."""


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    if environ["PATH_INFO"] == "/child":
        # Without `close_fds`, as a library in C starts programs.
        done = subprocess.run(["sh", "-c", LIST], close_fds=False, capture_output=True, check=True)
        found: Any = done.stdout.decode().splitlines()
    else:
        params = {name: value for name, value in environ.items() if isinstance(value, str)}
        found = {"params": params, "process": dict(os.environ)}
    return [json.dumps(found).encode()]
