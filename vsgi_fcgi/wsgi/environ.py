"""From FastCGI params to a WSGI environ (PEP 3333, "environ Variables"; RFC 3875, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import IO, Any

from vsgi_fcgi.wsgi.file_wrapper import FileWrapper
from vsgi_fcgi.wsgi.paths import find_path

Environ = dict[str, Any]


def base_environ(
    *, multithread: bool, multiprocess: bool = False, role: str = "RESPONDER", **more: object
) -> Environ:
    """The keys that are the same for every request of a server.

    Args:
        multithread: whether another thread may run the app at the same time.
        multiprocess: whether another process may run the same app.
        role: what the app is asked as, by libfcgi's name for it.
        **more: further keys, with ``__`` for the dot in their names.
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
        params: the params by name; this very dict becomes the environ.
        repeated: later values of params that came more than once.
        base: what `base_environ` returned. Its keys win over params of the same names.
        body: the request body, positioned at its start; None for an empty one.
        body_length: bytes in it.
        errors: ``wsgi.errors``.
        mount: where the app is mounted, as by `mount_point`; None to work it out.

    Returns:
        The environ.
    """
    environ: Environ = params
    if repeated:
        join_repeated(environ, repeated)
    environ.update(base)
    environ["wsgi.input"] = BytesIO() if body is None else body
    environ["wsgi.errors"] = errors
    # nginx sends empty values, HAProxy leaves them out; apps know only "absent" or a number.
    length = environ.get("CONTENT_LENGTH")
    if body_length:
        # A chunked upload has none, but all of it is here: an app that knows nothing of
        # wsgi.input_terminated (Django) would read nothing.
        if not length:
            environ["CONTENT_LENGTH"] = str(body_length)
    elif length == "":
        del environ["CONTENT_LENGTH"]
    if "HTTP_PROXY" in environ:
        # httpoxy (CVE-2016-5385): a client's header must not become a proxy setting.
        del environ["HTTP_PROXY"]
    # CGI has its own names for these two; PEP 3333 validators refuse the doubles.
    if "HTTP_CONTENT_LENGTH" in environ:
        del environ["HTTP_CONTENT_LENGTH"]
    if "HTTP_CONTENT_TYPE" in environ:
        del environ["HTTP_CONTENT_TYPE"]
    # The web server has undone it (RFC 3875, section 4.2): whoever believes both this and
    # CONTENT_LENGTH, and passes them on, smuggles requests.
    if "HTTP_TRANSFER_ENCODING" in environ:
        del environ["HTTP_TRANSFER_ENCODING"]
    secure = is_secure(environ)
    environ["wsgi.url_scheme"] = "https" if secure else "http"
    if "QUERY_STRING" not in environ:
        environ["QUERY_STRING"] = ""
    # An app at the root, and all is well: most requests are that, and cost no more than this.
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
    """Whether the client's request came over TLS, as the web server says."""
    https = environ.get("HTTPS")
    if https:
        return https.lower() in ("on", "1")
    return environ.get("REQUEST_SCHEME") == "https"


def join_repeated(environ: Environ, repeated: Iterable[tuple[str, str]]) -> None:
    """Merge later values of repeated params.

    Request headers are joined as their rules say (RFC 9110, section 5.3; RFC 6265, section 5.4
    for cookies). Of any other param the last one counts, as a web server's configuration that
    names a param after an ``include`` means it; so it does of HTTP_HOST, of which there is one,
    and which Debian's fastcgi_params for nginx have without its port.
    """
    for name, value in repeated:
        if name == "HTTP_COOKIE":
            environ[name] += "; " + value
        elif name.startswith("HTTP_") and name != "HTTP_HOST":
            environ[name] += ", " + value
        else:
            environ[name] = value


def request_line(params: Mapping[str, Any]) -> str:
    """Name a request in a log line: its method and URI, with nothing unprintable in them."""
    text = f"{params.get('REQUEST_METHOD', 'no method')} {params.get('REQUEST_URI', 'no URI')}"
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]


def content_length(params: Mapping[str, str]) -> int | None:
    """Read CONTENT_LENGTH (RFC 3875, section 4.1.2).

    Returns:
        Bytes, or None if it is absent or empty.

    Raises:
        ValueError: it is no number.
    """
    return byte_count(params, "CONTENT_LENGTH")


def byte_count(params: Mapping[str, str], name: str) -> int | None:
    """Read a param that is a number of bytes; see `content_length`."""
    text = params.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise ValueError(f"{name} is {text[:40]!r}, not a number of bytes")
    return int(text)


def check_seconds(params: Mapping[str, str], name: str) -> None:
    """Check a param that is a time in seconds since 1970, or before; absent and empty will do.

    Raises:
        ValueError: it is no number.
    """
    text = params.get(name, "")
    digits = text.removeprefix("-")
    if text and (not (digits.isascii() and digits.isdigit()) or len(digits) > 19):
        raise ValueError(f"{name} is {text[:40]!r}, not a number of seconds")
