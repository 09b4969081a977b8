"""A demonstration app: it shows how it is served, and lets one try what a server has to be good at.

``vsgi_fcgi.demo:app`` is an app like any other: it knows nothing of the server but its version.
It shows what a request brings with it to whoever asks, and lets anybody occupy a worker for a
minute, so it is not for production.
"""

from __future__ import annotations

from vsgi_fcgi.demo.routes import app

__all__ = ["app"]
