"""Flask app with a form, uploads, cookies, a stream and a login."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from wsgiref.util import shift_path_info

from apps.checked import checked
from flask import Flask, Response, abort, jsonify, redirect, request, session, url_for
from werkzeug.wrappers import Response as BaseResponse

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

flask_app = Flask(__name__)
flask_app.secret_key = "known to every reader of the tests"


@flask_app.get("/url")
def url() -> str:
    return url_for("form")


@flask_app.post("/form")
def form() -> Response:
    return jsonify(request.form)


@flask_app.post("/upload")
def upload() -> Response:
    found = {}
    for name, file in request.files.items():
        data = file.read()
        found[name] = {
            "filename": file.filename,
            "length": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    return jsonify(files=found, fields=request.form)


@flask_app.get("/cookie")
def cookie() -> Response:
    response = jsonify(request.cookies)
    response.set_cookie("visited", "\u00e4; yes", httponly=True)
    response.set_cookie("second", "2")
    return response


@flask_app.get("/stream")
def stream() -> Response:
    def lines() -> Iterator[str]:
        for number in range(20000):
            yield f"line {number}\n"

    return Response(lines(), mimetype="text/plain")


@flask_app.post("/login")
def login() -> BaseResponse:
    if request.form["password"] != "right":
        abort(403)
    session["user"] = request.form["user"]
    return redirect(url_for("private"))


@flask_app.get("/private")
def private() -> str:
    if "user" not in session:
        abort(401)
    return f"only for {session['user']}"


@flask_app.post("/logout")
def logout() -> str:
    session.clear()
    return "gone"


@flask_app.get("/fail")
def fail() -> str:
    raise RuntimeError("the view failed")


def _limited(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    # With this key Flask reads to the end of the input by a read() without a size, which both
    # checkers refuse, as PEP 3333 promises nothing about it.
    environ.pop("wsgi.input_terminated")
    return flask_app(environ, start_response)


_checked = checked(_limited)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The app inside the checkers, and below ``/plain`` without them."""
    if environ["PATH_INFO"].startswith("/plain/"):
        shift_path_info(environ)
        return flask_app(environ, start_response)
    return _checked(environ, start_response)
