#!/home/you/venv/bin/python
"""The script that a web host starts: as FastCGI where it can, as plain CGI anywhere else.

Three things to change: the interpreter in the first line, which is that of your virtual
environment; the folder that your app is in; and the app. The file must be executable.
"""

import sys
from pathlib import Path

# The folder above: what is in this one, the web server may hand out.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hello import app

from vsgi_fcgi import Server

# A host that starts a process for each request at a time needs few threads in each.
sys.exit(Server(app, threads=4).run())
