"""The app: a report in answer to each request."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vsgi_fcgi.doctor.case import Case
from vsgi_fcgi.doctor.page import report_page
from vsgi_fcgi.doctor.report import report_of
from vsgi_fcgi.doctor.text import report_text, trial_text
from vsgi_fcgi.doctor.trials import pieces
from vsgi_fcgi.protocol import Role

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_logger = logging.getLogger("vsgi_fcgi.doctor")

_TEXT = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_JSON = "application/json"


class Doctor:
    """Answers each request with a report about it, in whatever role it is asked.

    Args:
        mount: where the app is mounted, as by `mount_point`; None to work it out.
    """

    def __init__(self, mount: str | None = None) -> None:
        self._mount = mount

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Look into a request, say in the log what was found, and answer with all of it."""
        case = Case.of(environ, self._mount)
        if case.trial == "stream" and case.is_responder:
            _logger.info("%s: the trial of streaming", case.request)
            start_response("200 OK", _headers(_TEXT))
            return pieces(case)
        report = report_of(case)
        _logger.info("%s", report.sentence)
        kind = _kind(environ.get("HTTP_ACCEPT", ""))
        if kind == _JSON:
            text = json.dumps(report.as_dict(), indent=2) + "\n"
        elif kind == _HTML:
            text = report_page(report)
        else:
            text = trial_text(report.outcome) if report.outcome else report_text(report)
        body = text.encode("utf-8", "replace")
        # An authorizer's 200 would let the request pass.
        status = "403 Forbidden" if case.seen.role == Role.AUTHORIZER else "200 OK"
        start_response(status, [*_headers(kind), ("Content-Length", str(len(body)))])
        return [body]


def _kind(accept: str) -> str:
    """The type of the answer: what browsers ask for, or JSON, or plain text for curl."""
    if "text/html" in accept:
        return _HTML
    return _JSON if "application/json" in accept else _TEXT


def _headers(kind: str) -> list[tuple[str, str]]:
    return [
        ("Content-Type", kind),
        ("Cache-Control", "no-store"),
        ("X-Robots-Tag", "noindex"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ]
