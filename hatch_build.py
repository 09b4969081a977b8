"""Adds to the wheel what is made from the sources: the manual page."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPage(BuildHookInterface):  # type: ignore[type-arg]
    """Writes ``share/man/man1/vsgi-fcgi.1``, where `man` finds it beside the folder of commands."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the page before the wheel is built."""
        sys.path.insert(0, self.root)
        try:
            from vsgi_fcgi.cli.manual import manual
        finally:
            sys.path.remove(self.root)
        self._folder = tempfile.TemporaryDirectory()
        page = Path(self._folder.name) / "vsgi-fcgi.1"
        page.write_text(manual(), encoding="utf-8")
        build_data["shared_data"][str(page)] = "share/man/man1/vsgi-fcgi.1"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the page again, which is in the wheel by now."""
        self._folder.cleanup()
