"""The running server."""

from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.server import Server

__all__ = ["Config", "Server"]
