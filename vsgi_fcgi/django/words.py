"""The words of the ``runfcgi`` that Django had up to 1.8: ``method=threaded port=3033``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vsgi_fcgi.cli.command import nearest, option_name
from vsgi_fcgi.cli.options import SERVE
from vsgi_fcgi.exceptions import UsageError

_SETTINGS = {
    "host": "address",
    "port": "port",
    "socket": "socket",
    "maxchildren": "threads",
    "pidfile": "pid_file",
    "workdir": "chdir",
    "umask": "umask",
}
"""The words that have become settings."""

_CHOICES = {"protocol": ("fcgi", "scgi", "ajp"), "method": ("prefork", "threaded")}

_BOOLEANS = ("daemonize", "debug")

_IGNORED = {
    "maxrequests": "the process is not replaced",
    "maxspare": "all threads are there from the start; --threads says how many",
    "minspare": "all threads are there from the start; --threads says how many",
    "outlog": "the app's output is that of this process; redirect it, or see --log-writer",
    "errlog": "the log is on stderr; redirect it, or see --log-writer and --log-config",
}
"""The words that mean nothing here, and why."""

_KNOWN = (*_SETTINGS, *_CHOICES, *_BOOLEANS, *_IGNORED)


def read_words(words: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Read the words that are no options.

    Args:
        words: each a ``key=value``.

    Returns:
        Values by the names of settings, and a sentence for each word that is not honoured.

    Raises:
        UsageError: a word cannot be understood, or what it asks for would be missed.
    """
    given: dict[str, Any] = {}
    warnings: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if key not in _KNOWN or not equals:
            advice = nearest(key, _KNOWN) or "; manage.py help runfcgi lists the options"
            raise UsageError(f"runfcgi does not know {word}{advice}")
        if key in _SETTINGS:
            name = _SETTINGS[key]
            given[name] = _value(word, name, text)
        elif key in _CHOICES:
            _check_choice(word, key, text, warnings)
        elif key in _BOOLEANS:
            if _value(word, "debug", text):
                _check_boolean(word, key, warnings)
        else:
            warnings.append(f"{word} is not honoured: {_IGNORED[key]}")
    if "umask" in given:
        # As flup did it, by which many a web server was let in.
        given["socket_mode"] = 0o777 & ~given["umask"]
    return given, warnings


def _value(word: str, name: str, text: str) -> Any:
    kind = SERVE.kind(name)
    try:
        value = kind.read(text)
    except ValueError as error:
        raise UsageError(f"{word}: {error}; {option_name(name)} is its new name") from None
    return (value,) if kind.many else value


def _check_choice(word: str, key: str, text: str, warnings: list[str]) -> None:
    if text not in _CHOICES[key]:
        raise UsageError(f"{word}: it must be one of {', '.join(_CHOICES[key])}")
    if key == "protocol" and text != "fcgi":
        raise UsageError(f"{word} is not spoken here; have the web server speak FastCGI")
    if text == "prefork":
        warnings.append(f"{word} is not honoured: threads of this process run the app (--threads)")


def _check_boolean(word: str, key: str, warnings: list[str]) -> None:
    if key == "daemonize":
        # Whoever starts it so waits for its return.
        raise UsageError(
            f"{word} is not done: it stays in the foreground; leave the word out, and have"
            " systemd, spawn-fcgi or the web server start it"
        )
    warnings.append(
        f"{word} is not honoured: tracebacks are in the log; --debug has them in the browser"
    )
