"""Django project with a database of PostgreSQL, whose address is in the environment."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings  # type: ignore[import-untyped]
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
from django.db import connection  # type: ignore[import-untyped]
from django.http import JsonResponse  # type: ignore[import-untyped]
from django.urls import path  # type: ignore[import-untyped]

_words = dict(word.split("=") for word in os.environ["DATABASE"].split())

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": _words["host"],
            "NAME": _words["dbname"],
            "USER": _words["user"],
        }
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="known to every reader of the tests",
    USE_TZ=True,
)


def wait(request: Any) -> JsonResponse:
    """Wait in the database until nobody has the lock that the test has taken."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock_shared(1)")
        cursor.execute("SELECT %s::int * 2", [request.GET["number"]])
        return JsonResponse({"doubled": cursor.fetchone()[0]})


urlpatterns = [path("wait", wait)]

app = get_wsgi_application()
