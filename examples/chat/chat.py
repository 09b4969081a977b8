"""A chat room: messages reach all pages at once, and no worker thread waits for them.

With Flask installed, in this folder:

    DATABASE=/tmp/chat.db vsgi-fcgi chat:app --push --threads 4 --http 127.0.0.1:8080

Open http://127.0.0.1:8080/ in two windows. Behind nginx or lighttpd, it needs no settings but those
of nginx.conf and lighttpd.conf in the folder above. In the project's root folder:

    export DATABASE=/tmp/chat.db APP="--push --chdir $PWD/examples/chat chat:app"
    lighttpd -D -f examples/lighttpd.conf

Each page reads a stream of events (``EventSource`` in the browser). The view `events` answers with
the messages that the page does not have, and with headers that ask the server to hold the stream.
`send` stores a message and publishes it. An event that is published between two steps is not
lost: it names the message before it, and the server asks `events` again if a page does not have
that one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlencode

from flask import Flask, Response, request

from vsgi_fcgi.push import publish

app = Flask(__name__, static_url_path="")

SHOWN = 50
"""Messages that a new page shows."""

REFRESH = 60
"""Seconds after which the server asks for the presence of a page again."""

ABSENT = 150
"""Seconds after which a page that was not seen counts as closed."""

MAX_TEXT = 2000


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """Open the database; commit at the end."""
    with closing(sqlite3.connect(os.environ.get("DATABASE", "chat.db"), timeout=10)) as connection:
        connection.executescript(
            "CREATE TABLE IF NOT EXISTS messages"
            " (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, text TEXT, time REAL);"
            "CREATE TABLE IF NOT EXISTS pages (id TEXT PRIMARY KEY, name TEXT, seen REAL);"
        )
        with connection:
            yield connection


@app.get("/")
def page() -> Response:
    """Return the page."""
    return app.send_static_file("chat.html")


@app.post("/messages")
def send() -> tuple[str, int]:
    """Store a message and publish it."""
    name, text = request.form["name"][:40], request.form["text"][:MAX_TEXT]
    if not name.strip() or not text.strip():
        return "A message needs a name and a text.\n", 400
    now = time.time()
    with database() as connection:
        new = connection.execute(
            "INSERT INTO messages (name, text, time) VALUES (?, ?, ?)", (name, text, now)
        ).lastrowid
        assert new is not None
    event = message_event(new, name, text, now)
    publish("messages", http_stream=event, id=str(new), prev_id=str(new - 1))
    return "", 204


@app.get("/events")
def events() -> Response:
    """Return the messages that a page does not have, and have the stream held."""
    name, page_id = request.args["name"][:40], request.args.get("page", str(uuid.uuid4()))
    # The server asks with `since`. A browser that connects again sends Last-Event-ID.
    since = request.args.get("since", request.headers.get("Last-Event-ID", ""))
    with database() as connection:
        (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
        first = int(since) if since.isdecimal() else last - SHOWN
        rows = connection.execute(
            "SELECT id, name, text, time FROM messages WHERE id > ? AND id <= ? ORDER BY id",
            (first, last),
        ).fetchall()
        is_new = not connection.execute("SELECT 1 FROM pages WHERE id = ?", (page_id,)).fetchone()
        connection.execute("REPLACE INTO pages VALUES (?, ?, ?)", (page_id, name, time.time()))
    if is_new:
        publish_presence()
    body = "retry: 1000\n\n" if "since" not in request.args else ""
    body += "".join(message_event(*row) for row in rows)
    if is_new:
        body += presence_event()
    following = urlencode({"name": name, "page": page_id, "since": last})
    response = Response(body, content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Grip-Hold"] = "stream"
    response.headers["Grip-Channel"] = f"messages; prev-id={last}, presence"
    response.headers["Grip-Keep-Alive"] = r":\n\n; format=cstring; timeout=20"
    response.headers.add("Grip-Link", f"</events?{following}>; rel=next; timeout={REFRESH}")
    response.headers.add("Grip-Link", f"</gone?{urlencode({'page': page_id})}>; rel=gone")
    return response


@app.get("/gone")
def gone() -> tuple[str, int]:
    """Note that a page was closed. The server requests this."""
    with database() as connection:
        connection.execute("DELETE FROM pages WHERE id = ?", (request.args["page"],))
    publish_presence()
    return "", 204


def publish_presence() -> None:
    """Tell all pages who is there."""
    publish("presence", http_stream=presence_event())


def presence_event() -> str:
    """Return the event with the names of those who are there."""
    with database() as connection:
        connection.execute("DELETE FROM pages WHERE seen < ?", (time.time() - ABSENT,))
        rows = connection.execute("SELECT DISTINCT name FROM pages ORDER BY name").fetchall()
    return f"event: presence\ndata: {json.dumps([name for (name,) in rows])}\n\n"


def message_event(number: int, name: str, text: str, when: float) -> str:
    """Return the event of a message."""
    data = json.dumps({"name": name, "text": text, "time": when})
    return f"id: {number}\nevent: message\ndata: {data}\n\n"
