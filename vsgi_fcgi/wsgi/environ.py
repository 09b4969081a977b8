"""Make a WSGI environ of FastCGI params, and params of an environ.

The rules are those of PEP 3333 ("environ Variables") and RFC 3875 (CGI), section 4.

`make_environ` runs for every request. It does not copy: the dict of decoded params becomes the
environ, and one `dict.update` adds the keys that are the same for every request. Then it corrects
the few params that web servers are known to send wrong, with one dict look-up for each.
`find_path` is called only if the app is mounted or SCRIPT_NAME and PATH_INFO look unusual.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from itertools import takewhile
from typing import IO, Any, Final, Protocol
from urllib.parse import quote

from vsgi_fcgi.front_ends.registry import configured_first, repeats_headers
from vsgi_fcgi.wsgi.files import FileWrapper
from vsgi_fcgi.wsgi.path_info import find_path

Environ = dict[str, Any]

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection, which must not be forwarded (RFC 9110, section 7.6.1)."""


def base_environ(
    *, multithread: bool, multiprocess: bool = False, role: str = "RESPONDER", **more: object
) -> Environ:
    """Return the keys of an environ that are the same for every request of a server.

    Args:
        multithread: whether another thread may run the app at the same time.
        multiprocess: whether another process may run the same app.
        role: the FastCGI role of the app, by libfcgi's name for it.
        **more: further keys, with ``__`` in place of the dot.
    """
    environ: Environ = {
        "wsgi.version": (1, 0),
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
        "FCGI_ROLE": role,
    }
    environ.update((name.replace("__", "."), value) for name, value in more.items())
    return environ


def make_environ(
    params: dict[str, str],
    repeated: Iterable[tuple[str, str]],
    base: Mapping[str, Any],
    body: IO[bytes] | None,
    body_length: int,
    errors: object,
    mount: str | None = None,
) -> Environ:
    """Make the environ of one request.

    Args:
        params: the params by name. This dict becomes the environ.
        repeated: the later values of params that occur more than once.
        base: the keys from `base_environ`. They replace params of the same names.
        body: the request body, positioned at its start; None if it is empty.
        body_length: the length of the body in bytes.
        errors: the stream for ``wsgi.errors``.
        mount: the mount point of the app, from `mount_point`; None to derive it from the params.

    Returns:
        The environ.
    """
    environ: Environ = params
    if repeated:
        join_repeated(environ, repeated)
    environ.update(base)
    environ["wsgi.input"] = BytesIO() if body is None else body
    environ["wsgi.errors"] = errors
    # nginx sends empty values, and HAProxy omits them. Apps expect a number or no value.
    length = environ.get("CONTENT_LENGTH")
    if body_length:
        # A chunked upload has no length, but the whole body is here. An app that ignores
        # wsgi.input_terminated, such as Django, would read nothing.
        if not length:
            environ["CONTENT_LENGTH"] = str(body_length)
    elif length == "":
        del environ["CONTENT_LENGTH"]
    if "HTTP_PROXY" in environ:
        # httpoxy (CVE-2016-5385): a header of the client must not become a proxy setting.
        del environ["HTTP_PROXY"]
    # CGI has its own names for these two headers, and PEP 3333 validators reject the others.
    if "HTTP_CONTENT_LENGTH" in environ:
        del environ["HTTP_CONTENT_LENGTH"]
    if "HTTP_CONTENT_TYPE" in environ:
        del environ["HTTP_CONTENT_TYPE"]
    # The web server has removed the transfer coding (RFC 3875, section 4.2). An app that forwards
    # both this header and CONTENT_LENGTH would enable request smuggling.
    if "HTTP_TRANSFER_ENCODING" in environ:
        del environ["HTTP_TRANSFER_ENCODING"]
    secure = is_secure(environ)
    environ["wsgi.url_scheme"] = "https" if secure else "http"
    if "QUERY_STRING" not in environ:
        environ["QUERY_STRING"] = ""
    # Most requests are for an app at the root and have a correct path. They need no more than this
    # test.
    path = environ.get("PATH_INFO")
    if mount or environ.get("SCRIPT_NAME") != "" or not path or path[0] != "/":
        environ["SCRIPT_NAME"], environ["PATH_INFO"], _ = find_path(environ, mount)
    if "SERVER_PROTOCOL" not in environ:
        environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    if not environ.get("SERVER_NAME"):
        environ["SERVER_NAME"] = "localhost"
    if not environ.get("SERVER_PORT"):
        environ["SERVER_PORT"] = "443" if secure else "80"
    return environ


def is_secure(environ: Mapping[str, Any]) -> bool:
    """Return whether the client's request used TLS, according to the web server."""
    https = environ.get("HTTPS")
    if https:
        return https.lower() in ("on", "1")
    return environ.get("REQUEST_SCHEME") == "https"


def join_repeated(environ: Environ, repeated: Iterable[tuple[str, str]]) -> None:
    """Merge the later values of repeated params into an environ.

    The last value of a param replaces the others. This is how administrators override a param
    after an ``include`` in the web server's configuration, and lighttpd sends the param of
    ``setenv.add-environment`` after the client's header. Headers are joined (RFC 9110, section
    5.3; cookies: RFC 6265, section 5.4) only for web servers that are known to send the repeated
    headers of a client as repeated params. HTTP_HOST is never joined: a request has one Host, and
    Debian's fastcgi_params for nginx sends it a second time without its port.

    Args:
        environ: the first value of each param, in the order of arrival.
        repeated: the later values.
    """
    software = environ.get("SERVER_SOFTWARE")
    joins = repeats_headers(software)
    configured: set[str] = set()
    if joins and configured_first(software):
        configured.update(takewhile(lambda name: name != "SERVER_SOFTWARE", environ))
    for name, value in repeated:
        if not name.startswith("HTTP_"):
            environ[name] = value
        elif name in configured:
            continue
        elif not joins or name == "HTTP_HOST":
            environ[name] = value
        elif name == "HTTP_COOKIE":
            environ[name] += "; " + value
        else:
            environ[name] += ", " + value


