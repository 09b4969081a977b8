"""Requests of the matrix, and their meaning in PEP 3333 and CGI/1.1."""

from __future__ import annotations

import hashlib

from support.matrix.matrix import ANY, MOUNT, PORT, Ask, Case, wire

METHODS = [
    Case(
        f"method {method}",
        wire(method, *headers, body=body),
        {"status": 200, "REQUEST_METHOD": method, "length": len(body or b"")},
    )
    for method, headers, body in (
        ("GET", (), None),
        ("POST", (("Content-Type", "text/x-thing"),), b"posted"),
        ("PUT", (), b"put"),
        ("DELETE", (), None),
        ("OPTIONS", (), None),
        ("PATCH", (), b"patched"),
        ("PROPFIND", (("Depth", "0"),), b"<propfind/>"),
    )
]
METHODS += [
    Case("method HEAD", wire("HEAD"), {"status": 200, "body": 0}),
    Case(
        "OPTIONS *",
        Ask(b"*", "OPTIONS", whole=True),
        # It is about the web server, which answers it itself.
        {"status": 200, "PATH_INFO": None},
    ),
]


def path(name: str, target: bytes, info: str, query: str = "") -> Case:
    """A request whose target is the app's path, in some way of writing."""
    expect = {"status": 200, "SCRIPT_NAME": MOUNT, "PATH_INFO": info, "QUERY_STRING": query}
    expect |= {"REQUEST_URI": MOUNT + target.decode("latin-1")}
    return Case(name, Ask(target), expect, mounted=not target.startswith(b"/"))


def refused(name: str, target: bytes) -> Case:
    """A request whose target is no URI."""
    return Case(name, Ask(target), {"status": 400, "PATH_INFO": None})


PATHS = [
    path("the app itself", b"", ""),
    path("a slash", b"/", "/"),
    path("a folder", b"/a/b/", "/a/b/"),
    path("%20", b"/a%20b", "/a b"),
    path("%2F", b"/a%2Fb", "/a/b"),
    path("%252F", b"/a%252Fb", "/a%2Fb"),
    path("//", b"/a//b", "/a//b"),
    path("// in front", b"//a", "//a"),
    path(";", b"/a;b=c/d;e", "/a;b=c/d;e"),
    path("%3B", b"/a%3Bb", "/a;b"),
    path("%3F", b"/a%3Fb", "/a?b"),
    path("%23", b"/a%23b", "/a#b"),
    path("+", b"/a+b", "/a+b"),
    path(":@&=$,!*'()~", b"/:@&=$,!*'()~", "/:@&=$,!*'()~"),
    path("%0A", b"/a%0Ab", "/a\nb"),
    path("UTF-8", b"/%C3%A9/%E2%98%83", "/\xc3\xa9/\xe2\x98\x83"),
    path("UTF-8 as it is", "/\xe9".encode(), "/\xc3\xa9"),
    path("invalid UTF-8", b"/%C3%28/%FF", "/\xc3(/\xff"),
    path("..", b"/a/../b", "/b"),
    path("..%2F", b"/a/..%2Fb", "/b"),
    path("%2e%2e", b"/a/%2e%2e/b", "/b"),
    path(".", b"/a/./b", "/a/b"),
    refused("%zz", b"/a%zzb"),
    refused("%00", b"/a%00b"),
    path("a dotted file", b"/a.php/b.html", "/a.php/b.html"),
]
QUERIES = [
    path("no query", b"/q", "/q"),
    path("an empty query", b"/q?", "/q"),
    path("a query", b"/q?a=b&a=c;d", "/q", "a=b&a=c;d"),
    path("? in the query", b"/q?a?b=/c?", "/q", "a?b=/c?"),
    path("?? first", b"/q??a", "/q", "?a"),
    path("? behind the app itself", b"?a=/b", "", "a=/b"),
    path("escapes in the query", b"/q?%2F%20%3F+%C3%A9", "/q", "%2F%20%3F+%C3%A9"),
    path("invalid UTF-8 in the query", b"/q?%FF", "/q", "%FF"),
    path(".. in the query", b"/q?/../a//b", "/q", "/../a//b"),
    path("UTF-8 as it is in the query", "/q?\xe9".encode(), "/q", "\xc3\xa9"),
    path("4 KB of query", b"/q?" + b"x" * 4096, "/q", "x" * 4096),
]


