"""Servers with the interface of flup: replace ``flup.server`` with ``vsgi_fcgi.flup``.

::

    from vsgi_fcgi.flup.fcgi import WSGIServer

    WSGIServer(app, bindAddress="/run/app.sock", umask=0).run()

Arguments that have no effect cause a warning.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from vsgi_fcgi.flup.fcgi import WSGIServer
from vsgi_fcgi.flup.script import FCGI_AUTHORIZER, FCGI_FILTER, FCGI_RESPONDER

__all__ = ["FCGI_AUTHORIZER", "FCGI_FILTER", "FCGI_RESPONDER", "WSGIServer"]

# Imports of flup modules that have no replacement fail with advice.

_SERVERS: Final = "vsgi_fcgi.flup has WSGIServer in fcgi, fcgi_single and fcgi_fork"
_UNSUPPORTED: Final = (
    "vsgi_fcgi does not support {}; use vsgi_fcgi.flup.fcgi, and let the web server use FastCGI"
    " with the same address"
)
_SCGI: Final = _UNSUPPORTED.format("SCGI")
_AJP: Final = _UNSUPPORTED.format("AJP")

_ADVICE: Final = {
    "scgi": _SCGI,
    "scgi_fork": _SCGI,
    "scgi_app": _SCGI,
    "scgi_base": _SCGI,
    "ajp": _AJP,
    "ajp_fork": _AJP,
    "ajp_base": _AJP,
    "cgi": (
        "use vsgi_fcgi.flup.fcgi, whose WSGIServer answers one request if the web server starts it"
        " as a CGI program"
    ),
    "fcgi_app": "use vsgi_fcgi.client.Gateway, an app that forwards to a FastCGI application",
    "paste_factory": "in PasteDeploy files, use egg:vsgi-fcgi",
    "publisher": f"flup's publisher has no replacement; {_SERVERS}",
    "gateway": f"{_SERVERS}, and vsgi_fcgi.client has Gateway",
    **dict.fromkeys(
        ("fcgi_base", "preforkserver", "singleserver", "threadedserver", "threadpool"),
        f"this was an internal module of flup; {_SERVERS}",
    ),
}
"""Advice by the last component of the module name."""


class _Finder:
    """Finder at the end of `sys.meta_path`, which is asked for modules that do not exist."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise an error for a module that flup has and this package does not.

        Raises:
            ImportError: the module is one of these; the message says what to do.
        """
        package, _, module = name.rpartition(".")
        if package == __package__ and module in _ADVICE:
            raise ImportError(f"{name} does not exist: {_ADVICE[module]}", name=name)
        return None


def advise() -> None:
    """Install the finder, so that imports of such modules fail with advice."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)


advise()
