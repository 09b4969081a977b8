"""Tests that change the user: only root can run them, and other users read the files."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import vsgi_fcgi

ROOT = str(Path(vsgi_fcgi.__file__).parents[1])

NOBODY = "nobody"
WEB = "www-data"
"""The user, and the group, that Debian's web servers run as."""

_PACKAGES = ("vsgi_fcgi", "gevent", "greenlet", "zope", "setproctitle")
"""What the server imports."""


def need_root() -> None:
    """Skip the test, visibly, where it cannot become another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for name in (NOBODY, WEB):
        try:
            pwd.getpwnam(name)
        except KeyError:
            pytest.skip(f"there is no user {name} here")


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that all users may read; those of pytest are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="vsgi-fcgi-test-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class PublicPython:
    """A Python that all users may run, and a copy of the server that they may import.

    Attributes:
        executable: its path.
        environ: the environment variables that it needs.
    """

    executable: str
    environ: dict[str, str]

    def works(self) -> bool:
        try:
            run = subprocess.run(
                [self.executable, "-c", "import vsgi_fcgi.server.server, setproctitle"],
                cwd="/",
                env={**os.environ, **self.environ},
                user=NOBODY,
                check=False,
                capture_output=True,
                timeout=30,
            )
        except PermissionError:
            return False
        return run.returncode == 0


@contextlib.contextmanager
def public_python() -> Iterator[PublicPython]:
    """Our own Python, or the system's where ours is in a home folder; else the test is skipped.

    Who is not root cannot become one of those users, and gets the Python that runs the tests.
    """
    if os.geteuid() != 0:
        path = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        yield PublicPython(sys.executable, {"PYTHONPATH": os.pathsep.join(path)})
        return
    with public_folder() as folder:
        for package in _PACKAGES:
            spec = importlib.util.find_spec(package)
            assert spec is not None
            for place in spec.submodule_search_locations or ():
                # With its bytecode: a user who may not write it would compile all in each process.
                shutil.copytree(
                    place,
                    folder / package,
                    ignore=shutil.ignore_patterns("tests"),
                    dirs_exist_ok=True,
                )
        # What the compiled modules have in common.
        for library in Path(ROOT).glob("vsgi_fcgi__mypyc*"):
            shutil.copy(library, folder)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        for executable in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
            python = PublicPython(executable, {"PYTHONPATH": str(folder)})
            if os.path.exists(executable) and python.works():
                yield python
                return
        pytest.skip("there is no Python here that another user may run")
