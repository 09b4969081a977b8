#!/home/you/venv/bin/python
"""Mercurial's own hgweb.fcgi, from its contrib folder, with two changed lines."""

# The repository, or a file that lists several, as bytes.
config = b"/srv/hg/hgweb.config"

# New: gevent cannot be imported lazily with Python 3.13.
import gevent
from mercurial import demandimport

demandimport.enable()

from mercurial.hgweb import hgweb

# Before: from flup.server.fcgi import WSGIServer
from vsgi_fcgi.flup.fcgi import WSGIServer

application = hgweb(config)
WSGIServer(application).run()
