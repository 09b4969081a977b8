"""A Flask app that answers JSON."""

from __future__ import annotations

from flask import Flask, Response, jsonify, request

application = Flask(__name__)


@application.get("/flask")
def answer() -> Response:
    """Answer a small object that contains a value of the query."""
    return jsonify(message="Hello, world!", a=request.args["a"], numbers=[1, 2, 3])
