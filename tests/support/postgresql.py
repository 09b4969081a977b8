"""A PostgreSQL server of a test, with Debian's package, in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.accounts import NOBODY, public_folder
from support.front_ends.servers import find
from support.processes import ProcessGroup, need_module


def _programs() -> Path:
    """Return the folder of PostgreSQL's programs, which Debian does not put on PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else Path(find("initdb")).resolve().parent


def _as_user(folder: Path) -> list[str]:
    """Return what precedes a command: PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(NOBODY)
    os.chown(folder, user.pw_uid, user.pw_gid)
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [find("setpriv"), *ids]


@contextlib.contextmanager
def postgresql(group: ProcessGroup) -> Iterator[str]:
    """Start a server; yield the connection string for it. It ends with the group."""
    need_module("psycopg")
    programs = _programs()
    with public_folder() as folder:
        user = _as_user(folder)
        data = folder / "data"
        options = ["--auth=trust", "--username=test", "--no-sync", "--no-locale", "--encoding=UTF8"]
        argv = [*user, str(programs / "initdb"), *options, str(data)]
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)
        argv = [*user, str(programs / "postgres"), "-D", str(data), "-k", str(folder)]
        # On a UNIX socket alone.
        argv += ["-c", "listen_addresses=", "-c", "fsync=off"]
        process = group.start(argv, name="postgresql", cwd=folder)
        process.wait_for_log("ready to accept connections")
        try:
            yield f"host={folder} user=test dbname=postgres"
        finally:
            process.stop(signal.SIGINT)  # without waiting for connections
