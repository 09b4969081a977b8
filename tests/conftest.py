from __future__ import annotations

import os

# Before anything of vsgi_fcgi is imported: who calls what from which context is checked in all
# tests, and in the processes that they start.
os.environ["VSGI_FCGI_CHECK_CONTRACT"] = "1"
