"""``flask --app … fcgi``: the app that Flask has found, with the options of ``vsgi-fcgi``."""

from __future__ import annotations

from dataclasses import replace

import click
from flask.cli import NoAppException, ScriptInfo

from vsgi_fcgi.cli import leave
from vsgi_fcgi.cli.arguments import parse
from vsgi_fcgi.cli.serving import serve_line
from vsgi_fcgi.exceptions import AppLoadError, UsageError
from vsgi_fcgi.wsgi.runner import App

_APP = "vsgi_fcgi.flask:flask_app()"


class Complaint(click.ClickException):
    """What has to be mended first, with the exit status of ``vsgi-fcgi`` for that."""

    exit_code = 2


@click.command(
    # All that follows is read as vsgi-fcgi reads it, --help included.
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Serve the app to a web server, by FastCGI.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def fcgi(words: tuple[str, ...]) -> None:
    """Serve the app to a web server, by FastCGI, with the options of vsgi-fcgi."""
    try:
        line = parse(words, "flask fcgi")
        status = serve_line(replace(line, given={**line.given, "app": _APP}))
    except UsageError as error:
        traceback = error.traceback if isinstance(error, AppLoadError) else ""
        raise Complaint(f"{traceback}{error}") from error
    except KeyboardInterrupt:
        status = 130
    leave(status)


def flask_app() -> App:
    """The app of ``flask --app``, loaded when the sockets are open.

    Raises:
        AppLoadError: there is none.
    """
    try:
        return click.get_current_context().ensure_object(ScriptInfo).load_app()
    except NoAppException as error:
        raise AppLoadError(error.format_message()) from error
