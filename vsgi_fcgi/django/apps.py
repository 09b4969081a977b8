"""Configuration of the Django app."""

from __future__ import annotations

from django.apps import AppConfig  # type: ignore[import-untyped]


class FastCGIConfig(AppConfig):  # type: ignore[misc]
    """Django app without models. Its label is not "django", which another app may use."""

    name = "vsgi_fcgi.django"
    label = "vsgi_fcgi"
    verbose_name = "FastCGI"
