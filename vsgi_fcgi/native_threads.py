"""The functions of `_thread` for native threads, even if gevent has patched the module.

They are taken when this module is imported. Usually this is before an app can patch `_thread`.
gevent, which a CGI program does not need, is loaded only if it has patched already.
"""

from __future__ import annotations

import _thread
from types import BuiltinFunctionType
from typing import Any, Final


def _original(name: str) -> Any:
    found = getattr(_thread, name)
    if isinstance(found, BuiltinFunctionType):
        return found
    from gevent import monkey

    return monkey.get_original("_thread", name)


allocate_lock: Final[Any] = _original("allocate_lock")
get_ident: Final[Any] = _original("get_ident")
start_new_thread: Final[Any] = _original("start_new_thread")
