"""Everything that ``vsgi-fcgi doctor`` can be told: what the command itself can."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.cli.command import Command, Example
from vsgi_fcgi.cli.options import SERVE, Options
from vsgi_fcgi.client.http_config import HTTPConfig
from vsgi_fcgi.server.config import Config


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """What the doctor is told, so that the word is all that a command line needs more.

    Raises:
        UsageError: a value is out of its bounds; the message begins with the field's name.
    """


DOCTOR = Command(
    "doctor",
    DoctorOptions,
    library=(HTTPConfig, Config),
    argument="app",
    base=SERVE,
    description=(
        "Answer each request of a web server with a page that shows what came, what was put right"
        " and what is to be changed in the web server's configuration. No app runs."
    ),
    epilog=(
        "It takes the command line that serves the app, and listens as that says; what concerns"
        " the app, such as APP and --reload, means nothing to it. It is not for production: it"
        " shows whoever asks what the web server sends, and refuses sockets that are open to other"
        " machines, or to everybody on this one by their mode. An app whose module is called"
        " doctor is named as doctor:app."
    ),
    examples=(
        Example(
            "Find out why nginx gets a 404",
            "doctor mysite:app --bind unix:/run/mysite.sock --socket-group www-data",
        ),
    ),
)
