"""One HTTP connection: reads its requests one after the other and calls the WSGI app for each."""

from __future__ import annotations

import contextlib
import socket
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import gevent
from gevent import GreenletExit

from vsgi_fcgi.children import silence
from vsgi_fcgi.exceptions import UpstreamError
from vsgi_fcgi.http.body import READ, RequestBody
from vsgi_fcgi.http.config import HTTPConfig
from vsgi_fcgi.http.head import Head, RequestError, cut_head, parse_head
from vsgi_fcgi.http.response import Response
from vsgi_fcgi.transport.loop import READ as READABLE
from vsgi_fcgi.transport.loop import get_loop
from vsgi_fcgi.wsgi.response import error_page

App = Callable[[dict[str, Any], Any], Iterable[bytes]]

_HEAD_READ: Final = 16384
"""Maximum bytes that are read at a time while waiting for a head."""

_MAX_DISCARDED: Final = 65536
"""Maximum bytes of a body that are discarded to keep the connection."""

_TURN: Final = 65536
"""Bytes that one connection receives and sends before it is the turn of the others."""

_CALL: Final = 4096
"""Bytes of a turn that each call of the socket costs, however short it is."""

_PRIORITY: Final = 2
"""libev's highest priority: with it, `idle` ends even if other connections are always ready."""

_LINGER: Final = 2.0
"""Seconds for a client to read the response before the connection is closed."""

_MAX_TARGET_SHOWN: Final = 200
"""Maximum characters of a request's target in a log line."""

_NO_HEAD: Final = Head("GET", "", 1, 0, False, False, False)
"""The head that is used in place of a head that cannot be parsed."""

