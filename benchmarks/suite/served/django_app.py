"""A Django project with one page: a template with ten rows of an SQLite database."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings  # type: ignore[import-untyped]

PAGE = """<!doctype html><title>Notes</title>
<ul>{% for note in notes %}<li id="note-{{ note.id }}">{{ note.title|upper }}</li>{% endfor %}</ul>
"""
LOADER = ("django.template.loaders.locmem.Loader", {"notes.html": PAGE})
ENGINE = "django.template.backends.django.DjangoTemplates"

settings.configure(
    ALLOWED_HOSTS=["localhost"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["SUITE_DATABASE"],
        }
    },
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="known to every reader of the benchmark",
    TEMPLATES=[
        {
            "BACKEND": ENGINE,
            "OPTIONS": {"loaders": [("django.template.loaders.cached.Loader", [LOADER])]},
        }
    ],
)

# What follows can only be imported after the settings are known.
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped] # noqa: E402
from django.db import models  # type: ignore[import-untyped] # noqa: E402
from django.shortcuts import render  # type: ignore[import-untyped] # noqa: E402
from django.urls import path  # type: ignore[import-untyped] # noqa: E402

application = get_wsgi_application()


class Note(models.Model):  # type: ignore[misc]
    """A row of the table that the suite has created."""

    title = models.CharField(max_length=80)

    class Meta:
        """Where the rows are."""

        app_label = "suite"
        db_table = "note"
        managed = False


def notes(request: Any) -> Any:
    """Show the first ten notes."""
    return render(request, "notes.html", {"notes": Note.objects.order_by("id")[:10]})


urlpatterns = [path("django", notes)]
