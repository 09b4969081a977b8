"""Command ``manage.py runfcgi``, which serves the project with the options of ``vsgi-fcgi``."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Iterable
from typing import Any

from django.conf import settings  # type: ignore[import-untyped]
from django.core.management.base import (  # type: ignore[import-untyped]
    BaseCommand,
    CommandError,
    CommandParser,
)

from vsgi_fcgi.cli import exit_process
from vsgi_fcgi.cli.commands import SERVE
from vsgi_fcgi.cli.commands.serve import serve
from vsgi_fcgi.cli.settings.command import option_name
from vsgi_fcgi.cli.settings.command_line import add_configuration, add_settings, command_line
from vsgi_fcgi.exceptions import AppLoadError, UsageError
from vsgi_fcgi.settings import nearest

# Arguments of ``runfcgi`` in Django up to 1.8, such as ``method=threaded port=3033``.

_SETTINGS = {
    "host": "address",
    "port": "port",
    "socket": "socket",
    "maxchildren": "threads",
    "pidfile": "pid_file",
    "workdir": "chdir",
    "umask": "umask",
}
"""Old arguments that have a setting."""

_CHOICES = {"protocol": ("fcgi", "scgi", "ajp"), "method": ("prefork", "threaded")}

_BOOLEANS = ("daemonize", "debug")

_IGNORED = {
    "maxrequests": "the process is not replaced",
    "maxspare": "all threads start with the server; set their number with --threads",
    "minspare": "all threads start with the server; set their number with --threads",
    "outlog": "the app writes to the output of this process; redirect it, or use --log-writer",
    "errlog": "the log goes to stderr; redirect it, or use --log-writer or --log-config",
}
"""Old arguments that are ignored, with reason and advice."""

_KNOWN = (*_SETTINGS, *_CHOICES, *_BOOLEANS, *_IGNORED)


def read_words(words: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Read the old arguments.

    Args:
        words: arguments in the form ``key=value``.

    Returns:
        Values by the names of settings, and a warning for each ignored argument.

    Raises:
        UsageError: an argument is invalid, or the server cannot work without it.
    """
    given: dict[str, Any] = {}
    warnings: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if key not in _KNOWN or not equals:
            advice = nearest(key, _KNOWN) or "; see manage.py help runfcgi"
            raise UsageError(f"{word}: unknown argument of runfcgi{advice}")
        if key in _SETTINGS:
            name = _SETTINGS[key]
            given[name] = _value(word, name, text)
        elif key in _CHOICES:
            _check_choice(word, key, text, warnings)
        elif key in _BOOLEANS:
            if _value(word, "debug", text):
                _check_boolean(word, key, warnings)
        else:
            warnings.append(f"{word} is ignored: {_IGNORED[key]}")
    if "umask" in given:
        # flup did the same, and many configurations rely on it to let the web server connect.
        given["socket_mode"] = 0o777 & ~given["umask"]
    return given, warnings


def _value(word: str, name: str, text: str) -> Any:
    converter = SERVE.converter(name)
    try:
        value = converter.parse(text)
    except ValueError as error:
        raise UsageError(f"{word}: {error}; the new option is {option_name(name)}") from None
    return (value,) if converter.repeated else value


def _check_choice(word: str, key: str, text: str, warnings: list[str]) -> None:
    if text not in _CHOICES[key]:
        raise UsageError(f"{word}: the value must be one of {', '.join(_CHOICES[key])}")
    if key == "protocol" and text != "fcgi":
        raise UsageError(f"{word}: only FastCGI is supported; configure it in the web server")
    if text == "prefork":
        warnings.append(f"{word} is ignored: threads of one process run the app (--threads)")


def _check_boolean(word: str, key: str, warnings: list[str]) -> None:
    if key == "daemonize":
        # An error and not a warning, because a script with this argument waits for the command
        # to return.
        raise UsageError(
            f"{word}: the command always runs in the foreground; remove the argument, and let"
            " systemd, spawn-fcgi or the web server start the command"
        )
    warnings.append(
        f"{word} is ignored: tracebacks are written to the log; --debug shows them in the browser"
    )


class Command(BaseCommand):  # type: ignore[misc]
    """Django command ``runfcgi``."""

    help = "Serve this project to a web server through FastCGI, until a signal stops it."

    # System checks import the whole project, which only the serving process must do.
    requires_system_checks = ()

    _status = 0

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of ``vsgi-fcgi``, and the old arguments."""
        # An option that is not given must not set a value, so that other sources are used.
        parser.argument_default = SUPPRESS
        parser.add_argument(
            "args",
            nargs="*",
            default=[],
            metavar="KEY=VALUE",
            help="argument of runfcgi in Django up to 1.8, such as socket=/run/mysite.sock",
        )
        add_configuration(parser)
        add_settings(parser, SERVE)

    def run_from_argv(self, argv: list[str]) -> None:
        """Serve, and exit the process."""
        super().run_from_argv(argv)
        exit_process(self._status)

    def handle(self, *words: str, **options: Any) -> None:
        """Serve the project.

        Args:
            *words: old arguments.
            **options: values of options.

        Raises:
            CommandError: a setting is invalid.
        """
        try:
            given, warnings = read_words(words)
            for sentence in warnings:
                self.stderr.write(self.style.WARNING(f"runfcgi: {sentence}"))
            line = command_line(SERVE, {**given, **options, "app": app_name()})
            self._status = serve(line)
        except UsageError as error:
            traceback = error.traceback if isinstance(error, AppLoadError) else ""
            raise CommandError(f"{traceback}{error}", returncode=2) from error
        except KeyboardInterrupt:
            self._status = 130


def app_name() -> str:
    """Return the name of the project's app, which is loaded after the sockets are opened."""
    path = settings.WSGI_APPLICATION
    if not path:
        return "django.core.wsgi:get_wsgi_application()"
    return ":".join(str(path).rsplit(".", 1))
