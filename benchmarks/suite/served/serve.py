"""Start the servers that have no command line: ``serve.py SERVER MODULE SOCKET``.

Each has the form of its documentation.
"""

from __future__ import annotations

import os
import socket
import sys
from importlib import import_module
from typing import Any


def app_of(name: str) -> Any:
    """Import the module of an app."""
    return import_module(name).application


def flup(app: str, path: str, *, multiplexed: bool = False) -> None:
    """Serve with flup, with as many spare threads as connections can come at once."""
    # flup starts a thread for each connection. If connections arrive faster than a spare thread
    # takes them, they wait until another connection is closed. With its default of one spare
    # thread, kept connections therefore wait forever.
    WSGIServer = import_module("flup.server.fcgi").WSGIServer
    WSGIServer(
        app_of(app), bindAddress=path, multiplexed=multiplexed, minSpare=64, maxSpare=128
    ).run()


def flup_multiplexed(app: str, path: str) -> None:
    """Serve with flup, several requests on a connection at once."""
    flup(app, path, multiplexed=True)


def flipflop(app: str, path: str) -> None:
    """Serve with flipflop, which takes its socket from descriptor 0, as from spawn-fcgi."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(1024)
    os.dup2(sock.fileno(), 0)
    import_module("flipflop").WSGIServer(app_of(app)).run()


def gevent(app: str, path: str) -> None:
    """Serve with gevent.pywsgi; the standard library waits cooperatively."""
    import_module("gevent.monkey").patch_all()
    sock = import_module("gevent.socket").socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(1024)
    import_module("gevent.pywsgi").WSGIServer(sock, app_of(app), log=None).serve_forever()


def bjoern(app: str, path: str) -> None:
    """Serve with bjoern."""
    import_module("bjoern").run(app_of(app), f"unix:{path}")


if __name__ == "__main__":
    servers = (flup, flup_multiplexed, flipflop, gevent, bjoern)
    {server.__name__: server for server in servers}[sys.argv[1]](*sys.argv[2:])
