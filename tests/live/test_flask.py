"""Test a Flask app behind lighttpd and nginx."""

from __future__ import annotations

from dataclasses import replace

from live import frameworks
from support.front_ends.places import Place
from support.front_ends.servers import EXAMPLES, Lighttpd
from support.http import request
from support.processes import ProcessGroup, wait_until

APP = "apps.flask_site:app"


def test_the_example(processes: ProcessGroup) -> None:
    lighttpd = Lighttpd(processes, "flask_app:app", folder=EXAMPLES)
    assert 'action="/greet"' in request(lighttpd.port).text
    answer = request(lighttpd.port, "/greet?name=%3CJ%C3%B6rg%3E")
    assert answer.text == "<p>Hello, &lt;J\u00f6rg&gt;!</p>"


def test_urls(place: Place) -> None:
    frameworks.check_urls(place)


def test_a_form(place: Place) -> None:
    frameworks.check_form(place)


def test_uploads(place: Place) -> None:
    frameworks.check_uploads(place)


def test_cookies(place: Place) -> None:
    frameworks.check_cookies(place)


def test_a_stream(place: Place) -> None:
    frameworks.check_stream(place)


def test_a_login_session(place: Place) -> None:
    frameworks.check_login(place)


def test_without_the_checkers(place: Place) -> None:
    """Flask reads to the end of the input here: see the app."""
    plain = replace(place, prefix=f"{place.prefix}/plain")
    frameworks.check_urls(plain)
    frameworks.check_form(plain)
    frameworks.check_uploads(plain)
    frameworks.check_login(plain)


def test_errors(place: Place) -> None:
    frameworks.check_errors(place)
    wait_until(lambda: "RuntimeError: the view failed" in place.web.server_log(), "the traceback")
