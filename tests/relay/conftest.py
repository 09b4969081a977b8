from __future__ import annotations

import gevent
import pytest


@pytest.fixture(scope="session", autouse=True)
def _hub() -> None:
    """The descriptors of the loop are there before any test counts its own."""
    gevent.sleep(0)
