"""The client for scripts and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import BinaryIO, Final, Self
from urllib.parse import unquote_to_bytes

from vsgi_fcgi import __version__
from vsgi_fcgi.addresses import Address
from vsgi_fcgi.client.answer import Answer, ask
from vsgi_fcgi.client.call import Call
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.upstreams import Upstreams
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.protocol.pairs import encode_pairs
from vsgi_fcgi.settings import make_settings

Body = Buffer | BinaryIO | Iterable[Buffer]

IDEMPOTENT: Final = frozenset(
    {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PROPFIND", "REPORT"}
)
"""Methods of requests that may be done twice (RFC 9110, section 9.2.2; WebDAV's readers)."""

_CHUNK: Final = 32768


class Response:
    """What a FastCGI application has answered.

    Attributes:
        status: the HTTP status.
        reason: its phrase.
        headers: names and values in their order.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._body = answer.body()
        self._rest = b""
        head = answer.head
        self.status = head.status
        self.reason = head.reason
        self.headers = head.headers

    def header(self, name: str, default: str = "") -> str:
        """The first header of a name, in whatever case."""
        name = name.lower()
        return next((value for key, value in self.headers if key.lower() == name), default)

    def read(self, size: int = -1) -> bytes:
        """Read some of the body.

        Args:
            size: bytes that are wanted at the most; all of the rest if negative.

        Raises:
            UpstreamError: the rest of it is missing.
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
        """The body, piece by piece as it comes."""
        if self._rest:
            rest, self._rest = self._rest, b""
            yield rest
        yield from self._body

    @property
    def stderr(self) -> bytes:
        """What has come on STDERR since this was last asked; complete once the body is."""
        return self._answer.call.exchange.take_stderr()

    @property
    def app_status(self) -> int:
        """The exit status that a CGI program would have had; 0 until the answer has ended."""
        return self._answer.call.exchange.app_status

    def close(self) -> None:
        """Need nothing more of it; if it has not ended, it is aborted."""
        self._answer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class FastCGIClient:
    """Asks a FastCGI application as a web server does.

    ::

        with FastCGIClient("unix:/run/app.sock") as client:
            response = client.request("GET", "/path?query")
            print(response.status, response.read())

    Requests that are begun before others have ended share a connection, if the application
    multiplexes; what it can do is asked. A client belongs to the thread that has made it. Waiting
    is gevent's: other greenlets of the thread go on meanwhile.

    Args:
        addresses: where the application listens, such as ``unix:/run/app.sock`` or
            ``127.0.0.1:9000``; several serve the same app.
        config: all settings at once.
        **settings: single settings, by the names of `ClientConfig`'s fields.

    Attributes:
        upstreams: the application servers.

    Raises:
        UsageError: a setting that does not exist or is out of its bounds, or no address.
    """

    def __init__(
        self,
        *addresses: Address | str,
        config: ClientConfig | None = None,
        **settings: object,
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
        """Send a request as a web server makes it of an HTTP request, and wait for its head.

        Args:
            method: the HTTP method.
            target: the path, with percent-escapes, and the query after ``?``.
            headers: HTTP headers.
            body: bytes, a binary file, or an iterable of pieces, which are sent as they come.
            data: the file, for a filter.
            role: what is wanted of the application.
            params: params beside those that the request makes, or instead of them.

        Raises:
            UpstreamError: there is no answer; of a subclass that says why.
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
            # Of a header that comes twice CGI makes one (RFC 3875, section 4.1.18).
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
        """Send a request of exactly these params, and wait for the head of its answer.

        Args:
            params: names and values in latin-1, or an encoded block.
            body: what is sent on STDIN; see `request`.
            data: what is sent on DATA, for a filter.
            role: what is wanted of the application.

        Raises:
            UpstreamError: there is no answer; of a subclass that says why.
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
        answer = ask(call, self.config.max_response_head_bytes, head_only=method == "HEAD")
        return Response(answer)

    def close(self) -> None:
        """Close all connections; what is in flight fails."""
        self.upstreams.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _pieces(body: Body) -> Iterator[Buffer]:
    """A body as pieces, none of which is empty.

    Raises:
        TypeError: it is of something other than bytes.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        if body:
            yield body
        return
    read = getattr(body, "read", None)
    pieces = iter(lambda: read(_CHUNK), b"") if read is not None else iter(body)
    for piece in pieces:
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise TypeError(f"a body is made of bytes, not of {type(piece).__name__}")
        if piece:
            yield piece
