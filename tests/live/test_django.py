"""Test a Django project behind lighttpd and nginx."""

from __future__ import annotations

from live import frameworks
from support.front_ends.places import Place
from support.front_ends.servers import EXAMPLES, Lighttpd
from support.http import request
from support.processes import ProcessGroup

APP = "apps.django_site:app"

# The value of the cookie and of the field must be alike, and of this kind.
TOKEN = "0123456789abcdefghijABCDEFGHIJ01"


def test_the_example(processes: ProcessGroup) -> None:
    lighttpd = Lighttpd(processes, "django_app:application", folder=EXAMPLES)
    assert 'action="/greet"' in request(lighttpd.port).text
    answer = request(lighttpd.port, "/greet?name=%3CJ%C3%B6rg%3E")
    assert answer.text == "<p>Hello, &lt;J\u00f6rg&gt;!</p>"


def test_urls(place: Place) -> None:
    frameworks.check_urls(place)


def test_a_form(place: Place) -> None:
    frameworks.check_form(place, csrfmiddlewaretoken=TOKEN)
    # Without the token Django lets nothing pass.
    assert place.browser().post("/form", name="eve").status == 403


def test_a_token_that_django_made(place: Place) -> None:
    browser = place.browser()
    token = browser.get("/token").text
    assert browser.post("/form", csrfmiddlewaretoken=token, a="b").json() == {"a": "b"}


def test_uploads(place: Place) -> None:
    frameworks.check_uploads(place, csrfmiddlewaretoken=TOKEN)


def test_cookies(place: Place) -> None:
    frameworks.check_cookies(place)


def test_a_stream(place: Place) -> None:
    frameworks.check_stream(place)


def test_a_login_session(place: Place) -> None:
    frameworks.check_login(place, csrfmiddlewaretoken=TOKEN)


def test_errors(place: Place) -> None:
    frameworks.check_errors(place)
