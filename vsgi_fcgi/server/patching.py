"""Native threads in a process that gevent has monkey-patched."""

from __future__ import annotations

import sys

from vsgi_fcgi.exceptions import UsageError


def check_patching(worker: str) -> None:
    """Refuse native worker threads once the app has monkey-patched what they stand on.

    Their locks would then switch greenlets in the thread of the main context: it has been seen
    to freeze, and requests to hang.

    Args:
        worker: the kind of worker, as in `Config`.

    Raises:
        UsageError: threading is patched and the workers are threads.
    """
    monkey = sys.modules.get("gevent.monkey")
    if worker != "thread" or monkey is None:
        return
    if any(monkey.is_module_patched(name) for name in ("threading", "_thread")):
        raise UsageError(
            "the app has monkey-patched threading, on which worker threads hang;"
            " remove monkey.patch_all() or use --worker main"
        )
