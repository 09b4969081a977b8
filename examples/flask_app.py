"""A Flask app in one file. Serve it with ``vsgi-fcgi flask_app:app``."""

from __future__ import annotations

from flask import Flask, request, url_for
from markupsafe import escape

app = Flask(__name__)


@app.route("/")
def index() -> str:
    """Ask for a name."""
    return (
        f'<form action="{url_for("greet")}">'
        'Your name: <input name="name"> <button>Greet me</button></form>'
    )


@app.route("/greet")
def greet() -> str:
    """Greet the user by name."""
    return f"<p>Hello, {escape(request.args.get('name') or 'stranger')}!</p>"