def request_line(params: Mapping[str, Any]) -> str:
    """Return the method and URI of a request for a log line, with unprintable text escaped."""
    return printable(
        f"{params.get('REQUEST_METHOD', 'no method')} {params.get('REQUEST_URI', 'no URI')}"
    )


def printable(text: str) -> str:
    """Escape everything in a text that ends a line, moves a cursor or is not ASCII."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]


def content_length(params: dict[str, str]) -> int | None:
    """Parse CONTENT_LENGTH (RFC 3875, section 4.1.2), and normalise it in the params.

    Padding and leading zeros are removed, because web servers pass on the client's spelling, and
    an app may compare the value or forward it.

    Args:
        params: the params; CONTENT_LENGTH may be replaced.

    Returns:
        The length in bytes, or None if the param is absent or empty.

    Raises:
        ValueError: the value is not a number.
    """
    return byte_count(params, "CONTENT_LENGTH")


def byte_count(params: dict[str, str], name: str) -> int | None:
    """Parse a param that is a number of bytes, and normalise it; see `content_length`."""
    given = params.get(name)
    if not given:
        return None
    text = given.strip(" \t")
    if not text:
        params[name] = ""
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise ValueError(f"{name} is {given[:40]!r}, not a number of bytes")
    count = int(text)
    if text[0] == "0" or len(text) != len(given):
        params[name] = str(count)
    return count


def check_seconds(params: Mapping[str, str], name: str) -> None:
    """Check that a param is a time in seconds relative to 1970, or absent, or empty.

    Raises:
        ValueError: the value is not a number.
    """
    text = params.get(name, "")
    digits = text.removeprefix("-")
    if text and (not (digits.isascii() and digits.isdigit()) or len(digits) > 19):
        raise ValueError(f"{name} is {text[:40]!r}, not a number of seconds")


# The opposite direction: from an environ to the params of a request (RFC 3875, section 4.1).

# CGI programs would read HTTP_PROXY as a setting (httpoxy, CVE-2016-5385). FCGI_ROLE is the role of
# the app to which this environ belongs, and not a param of the web server.
_DROPPED: Final = frozenset(
    {"HTTP_PROXY", "FCGI_ROLE", *(f"HTTP_{name.upper().replace('-', '_')}" for name in HOP_BY_HOP)}
)


def environ_to_params(environ: dict[str, Any]) -> list[tuple[str, str]]:
    """Convert a WSGI environ to params.

    Headers of the connection to the HTTP client (RFC 9110, section 7.6.1) and keys that are not
    CGI variables, such as ``wsgi.input``, are omitted.

    Args:
        environ: the environ, as in PEP 3333.

    Returns:
        Names and values.
    """
    dropped = _DROPPED
    if "HTTP_CONNECTION" in environ:
        named = str(environ["HTTP_CONNECTION"]).upper().replace("-", "_").split(",")
        dropped = dropped.union(f"HTTP_{name.strip()}" for name in named)
    params = {
        name: value
        for name, value in environ.items()
        if type(value) is str and "." not in name and name not in dropped
    }
    params["GATEWAY_INTERFACE"] = "CGI/1.1"
    if "REQUEST_URI" not in params:
        path = quote(
            params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", ""), "/;=,:@!$&'()*+", "latin-1"
        )
        query = params.get("QUERY_STRING")
        params["REQUEST_URI"] = f"{path}?{query}" if query else path
    scheme = environ.get("wsgi.url_scheme", "http")
    params.setdefault("REQUEST_SCHEME", scheme)
    if scheme == "https":
        params.setdefault("HTTPS", "on")
    return list(params.items())


# ``wsgi.errors`` (PEP 3333, "Input and Error Streams").


class ErrorSink(Protocol):
    """The destination of the text."""

    def write_error(self, text: str) -> None:
        """Write text, which is whole lines if possible."""


class ErrorStream:
    """The text stream to which an app writes its diagnostics.

    A complete line is passed on at once. An incomplete line is passed on by ``flush()``, after 8192
    characters, and at the end of the request.

    Args:
        sink: the destination.

    Attributes:
        rest: the text that has not been passed on.
    """

    __slots__ = ("_sink", "rest")

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, sink: ErrorSink) -> None:
        self._sink = sink
        self.rest = ""

    def write(self, text: Any) -> int:
        """Write text.

        Args:
            text: any str; the sink escapes characters that cannot be encoded.

        Returns:
            The number of characters written.

        Raises:
            TypeError: the text is not a str.
        """
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        whole, newline, rest = text.rpartition("\n")
        if newline:
            self._sink.write_error(self.rest + whole + newline)
            self.rest = rest
        else:
            self.rest += rest
            if len(self.rest) > 8192:
                self.flush()
        return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write lines without adding line ends."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on the incomplete last line."""
        if self.rest:
            rest, self.rest = self.rest, ""
            self._sink.write_error(rest)

    def isatty(self) -> bool:
        """Return False: the stream is not a terminal."""
        return False

    def writable(self) -> bool:
        """Return True: the stream is writable."""
        return True
