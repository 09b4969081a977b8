"""``--push-bind``: an HTTP server for publishing, in the main context of the server.

It answers like the control address of Pushpin, so that the clients of GRIP can be used with it.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any
from urllib.parse import quote

from vsgi_fcgi.cli.commands.local_front import LocalFront, text
from vsgi_fcgi.cli.settings.options import Options
from vsgi_fcgi.exceptions import PublishError
from vsgi_fcgi.listen.listeners import Listener
from vsgi_fcgi.push.items import ItemError, read_items
from vsgi_fcgi.push.publishing import PROCESS
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.status.app import Response

_STOP = 1.0
"""Seconds that running requests have when the server begins to stop."""

_PATHS = ("/publish/", "/publish")


class PushFront(LocalFront):
    """Publishes the items that it gets over HTTP."""

    starts = "publish over HTTP on"
    warning = "other machines can publish: whatever they send reaches the clients of the app"

    def __init__(self, listeners: Sequence[Listener], server: Server, options: Options) -> None:
        super().__init__(listeners, server, options)
        self._max_item_bytes = options.max_item_bytes
        self._max_items = options.max_items_queued
        # Base64 takes a third more, and JSON three bytes for each byte of an escaped letter.
        self._max_body_bytes = 4 * options.max_item_bytes
        # Other processes of a supervisor continue to accept.
        server.before_stop.append(self._stop)

    def _stop(self, grace: float) -> None:
        self.http.stop(min(grace, _STOP))

    def respond(self, environ: dict[str, Any]) -> Response:
        """Publish the items of a request."""
        if environ["PATH_INFO"] not in _PATHS:
            return text("404 Not Found")
        method = environ["REQUEST_METHOD"]
        if method != "POST":
            return text(
                "405 Method Not Allowed", f"Method not allowed: {method}.", ("Allow", "POST")
            )
        if "HTTP_ORIGIN" in environ:
            # Any page in a browser of this machine could send such a request.
            return text("403 Forbidden", "Web pages cannot publish.")
        body = environ["wsgi.input"].read(self._max_body_bytes + 1)
        if len(body) > self._max_body_bytes:
            return _too_large(f"the body is larger than {self._max_body_bytes} bytes")
        try:
            items = read_items(body, self._max_body_bytes)
            if any(item.size > self._max_item_bytes for item in items):
                return _too_large(f"an item is larger than {self._max_item_bytes} bytes")
            if len(items) > self._max_items:
                # It would never fit into the queue.
                return text("413 Content Too Large", f"more than {self._max_items} items at a time")
            PROCESS.publish(items)
        except ItemError as error:
            return text("400 Bad Request", str(error))
        except PublishError as error:
            return text("503 Service Unavailable", str(error), ("Retry-After", "1"))
        except RuntimeError:
            # The server stops.
            return text("503 Service Unavailable")
        return text("200 OK", "Published")


def _too_large(what: str) -> Response:
    return text(
        "413 Content Too Large", f"{what}; publish less at a time, or raise --max-item-bytes"
    )


def set_grip_url(
    environment: MutableMapping[str, str], listeners: Sequence[Listener], key: str
) -> None:
    """Tell the app where it can publish, unless its GRIP_URL is set already.

    Args:
        environment: ``os.environ``.
        listeners: the listening sockets for publishing.
        key: the key of Grip-Sig.
    """
    for listener in listeners:
        if listener.is_tcp:
            url = _connectable(listener.uri.partition(":")[2])
            environment.setdefault("GRIP_URL", f"{url}?key={quote(key, safe='')}")
            return


def _connectable(uri: str) -> str:
    """Return the URI of a listener as a client uses it."""
    url = uri.rstrip("/")
    for every, loopback in (("//0.0.0.0:", "//127.0.0.1:"), ("//[::]:", "//[::1]:")):
        url = url.replace(every, loopback)
    return url
