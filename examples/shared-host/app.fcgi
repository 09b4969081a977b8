#!/home/you/venv/bin/python
"""The script that a web host starts: with FastCGI if possible, otherwise with plain CGI.

Three things to change: the interpreter in the first line, which is that of your virtual
environment; the folder that your app is in; and the app. The file must be executable.
"""

import sys
from pathlib import Path

# The app is in the parent folder, because the web server publishes this folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hello import app

from vsgi_fcgi import Server

# If the host starts one process per simultaneous request, each needs few threads.
sys.exit(Server(app, threads=4).run())