_RESET: Final = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""The value of SO_LINGER that makes a close reset the connection."""


class Logger(Protocol):
    """The log of the server."""

    def info(self, message: str, *args: object) -> object:
        """Log a message at level info."""

    def warning(self, message: str, *args: object) -> object:
        """Log a message at level warning."""


class Owner(Protocol):
    """The server, as a connection uses it."""

    config: HTTPConfig
    log: Logger
    app: App
    environ: dict[str, Any]
    stopping: bool
    closing_idle: bool
    busy: int
    idle: set[HTTPConnection]

    def refuse(self, peer: str, error: RequestError) -> None:
        """Log a rejected request, with a limit on the rate."""


class ClientGone(GreenletExit):
    """The client closed its connection while the app was running.

    It is raised where the app waits. An app that must not be interrupted catches it.
    """


class HTTPConnection:
    """Serves the requests of one connection in the calling greenlet.

    Args:
        owner: the server.
        sock: the connection, a gevent socket.
        address: the address of the client.
    """

    def __init__(self, owner: Owner, sock: Any, address: Any) -> None:
        self.buffer = bytearray()
        self._owner = owner
        self._sock = sock
        self._greenlet: Any = gevent.getcurrent()
        self._watcher: Any = None
        self._watching = False
        self._shut = False
        # Whether the client may still send data when the connection is closed.
        self._unread = False
        self._body: RequestBody | None = None
        self._response: Response | None = None
        # The greenlet that waits for more of the body.
        self._reader: Any = None
        self._turn = _TURN
        self._timeout = owner.config.http_timeout
        self._rate = owner.config.min_http_body_rate
        # Seconds that remain for waiting for the body.
        self._body_time = self._timeout
        self._peer = str(address[0]) if address else ""
        local = sock.getsockname()
        self._environ = {
            **owner.environ,
            "SERVER_NAME": str(local[0]),
            "SERVER_PORT": str(local[1]),
            "REMOTE_ADDR": self._peer,
            "REMOTE_PORT": str(address[1]) if address else "",
        }

    def serve(self) -> None:
        """Serve requests until the client or the server ends the connection."""
        sock = self._sock
        sock.settimeout(self._timeout)
        # A response may be sent in several pieces. Without TCP_NODELAY, each piece would wait until
        # the client has acknowledged the one before.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = get_loop()
        self._watcher = loop.io(sock.fileno(), READABLE)
        try:
            while self._serve_request():
                pass
            if self._unread:
                self._linger()
        except (GreenletExit, OSError):
            # The client has gone, or the time for the client is over.
            pass
        finally:
            self._watcher.stop()
            self._watcher.close()
            sock.close()

    def forked(self, *, stop: bool) -> None:
        """Leave the connection to the parent process after a fork.

        Args:
            stop: whether to end the greenlet; True if the loop may continue in this process.
        """
        silence(self._sock.fileno())
        if stop and self._greenlet is not gevent.getcurrent():
            self._greenlet.kill(block=False)

    def stop_reading(self) -> None:
        """Shut down the receiving side: what the kernel has received can still be read."""
        self._shut = True
        with contextlib.suppress(OSError):  # the client may have gone
            self._sock.shutdown(socket.SHUT_RD)

    # One request.

    def _serve_request(self) -> bool:
        """Serve the next request, and return whether another request may follow."""
        owner = self._owner
        if owner.closing_idle:
            self.stop_reading()
        owner.idle.add(self)
        try:
            data = self._read_head()
        except RequestError as error:
            return self._refuse(error)
        finally:
            owner.idle.discard(self)
        if data is None:
            return False
        began = time.monotonic()
        environ = self._environ.copy()
        try:
            head = parse_head(data, environ, owner.config)
        except RequestError as error:
            return self._refuse(error)
        owner.busy += 1
        try:
            return self._answer(head, environ)
        finally:
            owner.busy -= 1
            if owner.config.http_log:
                self._log(head, time.monotonic() - began)

    def _read_head(self) -> bytes | None:
        """Wait for the head of the next request, and return it, or None if there is none.

        Raises:
            RequestError: the head is too long, too slow or not HTTP.
        """
        buffer, config = self.buffer, self._owner.config
        checked = 0
        deadline: float | None = None
        try:
            while True:
                if buffer:
                    data = cut_head(buffer, checked, config)
                    if data is not None:
                        return data
                    checked = len(buffer)
                    if deadline is None:
                        deadline = time.monotonic() + config.http_head_timeout
                if deadline is not None:
                    left = min(deadline - time.monotonic(), self._timeout)
                    if left <= 0:
                        raise RequestError(408, "The headers did not come in time.")
                    self._sock.settimeout(left)
                self._share()
                try:
                    piece = self._sock.recv(_HEAD_READ)
                except TimeoutError:
                    if deadline is not None:
                        raise RequestError(408, "The headers did not come in time.") from None
                    return None
                if not piece:
                    return None
                self._turn -= len(piece) + _CALL
                buffer += piece
        finally:
            if deadline is not None:
                self._sock.settimeout(self._timeout)

    def _answer(self, head: Head, environ: dict[str, Any]) -> bool:
        owner = self._owner
        body = RequestBody(self, head, owner.config.max_http_head_bytes, self._watch)
        response = Response(head, self._send, self._may_keep)
        self._body, self._response = body, response
        self._body_time = self._timeout
        self._expects_continue = head.expects_continue
        self._wants_more = head.keep_alive
        environ["wsgi.input"] = body
        if body.left == 0:
            self._watch()
        try:
            self._run(environ, response)
        except ClientGone:
            raise
        except Exception as error:
            self._fail(head, error)
        finally:
            self._unwatch()
        if not response.keep_alive:
            self._unread |= body.left != 0 or bool(self.buffer) or owner.stopping
            return False
        return body.left == 0 or self._discard()

    def _run(self, environ: dict[str, Any], response: Response) -> None:
        result = self._owner.app(environ, response.start)
        try:
            for piece in result:
                if piece:
                    response.write(piece)
                    if not response.has_body:
                        # The rest, perhaps a whole file for a HEAD request, would be dropped.
                        break
            response.finish()
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _fail(self, head: Head, error: Exception) -> None:
        """Send an error page if the response has not begun, or break the response off."""
        response, body = self._response, self._body
        assert response is not None
        assert body is not None
        line = f"{head.method} {_shown(head.target)}"
        status = 500
        if body.failure is not None:
            status = body.failure.status
            self._owner.refuse(self._peer, body.failure)
        elif isinstance(error, UpstreamError):
            status = error.status
            self._owner.log.warning("%s: %s", line, error)
        elif isinstance(error, TimeoutError | ConnectionError):
            # An error of this connection; the line for the request in the log shows it.
            self._abort(reset=False)
        else:
            text = "".join(traceback.format_exception(error)).rstrip()
            self._owner.log.warning("%s: the app failed\n%s", line, text)
        if response.head_sent:
            self._abort(reset=response.ends_by_close)
        page, headers, content = error_page(status)
        response.start(page, headers, (type(error), error, None))
        response.write(content)
        response.finish()

    def _abort(self, reset: bool) -> None:
        """End the connection in the middle of a response.

        Args:
            reset: whether to reset the connection, because an orderly close would look like the
                end of the response.

        Raises:
            ClientGone: always.
        """
        if reset:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        raise ClientGone

    def _may_keep(self) -> bool:
        """Return whether another request may follow the response that is about to begin."""
        if not self._wants_more or self._owner.stopping:
            return False
        body = self._body
        assert body is not None
        if body.failure is not None or self._expects_continue:
            return False
        return body.left is not None and body.left <= _MAX_DISCARDED

    def _discard(self) -> bool:
        body = self._body
        assert body is not None
        try:
            while body.read1():
                pass
        except RequestError:
            return False
        return True

    def _refuse(self, error: RequestError) -> bool:
        """Send an error page for a request that is not passed to the app, and return False."""
        owner = self._owner
        owner.refuse(self._peer, error)
        line, headers, content = error_page(error.status, error.reason)
        response = Response(_NO_HEAD, self._send, bool)
        response.start(line, headers)
        response.write(content)
        self._unread = True
        return False

    def _log(self, head: Head, seconds: float) -> None:
        response = self._response
        assert response is not None
        self._owner.log.info(
            '%s "%s %s HTTP/1.%d" %s, %d bytes, %.1f ms',
            self._peer,
            head.method,
            _shown(head.target),
            head.minor,
            response.status if response.head_sent else "no response",
            response.sent,
            seconds * 1000,
        )

    # The socket.

    def receive(self, size: int) -> bytes:
        """Wait for more of the body; see `vsgi_fcgi.http.body.Source`."""
        if self._expects_continue:
            self._expects_continue = False
            if not (self._response and self._response.head_sent):
                self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        sock = self._sock
        slow = self._body_time < self._timeout
        if slow:
            sock.settimeout(max(0.001, self._body_time))
        self._reader = gevent.getcurrent()
        try:
            # An interrupt while others run must not lose data, so nothing has been received yet.
            self._share()
            began = time.monotonic()
            data: bytes = sock.recv(size)
        except TimeoutError:
            raise RequestError(408, "The body did not come in time.") from None
        except OSError as error:
            raise RequestError(400, f"The body ended early: {error}.") from None
        finally:
            self._reader = None
            if slow:
                sock.settimeout(self._timeout)
        if not data:
            raise RequestError(400, "The body ended early.")
        self._turn -= len(data) + _CALL
        if self._rate:
            # As in Apache's mod_reqtimeout, every byte gives the client more time. The time that
            # the app takes between two reads does not count.
            self._body_time += len(data) / self._rate - (time.monotonic() - began)
        return data

    def interrupt(self, error: Exception) -> None:
        """Raise an error in a read of the body that waits; see `RequestBody.interrupt`."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.throw(error)

    def _send(self, data: bytes) -> None:
        self._share()
        self._turn -= len(data) + _CALL
        send = self._sock.send
        sent = send(data)
        if sent < len(data):
            view = memoryview(data)
            # Each wait has the whole timeout, because a client that reads slowly makes progress.
            while sent < len(view):
                sent += send(view[sent:])

    def _linger(self) -> None:
        """Let the client read the response: closing with unread input resets the connection."""
        # It may hold a head that was too long, and many clients may wait here at the same time.
        self.buffer.clear()
        sock = self._sock
        sock.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + _LINGER
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            self._share()
            data = sock.recv(READ)
            if not data:
                return
            self._turn -= len(data) + _CALL

    def _share(self) -> None:
        """Let other connections run if this one has had its turn.

        gevent waits only if the kernel has no data or no room. A client that sends and reads fast
        enough would block all others: with pipelined requests, for example.
        """
        if self._turn <= 0:
            self._turn = _TURN
            # Not `sleep(0)`: gevent's loop calls up to 50 callbacks before it looks for I/O.
            gevent.idle(_PRIORITY)

    # Detect a client that closes its connection while the app sends nothing.

    def _watch(self) -> None:
        """Watch for the end of the connection, after the whole body was read."""
        # After SHUT_RD, the end of the input does not mean that the client has gone.
        if not self._shut:
            self._watching = True
            self._watcher.start(self._check_client)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._watcher.stop()

    def _check_client(self) -> None:
        try:
            ended = not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        self._unwatch()
        if ended and not self._shut:
            self._greenlet.kill(ClientGone, block=False)


def _shown(target: str) -> str:
    """Return a target for a log line in quotes: shortened and escaped."""
    if len(target) > _MAX_TARGET_SHOWN:
        target = f"{target[:_MAX_TARGET_SHOWN]}..."
    return ascii(target)[1:-1].replace('"', '\\"')
