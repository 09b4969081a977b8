"""Whether the hot modules of this installation are compiled; this module is one of them."""

from __future__ import annotations

from typing import Final

COMPILED: Final = not __file__.endswith((".py", ".pyc"))
"""Whether mypyc has compiled the modules that ``compiled`` in pyproject.toml lists."""

BUILD: Final = "compiled" if COMPILED else "pure Python"
"""The same in words, for the log and for ``--version``."""
