"""An authorizer, a responder and a filter: one WSGI app for each role of FastCGI."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vsgi_fcgi.authorizer import variables

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PASSWORDS = {"kim": "secret"}


def authorizer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Allow requests with a valid password; answer all others."""
    user = user_of(environ.get("HTTP_AUTHORIZATION", ""))
    if user is None:
        headers = [("WWW-Authenticate", 'Basic realm="examples"'), ("Content-Type", "text/plain")]
        start_response("401 Unauthorized", headers)
        return [b"Who are you?\n"]
    start_response("200 OK", variables({"REMOTE_USER": user, "AUTH_TYPE": "Basic"}))
    return []


def user_of(authorization: str) -> str | None:
    """Return the user of an Authorization header (RFC 7617) if the password is correct."""
    scheme, _, credentials = authorization.partition(" ")
    try:
        user, _, password = base64.b64decode(credentials).decode("latin-1").partition(":")
    except binascii.Error:
        return None
    expected = PASSWORDS.get(user, "")
    right = hmac.compare_digest(password.encode(), expected.encode())
    return user if scheme.lower() == "basic" and expected and right else None


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Greet the user whom the authorizer has allowed."""
    text = f"Hello {environ.get('REMOTE_USER', 'nobody')}, I am the {environ['FCGI_ROLE']}.\n"
    start_response("200 OK", [("Content-Type", "text/plain; charset=iso-8859-1")])
    return [text.encode("latin-1")]


def upper(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Return the file from the web server in upper case."""
    headers = [("Content-Type", "text/plain"), ("Content-Length", environ["FCGI_DATA_LENGTH"])]
    start_response("200 OK", headers)
    return (line.upper() for line in environ["vsgi_fcgi.data"])
