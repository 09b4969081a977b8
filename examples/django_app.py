"""A complete Django project in one file. Serve it with ``vsgi-fcgi django_app:application``."""

from __future__ import annotations

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils.html import format_html

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1", "[::1]"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    # Not used here. A real project needs a secret key.
    SECRET_KEY="an example",
)


def index(request: HttpRequest) -> HttpResponse:
    """Ask for a name."""
    return HttpResponse(
        format_html(
            '<form action="{}">Your name: <input name="name"> <button>Greet me</button></form>',
            reverse("greet"),
        )
    )


def greet(request: HttpRequest) -> HttpResponse:
    """Greet the user by name."""
    name = request.GET.get("name") or "stranger"
    return HttpResponse(format_html("<p>Hello, {}!</p>", name))


urlpatterns = [path("", index), path("greet", greet, name="greet")]

application = get_wsgi_application()
