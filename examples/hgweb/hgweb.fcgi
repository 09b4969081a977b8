#!/home/you/venv/bin/python
"""Mercurial's own hgweb.fcgi, as its contrib folder has had it. One line of it has changed."""

# The repository, or a file that names several: in bytes.
config = b"/srv/hg/hgweb.config"

from mercurial import demandimport

demandimport.enable()

from mercurial.hgweb import hgweb

# Before: from flup.server.fcgi import WSGIServer
from vsgi_fcgi.flup.fcgi import WSGIServer

application = hgweb(config)
WSGIServer(application).run()
