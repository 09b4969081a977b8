"""An app whose answers come from the request, so that a test says what the app of a scenario does.

``/NAME?a=ANSWER&a=ANSWER`` gets the first answer at the first request, and so on; the last one is
repeated. ANSWER is JSON: status, headers and body. ``/seen/NAME`` returns the requests for NAME.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

_seen: dict[str, list[list[object]]] = {}
_lock = threading.Lock()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    name = environ["PATH_INFO"].strip("/")
    if name.startswith("seen/"):
        with _lock:
            body = json.dumps(_seen.get(name[5:], [])).encode()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [body]
    passed = {
        key[5:].replace("_", "-").title(): value
        for key, value in environ.items()
        if key.startswith(("HTTP_GRIP_", "HTTP_ACCEPT_ENCODING", "HTTP_X_"))
    }
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    query = environ["QUERY_STRING"]
    with _lock:
        requests = _seen.setdefault(name, [])
        requests.append([environ["REQUEST_METHOD"], passed, body])
        count = len(requests)
    answers = parse_qs(query)["a"]
    status, headers, content = json.loads(answers[min(count, len(answers)) - 1])
    start_response(status, [(key, value) for key, value in headers])
    return [content.encode()]
