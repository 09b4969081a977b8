"""``--version``: the versions of all that takes part."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from vsgi_fcgi import __version__


def versions() -> str:
    """One line: ours, and those of Python, gevent and werkzeug."""
    parts = [f"Python {platform.python_version()}"]
    for name in ("gevent", "werkzeug"):
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"no {name}")
    return f"vsgi-fcgi {__version__} ({', '.join(parts)})"
