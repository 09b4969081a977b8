"""A project that ``django-admin startproject`` has made, with ``vsgi_fcgi.django``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from support.processes import ProcessGroup

_VIEWS = """\
import os
import threading

from django.http import JsonResponse
from django.urls import path, reverse

SAYS = "hello"


def show(request, rest=""):
    mask = os.umask(0)
    os.umask(mask)
    return JsonResponse({
        "says": SAYS,
        "path": request.path,
        "url": reverse("show"),
        "user": request.META.get("REMOTE_USER"),
        "folder": os.getcwd(),
        "umask": mask,
        "multithread": request.META["wsgi.multithread"],
    })


urlpatterns = [path("show", show, name="show"), path("show/<path:rest>", show)]
"""


@cache
def _started() -> dict[str, str]:
    """The files that ``startproject`` makes, by their paths in the project."""
    with tempfile.TemporaryDirectory(prefix="vsgi-fcgi-test-") as folder:
        argv = [sys.executable, "-m", "django", "startproject", "mysite", folder]
        subprocess.run(argv, check=True, timeout=30)
        files = Path(folder).rglob("*.py")
        return {str(file.relative_to(folder)): file.read_text() for file in files}


class DjangoProject:
    """A project in a folder of the test.

    Attributes:
        folder: where manage.py is.

    Args:
        group: what runs it.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.folder = group.folder / "project"
        for name, text in _started().items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.views = self.folder / "mysite" / "urls.py"
        self.views.write_text(_VIEWS)
        self.settings = self.folder / "mysite" / "settings.py"
        self.add("INSTALLED_APPS += ['vsgi_fcgi.django']\nALLOWED_HOSTS = ['*']\n")

    def add(self, lines: str) -> None:
        """Add lines to the settings."""
        with self.settings.open("a") as file:
            file.write(lines)

    def manage(self, *arguments: str) -> list[str]:
        """The command line of ``manage.py``."""
        return [sys.executable, "-W", "error", str(self.folder / "manage.py"), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``manage.py`` to its end, in another folder."""
        return subprocess.run(
            self.manage(*arguments),
            cwd=self.group.folder,
            env=self.group.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    def script(self, *arguments: str) -> Path:
        """A script for a web server to start."""
        script = self.group.folder / "manage.fcgi"
        words = " ".join(f"'{word}'" for word in self.manage(*arguments))
        script.write_text(f"#!/bin/sh\nexec {words}\n")
        script.chmod(0o755)
        return script
