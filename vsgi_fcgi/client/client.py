"""The FastCGI client for scripts and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO, Final, Self, Unpack
from urllib.parse import unquote_to_bytes

from vsgi_fcgi import __version__
from vsgi_fcgi.addresses import Address
from vsgi_fcgi.client.call import Call, CGIResponse, perform
from vsgi_fcgi.client.config import ClientConfig, ClientSettings
from vsgi_fcgi.client.pool import Upstreams
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.records import encode_pairs
from vsgi_fcgi.settings import make_settings

Body = Buffer | BinaryIO | Iterable[Buffer]

IDEMPOTENT: Final = frozenset(
    {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PROPFIND", "REPORT"}
)
"""Methods that may be repeated (RFC 9110, section 9.2.2; WebDAV methods that only read)."""

_CHUNK: Final = 32768


class Response:
    """The response of a FastCGI application.

    Attributes:
        status: the HTTP status.
        reason: the reason phrase.
        headers: names and values in their order.
    """

    def __init__(self, response: CGIResponse) -> None:
        self._response = response
        self._body = response.body()
        self._rest = b""
        head = response.head
        self.status = head.status
        self.reason = head.reason
        self.headers = head.headers

    def header(self, name: str, default: str = "") -> str:
        """Return the value of the first header with a name, ignoring its case."""
        name = name.lower()
        return next((value for key, value in self.headers if key.lower() == name), default)

    def read(self, size: int = -1) -> bytes:
        """Read the body.

        Args:
            size: maximum bytes to read; the rest of the body if negative.

        Raises:
            UpstreamError: the body is incomplete.
        """
        parts = [self._rest]
        have = len(self._rest)
        while size < 0 or have < size:
            piece = next(self._body, None)
            if piece is None:
                break
            parts.append(bytes(piece))
            have += len(piece)
        data = b"".join(parts)
        if size < 0:
            self._rest = b""
            return data
        self._rest = data[size:]
        return data[:size]

    def __iter__(self) -> Iterator[Buffer]:
        """Yield the pieces of the body as they arrive."""
        if self._rest:
            rest, self._rest = self._rest, b""
            yield rest
        yield from self._body

    @property
    def stderr(self) -> bytes:
        """The STDERR received since the last access; it is complete when the body is."""
        return self._response.call.take_stderr()

    @property
    def app_status(self) -> int:
        """The exit status that a CGI program would have had; 0 until the response has ended."""
        return self._response.call.exchange.app_status

    def close(self) -> None:
        """Close the response; abort the request if it has not ended."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class FastCGIClient:
    """Sends requests to a FastCGI application, as a web server does.

    ::

        with FastCGIClient("unix:/run/app.sock") as client:
            response = client.request("GET", "/path?query")
            print(response.status, response.read())

    Concurrent requests share a connection if the application multiplexes; the client asks the
    application whether it does. Only the thread that created a client may use it. A call that waits
    lets other greenlets of the thread run, as with any gevent function.

    Args:
        addresses: the addresses of the application, such as ``unix:/run/app.sock`` or
            ``127.0.0.1:9000``. Several addresses must serve the same app.
        config: all settings at once.
        **settings: single settings, by the names of `ClientConfig`'s fields.

    Attributes:
        upstreams: the application servers.

    Raises:
        UsageError: a setting does not exist or is out of its bounds, or there is no address.
    """

    def __init__(
        self,
        *addresses: Address | str,
        config: ClientConfig | None = None,
        **settings: Unpack[ClientSettings],
    ) -> None:
        self.config = make_settings(ClientConfig, config, settings, "FastCGIClient")
        self.upstreams = Upstreams(addresses, self.config)

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: Body = b"",
        data: Body = b"",
        role: int = Role.RESPONDER,
        params: Mapping[str, str] | None = None,
    ) -> Response:
        """Send the request that a web server makes of an HTTP request, and wait for the head.

        Args:
            method: the HTTP method.
            target: the path, with percent-escapes, and the query after ``?``.
            headers: HTTP headers.
            body: bytes, a binary file, or an iterable whose pieces are sent as it yields them.
            data: the content of DATA, for a filter.
            role: the role of the application.
            params: further params, which replace others of the same names.

        Raises:
            UpstreamError: there is no response; the subclass tells why.
        """
        path, _, query = target.partition("?")
        made = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": f"vsgi_fcgi/{__version__}",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "REMOTE_ADDR": "127.0.0.1",
            "REQUEST_METHOD": method,
            "REQUEST_URI": target,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
        }
        if isinstance(body, bytes | bytearray | memoryview) and (body or method != "GET"):
            made["CONTENT_LENGTH"] = str(len(body))
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        for name, value in pairs:
            key = name.upper().replace("-", "_")
            if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                made[key] = value
                continue
            # CGI joins the values of a repeated header (RFC 3875, section 4.1.18).
            key = f"HTTP_{key}"
            joint = "; " if key == "HTTP_COOKIE" else ", "
            made[key] = f"{made[key]}{joint}{value}" if key in made else value
        made.update(params or {})
        return self.send(made.items(), body=body, data=data, role=role)

    def send(
        self,
        params: Iterable[tuple[str, str]] | bytes,
        *,
        body: Body = b"",
        data: Body = b"",
        role: int = Role.RESPONDER,
    ) -> Response:
        """Send a request with exactly these params, and wait for the head of the response.

        Args:
            params: names and values in latin-1, or an encoded block.
            body: the content of STDIN; see `request`.
            data: the content of DATA, for a filter.
            role: the role of the application.

        Raises:
            UpstreamError: there is no response; the subclass tells why.
        """
        method = ""
        if isinstance(params, bytes):
            block = params
        else:
            pairs = list(params)
            block = encode_pairs(pairs)
            method = dict(pairs).get("REQUEST_METHOD", "")
        call = Call(
            self.upstreams,
            block,
            role=role,
            body=_pieces(body),
            data=_pieces(data),
            idempotent=method in IDEMPOTENT or role == Role.AUTHORIZER,
        )
        response = perform(call, self.config.max_response_head_bytes, head_only=method == "HEAD")
        return Response(response)

    def close(self) -> None:
        """Close all connections; requests in flight fail."""
        self.upstreams.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _pieces(body: Body) -> Iterator[Buffer]:
    """Yield the pieces of a body, without empty ones.

    Raises:
        TypeError: a piece is not bytes.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        if body:
            yield body
        return
    read = getattr(body, "read", None)
    pieces = iter(lambda: read(_CHUNK), b"") if read is not None else iter(body)
    for piece in pieces:
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise TypeError(f"the body must be bytes or yield bytes, not {type(piece).__name__}")
        if piece:
            yield piece
