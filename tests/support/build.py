"""Which of the two builds of the package is tested, and whether calls are traced."""

from __future__ import annotations

import sys

import pytest

from vsgi_fcgi.build import COMPILED

replaces_functions = pytest.mark.skipif(
    COMPILED, reason="the functions of compiled modules cannot be replaced"
)

traces_calls = pytest.mark.skipif(
    COMPILED, reason="calls of compiled functions are not reported to a profiler"
)

# With a trace function, as coverage has one, an asynchronous exception that waits for a blocked
# thread makes all other threads of CPython 3.11 spin.
untraced = pytest.mark.skipif(
    sys.gettrace() is not None and sys.version_info < (3, 12),
    reason="CPython 3.11 hangs at asynchronous exceptions while it is traced",
)
