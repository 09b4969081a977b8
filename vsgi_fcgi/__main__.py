"""``python -m vsgi_fcgi``, which is the command ``vsgi-fcgi``."""

from __future__ import annotations

import sys

from vsgi_fcgi.cli import main

if __name__ == "__main__":
    sys.exit(main())
