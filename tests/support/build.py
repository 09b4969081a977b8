"""Which of the two builds of the package is tested."""

from __future__ import annotations

import pytest

from vsgi_fcgi.build import COMPILED

replaces_functions = pytest.mark.skipif(
    COMPILED, reason="the functions of compiled modules cannot be replaced"
)

traces_calls = pytest.mark.skipif(
    COMPILED, reason="calls of compiled functions are not reported to a profiler"
)
