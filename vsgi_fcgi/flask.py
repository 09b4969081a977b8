"""Command ``flask --app … fcgi``, which serves a Flask app with the options of ``vsgi-fcgi``."""

from __future__ import annotations

import click
from flask.cli import NoAppException, ScriptInfo

from vsgi_fcgi.cli import exit_process
from vsgi_fcgi.cli.commands.serve import serve
from vsgi_fcgi.cli.settings.command_line import parse
from vsgi_fcgi.exceptions import AppLoadError, UsageError
from vsgi_fcgi.wsgi.response import App

_APP = "vsgi_fcgi.flask:flask_app()"


class UsageProblem(click.ClickException):
    """Usage error, with the exit status that ``vsgi-fcgi`` has for it."""

    exit_code = 2


@click.command(
    # All further arguments, including --help, are parsed by the parser of vsgi-fcgi.
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Serve the app to a web server through FastCGI.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def fcgi(words: tuple[str, ...]) -> None:
    """Serve the app to a web server through FastCGI, with the options of vsgi-fcgi."""
    try:
        line = parse(words, "flask fcgi")
        status = serve(line._replace(given={**line.given, "app": _APP}))
    except UsageError as error:
        traceback = error.traceback if isinstance(error, AppLoadError) else ""
        raise UsageProblem(f"{traceback}{error}") from error
    except KeyboardInterrupt:
        status = 130
    exit_process(status)


def flask_app() -> App:
    """Load the app of ``flask --app``. This is called after the sockets are opened.

    Raises:
        AppLoadError: Flask finds no app.
    """
    try:
        return click.get_current_context().ensure_object(ScriptInfo).load_app()
    except NoAppException as error:
        raise AppLoadError(error.format_message()) from error
