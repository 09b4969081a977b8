"""Wrap an app in the two WSGI checkers that exist."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING
from wsgiref.validate import validator

from werkzeug.middleware.lint import HTTPWarning, LintMiddleware, WSGIWarning

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# The one raises, the other only warns.
warnings.simplefilter("error", WSGIWarning)
warnings.simplefilter("error", HTTPWarning)
# A rule of RFC 2616 that RFC 7231 dropped; Flask and Django themselves send paths.
warnings.filterwarnings("ignore", "Absolute URLs required for location", HTTPWarning)


def checked(app: WSGIApplication) -> WSGIApplication:
    """Make a breach of WSGI, by the app or by the server, a failure of the request."""
    return validator(LintMiddleware(app))
