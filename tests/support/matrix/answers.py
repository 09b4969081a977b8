"""Responses of the matrix: what the app answers, and what the client must receive."""

from __future__ import annotations

from apps.echo import content, digest

from support.matrix.matrix import Case, answering, wire


def answered(
    name: str,
    wanted: dict[str, object],
    expect: dict[str, object],
    *sent: tuple[str, str],
    method: str = "GET",
) -> Case:
    """A request for an answer."""
    return Case(name, wire(method, answering(**wanted), *sent), {"status": 200, **expect})


def whole(size: int) -> dict[str, object]:
    return {"body": size, "digest": digest(content(size))}


STATUSES = [
    answered(
        "204",
        {"status": "204 No Content", "headers": [["X-Thing", "x"]]},
        {"status": 204, "body": 0, "X-Thing:": "x", "Content-Type:": None, "Content-Length:": None},
    ),
    answered(
        "304",
        {"status": "304 Not Modified", "headers": [["ETag", '"x"']]},
        {"status": 304, "body": 0, "ETag:": '"x"', "Content-Type:": None},
        ("If-None-Match", '"x"'),
    ),
    answered("ETag", {"headers": [["ETag", '"x"']], "size": 9}, {"ETag:": '"x"', **whole(9)}),
    *(
        answered(
            f"{status}", {"status": f"{status} Other", "size": 9}, {"status": status, **whole(9)}
        )
        for status in (201, 400, 401, 403, 404, 405, 410, 418, 422, 429, 500, 502, 503, 504, 599)
    ),
    answered(
        "206",
        {"status": "206 Part", "size": 9, "headers": [["Content-Range", "bytes 1-9/99"]]},
        {"status": 206, **whole(9), "Content-Range:": "bytes 1-9/99"},
    ),
    answered("the reason", {"status": "299 As It Is", "size": 9}, {"status": 299, **whole(9)}),
]

ELSEWHERE = "http://elsewhere.example/a?b"

REDIRECTS = [
    answered(
        f"{status} to {kind}",
        {"status": f"{status} Moved", "headers": [["Location", place]], "size": 9},
        {"status": status, "Location:": place, **whole(9)},
    )
    for status in (200, 201, 301, 302, 303, 307, 308)
    for kind, place in (
        ("a URL", ELSEWHERE),
        ("a path", "/app/elsewhere?a"),
        ("a relative path", "b/c?d"),
    )
]

HEADS = [
    answered("HEAD", {"size": 9}, {"body": 0, "Content-Length:": "9"}, method="HEAD"),
    answered(
        "HEAD of 1 MB", {"size": 1 << 20}, {"body": 0, "Content-Length:": "1048576"}, method="HEAD"
    ),
    answered(
        "HEAD without a length",
        {"size": 1 << 20, "counted": False},
        {"body": 0, "Content-Length:": None},
        method="HEAD",
    ),
    answered(
        "HEAD of 404",
        {"status": "404 Not Found", "size": 9},
        {"status": 404, "body": 0, "Content-Length:": "9"},
        method="HEAD",
    ),
    answered(
        "HEAD of 302",
        {"status": "302 Found", "headers": [["Location", "/x"]], "size": 9},
        {"status": 302, "body": 0, "Location:": "/x"},
        method="HEAD",
    ),
]


def large(number: int, size: int) -> Case:
    """Headers, of which the last one is looked at."""
    last = number - 1
    return answered(
        f"{number} headers of {size} bytes",
        {"many": [number, size]},
        {f"X-Large-{last}:": f"{last % 10}" * size},
    )


HEADERS_OUT = [
    answered("Content-Length", {"size": 9}, {"Content-Length:": "9"}),
    answered("no Content-Length", {"size": 99999, "counted": False}, whole(99999)),
    answered("an empty body", {"size": 0}, {"body": 0, "Content-Length:": "0"}),
    answered("an empty body without a length", {"size": 0, "counted": False}, {"body": 0}),
    answered(
        "two Set-Cookie",
        {"headers": [["Set-Cookie", "a=1; Path=/"], ["Set-Cookie", "b=2"]]},
        {"Set-Cookie:": ["a=1; Path=/", "b=2"]},
    ),
    answered(
        "two of another name",
        {"headers": [["X-Thing", "1"], ["X-Thing", "2"]]},
        {"X-Thing:": ["1", "2"]},
    ),
    answered(
        "bytes in a header out", {"headers": [["X-Thing", "\xe9 \xff"]]}, {"X-Thing:": "\xe9 \xff"}
    ),
    answered("an empty header out", {"headers": [["X-Thing", ""]]}, {"X-Thing:": ""}),
    answered("_ in a name out", {"headers": [["X_Thing", "x"]]}, {"X_Thing:": "x"}),
    answered("Server", {"headers": [["Server", "mine"]]}, {"Server:": "mine"}),
    answered(
        "Date",
        {"headers": [["Date", "Thu, 01 Jan 1970 00:00:00 GMT"]]},
        {"Date:": "Thu, 01 Jan 1970 00:00:00 GMT"},
    ),
    answered(
        "Content-Encoding",
        {"headers": [["Content-Encoding", "gzip"]], "size": 9},
        {"Content-Encoding:": "gzip", **whole(9)},
    ),
    answered(
        "WWW-Authenticate",
        {"status": "401 No", "headers": [["WWW-Authenticate", "Basic realm=x"]], "size": 9},
        {"status": 401, "WWW-Authenticate:": "Basic realm=x"},
    ),
    answered(
        "X-Accel-Redirect",
        {"headers": [["X-Accel-Redirect", "/app/x"]], "size": 9},
        {"X-Accel-Redirect:": "/app/x", **whole(9)},
    ),
    answered(
        "X-Sendfile",
        {"headers": [["X-Sendfile", "/etc/passwd"]], "size": 9},
        {"X-Sendfile:": "/etc/passwd", **whole(9)},
    ),
    answered("Range of an answer", {"size": 9}, whole(9), ("Range", "bytes=0-1")),
    large(1, 3000),
    large(1, 7000),
    large(30, 100),
    large(60, 200),
]
