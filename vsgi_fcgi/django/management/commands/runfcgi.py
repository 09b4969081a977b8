"""``manage.py runfcgi``: the project's WSGI app, with the options of ``vsgi-fcgi``."""

from __future__ import annotations

from argparse import SUPPRESS
from typing import Any

from django.conf import settings  # type: ignore[import-untyped]
from django.core.management.base import (  # type: ignore[import-untyped]
    BaseCommand,
    CommandError,
    CommandParser,
)

from vsgi_fcgi.cli import leave
from vsgi_fcgi.cli.arguments import add_configuration, add_settings, command_line
from vsgi_fcgi.cli.options import SERVE
from vsgi_fcgi.cli.serving import serve_line
from vsgi_fcgi.django.words import read_words
from vsgi_fcgi.exceptions import AppLoadError, UsageError


class Command(BaseCommand):  # type: ignore[misc]
    """The command."""

    help = "Serve this project to a web server that speaks FastCGI, until a signal says to stop."

    # They import all of the project, which is for the process that serves to do.
    requires_system_checks = ()

    _status = 0

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of ``vsgi-fcgi``, and the words of the ``runfcgi`` of old."""
        # An option that is not given leaves nothing behind: other sources are asked then.
        parser.argument_default = SUPPRESS
        parser.add_argument(
            "args",
            nargs="*",
            default=[],
            metavar="KEY=VALUE",
            help="a word that runfcgi knew up to Django 1.8, such as socket=/run/mysite.sock",
        )
        add_configuration(parser)
        add_settings(parser, SERVE)

    def run_from_argv(self, argv: list[str]) -> None:
        """Serve as ``manage.py`` was told to, and leave the process."""
        super().run_from_argv(argv)
        leave(self._status)

    def handle(self, *words: str, **options: Any) -> None:
        """Serve.

        Raises:
            CommandError: something that was asked for cannot be done.
        """
        try:
            given, warnings = read_words(words)
            for sentence in warnings:
                self.stderr.write(self.style.WARNING(f"runfcgi: {sentence}"))
            line = command_line(SERVE, {**given, **options, "app": app_name()})
            self._status = serve_line(line)
        except UsageError as error:
            traceback = error.traceback if isinstance(error, AppLoadError) else ""
            raise CommandError(f"{traceback}{error}", returncode=2) from error
        except KeyboardInterrupt:
            self._status = 130


def app_name() -> str:
    """The name of the project's app, which is loaded when the sockets are open."""
    path = settings.WSGI_APPLICATION
    if not path:
        return "django.core.wsgi:get_wsgi_application()"
    return ":".join(str(path).rsplit(".", 1))
