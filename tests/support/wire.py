"""Make requests as the doctor sees them, without a connection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vsgi_fcgi.doctor.request import WIRE, Arrival, Case, ConnectionUse, WireRequest
from vsgi_fcgi.wsgi.environ import base_environ, make_environ

# As they came from the web servers of Debian 12, without what does not matter here.
_COMMON = {
    "REQUEST_METHOD": "GET",
    "QUERY_STRING": "",
    "REQUEST_URI": "/a/b",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "HTTP_HOST": "localhost",
}
LIGHTTPD = {
    **_COMMON,
    "CONTENT_LENGTH": "0",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/a/b",
    "SERVER_SOFTWARE": "lighttpd/1.4.69",
}
NGINX = {
    **_COMMON,
    "CONTENT_TYPE": "",
    "CONTENT_LENGTH": "",
    "SCRIPT_NAME": "/a/b",
    "DOCUMENT_URI": "/a/b",
    "REDIRECT_STATUS": "200",
    "SERVER_SOFTWARE": "nginx/1.22.1",
}
HAPROXY = {
    **_COMMON,
    "CONTENT_LENGTH": "0",
    "PATH_INFO": "/a/b",
    "SERVER_SOFTWARE": "HAProxy 2.6.12-1+deb12u4",
}
APACHE = {
    **_COMMON,
    "SCRIPT_NAME": "/a/b",
    "SCRIPT_FILENAME": "proxy:fcgi://127.0.0.1:9000/a/b",
    "SERVER_SOFTWARE": "Apache/2.4.62 (Debian) mod_fcgid/2.3.9",
}
CADDY = {
    **_COMMON,
    "CONTENT_LENGTH": "0",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/a/b",
    "DOCUMENT_URI": "",
    "SERVER_SOFTWARE": "Caddy/2.6.2",
}


def environ_of(
    params: Mapping[str, str],
    *,
    more: Iterable[tuple[str, str]] = (),
    mount: str | None = None,
    role: int = 1,
    id: int = 1,
    keep_conn: bool = False,
    turn: int = 1,
    neighbours: int = 0,
    asked_values: bool = False,
    address: str = "unix:/run/app.sock",
    connection_use: ConnectionUse | None = None,
    body_size: int = 0,
) -> dict[str, Any]:
    """The environ of a request.

    Args:
        params: its params.
        more: params that come after them; names may be repeated.
        mount: the mount point that is named.
        role: its role.
        id: its id.
        keep_conn: its flag.
        turn: which request of its connection it is.
        neighbours: others on it.
        asked_values: whether GET_VALUES came on it.
        address: where it came to.
        connection_use: of its web server.
        body_size: bytes of its body.
    """
    pairs = (*params.items(), *more)
    found: dict[str, Any] = dict(params)
    found[WIRE] = WireRequest(
        pairs=pairs,
        role=role,
        id=id,
        keep_conn=keep_conn,
        connection=1,
        turn=turn,
        neighbours=neighbours,
        asked_values=asked_values,
        address=address,
        arrival=Arrival(size=body_size),
        connection_use=connection_use or ConnectionUse(),
    )
    base = base_environ(multithread=True)
    return make_environ(found, tuple(more), base, None, body_size, object(), mount)


def case_of(params: Mapping[str, str], *, mount: str | None = None, **more: Any) -> Case:
    """The case of a request; for the arguments see `environ_of`."""
    return Case.of(environ_of(params, mount=mount, **more), mount)
