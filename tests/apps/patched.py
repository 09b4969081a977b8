"""``published.py`` in a process that gevent has monkey-patched, so that Redis' client is, too."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from apps.published import app  # noqa: E402

__all__ = ["app"]
