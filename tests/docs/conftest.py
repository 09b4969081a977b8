from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import ProcessGroup


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ProcessGroup]:
    """What a test starts for itself."""
    with ProcessGroup(tmp_path) as group:
        yield group
