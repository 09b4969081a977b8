"""flup's names for this server: write ``vsgi_fcgi.flup`` where a script has ``flup.server``.

::

    from vsgi_fcgi.flup.fcgi import WSGIServer

    WSGIServer(app, bindAddress="/run/app.sock", umask=0).run()

What a script asks for and does not get is a warning that says so.
"""

from __future__ import annotations

from vsgi_fcgi.flup.fcgi import WSGIServer
from vsgi_fcgi.flup.script import FCGI_AUTHORIZER, FCGI_FILTER, FCGI_RESPONDER

__all__ = ["FCGI_AUTHORIZER", "FCGI_FILTER", "FCGI_RESPONDER", "WSGIServer"]
