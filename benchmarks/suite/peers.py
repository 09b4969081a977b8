"""The measured servers, with the settings that their documentation recommends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Protocol = Literal["fastcgi", "http", "uwsgi"]

PLAIN = frozenset({"plain"})
WSGI = frozenset({"plain", "flask", "django"})


@dataclass(frozen=True)
class Peer:
    """A server of the comparison.

    Attributes:
        name: the row's name in tables and charts.
        protocol: what it speaks on its socket.
        requirement: the package to install, as pip takes it.
        environment: the virtual environment that it runs in, or "built" for a program.
        command: its command line; `Environment.command` replaces the names in braces.
        note: what a reader of its figures must know.
        apps: the apps that it can serve.
        keeps: whether it keeps FastCGI connections.
        multiplexes: whether it serves several requests on a connection at once.
        waits: whether other requests run while an app waits.
    """

    name: str
    protocol: Protocol
    requirement: str
    environment: str
    command: str
    note: str = ""
    apps: frozenset[str] = WSGI
    keeps: bool = True
    multiplexes: bool = False
    waits: bool = True


def vsgi(environment: str, suffix: str) -> list[Peer]:
    """Return the rows of one installation of vsgi_fcgi."""
    command = "{bin}/vsgi-fcgi {app} --bind unix:{socket} --log-level warning --worker "
    rows = [
        Peer(
            f"vsgi_fcgi main{suffix}",
            "fastcgi",
            "vsgi-fcgi",
            environment,
            command + "main",
            multiplexes=True,
            waits=False,
        ),
        Peer(
            f"vsgi_fcgi thread{suffix}",
            "fastcgi",
            "vsgi-fcgi",
            environment,
            command + "thread --threads {threads}",
            multiplexes=True,
        ),
    ]
    if not suffix:
        name, options = "vsgi_fcgi greenlet", command + "greenlet"
        rows.append(Peer(name, "fastcgi", "vsgi-fcgi", environment, options, multiplexes=True))
    return rows


SERVE = "{bin}/python -m serve "
UWSGI = (
    "{bin}/uwsgi --{protocol}-socket {socket} --module {app} --processes 1 --strict --need-app"
    " --single-interpreter --die-on-term --disable-logging --virtualenv {venv}"
)
UWSGI_FASTCGI = UWSGI.replace("{protocol}", "fastcgi")
UWSGI_UWSGI = UWSGI.replace("{protocol}", "uwsgi")
CLOSES = "closes the connection after each response"
GUNICORN = "{bin}/gunicorn {app} --bind unix:{socket} --workers 1 --worker-tmp-dir /dev/shm"
GRANIAN = (
    "{bin}/granian --interface wsgi --uds {socket} --http 1 --workers 1"
    " --blocking-threads {threads} --no-ws --log-level warning {app}"
)

PEERS = [
    *vsgi("compiled", ""),
    *vsgi("pure", " (pure)"),
    *vsgi("before", " (before)"),
    Peer(
        "uWSGI FastCGI",
        "fastcgi",
        "uwsgi",
        "peers",
        UWSGI_FASTCGI,
        CLOSES,
        keeps=False,
        waits=False,
    ),
    Peer(
        "uWSGI FastCGI threads",
        "fastcgi",
        "uwsgi",
        "peers",
        UWSGI_FASTCGI + " --threads {threads}",
        CLOSES,
        keeps=False,
    ),
    Peer("flup", "fastcgi", "flup", "peers", SERVE + "flup {module} {socket}", "64 spare threads"),
    Peer(
        "flup multiplexed",
        "fastcgi",
        "flup",
        "peers",
        SERVE + "flup_multiplexed {module} {socket}",
        "64 spare threads",
        apps=PLAIN,
        multiplexes=True,
    ),
    Peer(
        "flipflop",
        "fastcgi",
        "flipflop",
        "peers",
        SERVE + "flipflop {module} {socket}",
        "measured without keep-alive: kept connections wait for its only spare thread",
        keeps=False,
    ),
    Peer(
        "libfcgi, C",
        "fastcgi",
        "libfcgi",
        "built",
        "{built}/responder-c {socket} 128",
        "no WSGI; the same answers from C, with 128 threads, one for each connection",
        apps=PLAIN,
    ),
    Peer(
        "net/http/fcgi, Go",
        "fastcgi",
        "go",
        "built",
        "{built}/responder-go {socket}",
        "no WSGI; the same answers from Go",
        apps=PLAIN,
        multiplexes=True,
    ),
    Peer("uWSGI", "uwsgi", "uwsgi", "peers", UWSGI_UWSGI, CLOSES, waits=False),
    Peer("uWSGI threads", "uwsgi", "uwsgi", "peers", UWSGI_UWSGI + " --threads {threads}", CLOSES),
    Peer("gunicorn sync", "http", "gunicorn", "peers", GUNICORN, CLOSES, waits=False),
    Peer(
        "gunicorn gthread",
        "http",
        "gunicorn",
        "peers",
        GUNICORN + " --worker-class gthread --threads {threads}",
    ),
    Peer(
        "waitress",
        "http",
        "waitress",
        "peers",
        "{bin}/waitress-serve --unix-socket={socket} --threads={threads} {app}",
    ),
    Peer("gevent.pywsgi", "http", "gevent", "peers", SERVE + "gevent {module} {socket}"),
    Peer(
        "cheroot",
        "http",
        "cheroot",
        "peers",
        "{bin}/cheroot --bind {socket} --threads {threads} --request-queue-size 128 {app}",
    ),
    Peer("bjoern", "http", "bjoern", "peers", SERVE + "bjoern {module} {socket}", waits=False),
    Peer(
        "granian",
        "http",
        "granian",
        "peers",
        GRANIAN.replace("{threads}", "1"),
        "one blocking thread",
        waits=False,
    ),
    Peer("granian threads", "http", "granian", "peers", GRANIAN),
]
