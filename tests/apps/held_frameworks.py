"""Frameworks whose streams are held. Each factory returns an app with /stream and /publish."""

from __future__ import annotations

from typing import Any

from vsgi_fcgi.push import publish

GRIP = {"Grip-Hold": "stream", "Grip-Channel": "news", "X-Accel-Buffering": "no"}


def send() -> None:
    publish("news", http_stream=b"published")


def flask() -> Any:
    """Flask, with a session cookie in each response."""
    from flask import Flask, Response, session

    app = Flask(__name__)
    app.secret_key = "secret"

    @app.get("/stream")
    def stream() -> Response:
        session["seen"] = True
        return Response("begun", headers=GRIP, content_type="text/event-stream")

    @app.get("/publish")
    def publish_one() -> str:
        send()
        return "sent"

    return app


def pyramid() -> Any:
    """Pyramid."""
    from pyramid.config import Configurator
    from pyramid.response import Response

    def stream(request: Any) -> Any:
        return Response(body=b"begun", headers=GRIP, content_type="text/event-stream")

    def publish_one(request: Any) -> Any:
        send()
        return Response("sent")

    with Configurator() as config:
        for name, view in (("stream", stream), ("publish", publish_one)):
            config.add_route(name, f"/{name}")
            config.add_view(view, route_name=name)
        return config.make_wsgi_app()


def linted() -> Any:
    """Flask inside of the checker of WebTest."""
    from webtest.lint import middleware

    return middleware(flask())
