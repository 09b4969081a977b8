#!/home/you/venv/bin/python
"""A script for flup. Only one line has changed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hello import app

# Before: from flup.server.fcgi import WSGIServer
from vsgi_fcgi.flup.fcgi import WSGIServer

if __name__ == "__main__":
    WSGIServer(app, maxThreads=8).run()