def headers(name: str, *sent: tuple[str, str], **environ: str | None) -> Case:
    """A request with headers."""
    return Case(name, wire("GET", *sent), {"status": 200, "REQUEST_METHOD": "GET", **environ})


WSGI = {
    **{"wsgi.url_scheme": "http", "wsgi.multithread": True, "wsgi.multiprocess": False},
    **{"wsgi.run_once": False, "wsgi.input_terminated": True, "FCGI_ROLE": "RESPONDER"},
}
COOKIES = "; ".join(f"name{number:02}=" + "v" * 230 for number in range(50))

HEADERS = [
    headers("a header", ("X-Thing", "one"), HTTP_X_THING="one"),
    headers("an empty header", ("X-Thing", ""), HTTP_X_THING=""),
    headers("bytes in a header", ("X-Thing", "\xe9 \xff"), HTTP_X_THING="\xe9 \xff"),
    headers("a repeated header", ("X-Thing", "1"), ("X-Thing", "2"), HTTP_X_THING="1, 2"),
    headers("a repeated Accept", ("Accept", "a/b"), ("Accept", "c/d"), HTTP_ACCEPT="a/b, c/d"),
    headers("a repeated Cookie", ("Cookie", "a=1"), ("Cookie", "b=2"), HTTP_COOKIE="a=1; b=2"),
    headers("12 KB of cookies", ("Cookie", COOKIES), HTTP_COOKIE=COOKIES),
    headers("Authorization", ("Authorization", "Basic YTpi"), HTTP_AUTHORIZATION="Basic YTpi"),
    headers("Bearer", ("Authorization", "Bearer x.y"), HTTP_AUTHORIZATION="Bearer x.y"),
    headers("Proxy", ("Proxy", "http://evil/"), HTTP_PROXY=None),
    headers("_ in a name", ("X-Real", "good"), ("X_Real", "bad"), HTTP_X_REAL="good"),
    headers("_ alone in a name", ("X_Real", "bad"), HTTP_X_REAL=None),
    headers("If-None-Match", ("If-None-Match", '"x"'), HTTP_IF_NONE_MATCH='"x"'),
    headers("Range", ("Range", "bytes=0-1"), HTTP_RANGE="bytes=0-1"),
    headers("CONTENT_TYPE", ("Content-Type", "a/b"), CONTENT_TYPE="a/b", HTTP_CONTENT_TYPE=None),
    headers("GATEWAY_INTERFACE", GATEWAY_INTERFACE="CGI/1.1"),
    headers("SERVER_PROTOCOL", SERVER_PROTOCOL="HTTP/1.1"),
    headers("SERVER_NAME", SERVER_NAME="127.0.0.1"),
    headers("SERVER_PORT", SERVER_PORT=PORT, HTTP_HOST=f"127.0.0.1:{PORT}"),
    headers("SERVER_SOFTWARE", SERVER_SOFTWARE=ANY),
    Case("two Host headers", wire("GET", ("Host", "other.test")), {"status": 400}),
    Case(
        "an address with a host",
        Ask(b"http://other.test/a", whole=True),
        {"status": 200, "SCRIPT_NAME": "", "PATH_INFO": "/a", "HTTP_HOST": "other.test"},
    ),
    Case("wsgi", wire("GET"), {"status": 200, **WSGI}),
    headers("REMOTE_ADDR", REMOTE_ADDR="127.0.0.1"),
    headers("the web server's environment", PATH=None, HOME=None),
]


def body(name: str, data: bytes | None, *sent: tuple[str, str], chunked: bool = False) -> Case:
    """A request with a body, or with none."""
    digest = hashlib.sha256(data or b"").hexdigest()
    size = len(data or b"")
    expect = {"status": 200, "length": size, "sha256": digest}
    # Of an empty body it may be absent.
    expect |= {"CONTENT_LENGTH or 0": str(size)}
    expect |= {"HTTP_CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": None}
    return Case(name, Ask(method="POST", headers=sent, body=data, chunked=chunked), expect)


BODIES = [
    body("no body", None),
    body("Content-Length: 0", b""),
    body("one byte", b"x"),
    body("100 KB", bytes(range(256)) * 400),
    body("chunked", b"in chunks " * 100, chunked=True),
    body("chunked and empty", b"", chunked=True),
    body("chunked, 100 KB", bytes(range(256)) * 400, chunked=True),
]
