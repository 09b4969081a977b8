"""Record what clients get behind Pushpin: ``python -m support.grip`` in the folder of the tests."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from support.grip.scenarios import run_all
from support.grip.site import RECORDED, PushpinSite
from support.processes import ProcessGroup

with tempfile.TemporaryDirectory() as folder, ProcessGroup(Path(folder)) as group:
    answers = run_all(PushpinSite(group))
    text = json.dumps(answers, indent=1, sort_keys=True, ensure_ascii=False)
    RECORDED.write_text(text + "\n")
