"""Flask app that sends events to all who listen, for ``--worker greenlet``."""

from __future__ import annotations

import queue
from collections.abc import Iterator

from flask import Flask, Response, request

app = Flask(__name__)
listeners: set[queue.Queue[str]] = set()


@app.get("/events")
def events() -> Response:
    def lines() -> Iterator[str]:
        mine: queue.Queue[str] = queue.Queue()
        listeners.add(mine)
        try:
            yield "data: welcome\n\n"
            while (text := mine.get()) != "end":
                yield f"data: {text}\n\n"
        finally:
            listeners.discard(mine)

    headers = {"X-Accel-Buffering": "no"}
    return Response(lines(), mimetype="text/event-stream", headers=headers)


@app.post("/publish")
def publish() -> str:
    for listener in list(listeners):
        listener.put(request.form["text"])
    return str(len(listeners))


@app.get("/count")
def count() -> str:
    return str(len(listeners))
