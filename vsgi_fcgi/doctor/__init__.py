"""WSGI app that answers each request with a report on how the web server forwarded it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug.wrappers import Response

from vsgi_fcgi.doctor.probes import pieces
from vsgi_fcgi.doctor.render import report_page, report_text, trial_text
from vsgi_fcgi.doctor.report import report_of
from vsgi_fcgi.doctor.request import Case
from vsgi_fcgi.protocol import Role

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Doctor"]

_logger = logging.getLogger("vsgi_fcgi.doctor")

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}


class Doctor:
    """WSGI app that answers each request with a report on it, in every role.

    Args:
        mount: path at which the app is mounted, as `mount_point` returns it; None to derive it
            from each request.
    """

    def __init__(self, mount: str | None = None) -> None:
        self._mount = mount

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Examine a request, log a summary, and answer with the report."""
        return self._answer(environ)(environ, start_response)

    def _answer(self, environ: WSGIEnvironment) -> Response:
        # werkzeug's Request is not used, because a broken configuration may send anything.
        case = Case.of(environ, self._mount)
        if case.trial == "stream" and case.is_responder:
            _logger.info("%s: streaming trial", case.request)
            return Response(pieces(case), headers=_HEADERS)
        report = report_of(case)
        _logger.info("%s", report.sentence)
        accept = environ.get("HTTP_ACCEPT", "")
        if "text/html" in accept:
            kind, text = "text/html", report_page(report)
        elif "application/json" in accept:
            kind, text = "application/json", json.dumps(report.as_dict(), indent=2) + "\n"
        else:
            kind = "text/plain"
            text = trial_text(report.trial_result) if report.trial_result else report_text(report)
        # A 200 from an authorizer would allow the request.
        status = "403 Forbidden" if case.wire.role == Role.AUTHORIZER else "200 OK"
        return Response(text.encode("utf-8", "replace"), status, _HEADERS, kind)
