"""The app, as Django knows it."""

from __future__ import annotations

from django.apps import AppConfig  # type: ignore[import-untyped]


class FastCGIConfig(AppConfig):  # type: ignore[misc]
    """No models, only a command. Its label is not "django", which others may want."""

    name = "vsgi_fcgi.django"
    label = "vsgi_fcgi"
    verbose_name = "FastCGI"
