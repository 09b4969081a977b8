"""All subcommands, as values. The modules that they name are imported when a command is used."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.cli.settings.command import Command, Example

SERVE: Final = Command(
    "",
    "vsgi_fcgi.cli.settings.options:Options",
    run="vsgi_fcgi.cli.commands.serve:serve",
    argument="app",
    description="Serve a WSGI app to a web server that speaks FastCGI.",
    epilog=(
        "Without an option that says where to listen, the server uses the sockets that systemd"
        " passes, or else descriptor 0, where web servers and spawn-fcgi put the listening socket."
        " Without such a socket, a process that a web server started as a CGI program answers that"
        " one request. With --http the server speaks HTTP itself, and serves a demonstration if no"
        " APP is given. Each option may also be set in the environment, as in"
        " VSGI_FCGI_THREADS=8, or in the configuration file, as in threads = 8. The command line"
        " overrides the environment, and the environment overrides the file."
    ),
    examples=(
        Example("Serve the app of module mysite on the descriptor 0 of a web server", "mysite:app"),
        Example(
            "Listen for nginx", "mysite:app --bind unix:/run/mysite.sock --socket-group www-data"
        ),
        Example("Try the app in a browser", "mysite:app --http 127.0.0.1:8000"),
        Example(
            "Load the app and validate the configuration",
            "mysite:app --config /etc/mysite.toml --check-config",
        ),
    ),
)

CONFIG: Final = Command(
    "config",
    "vsgi_fcgi.cli.commands.config:ConfigOptions",
    run="vsgi_fcgi.cli.commands.config:config",
    base=SERVE,
    subject="program",
    subject_help="vsgi_fcgi.cli.commands.config:program_help",
    argument="app",
    validates=False,
    summary="print the configuration of a web server or of systemd for an app",
    description=(
        "Print the configuration of a web server, or of systemd, for an app that is served with"
        " these options."
    ),
    epilog=(
        "PROGRAM follows config. The rest is the command line that serves the app. Its settings"
        " go into the configuration, and into the command that the configuration names. --http is"
        " where the web server serves HTTP (default: port 80, or 127.0.0.1:8080 with"
        " --standalone). The web server connects to the first UNIX socket among the addresses, or"
        " else to the first TCP address. Without an address, lighttpd starts the server itself,"
        " and the others connect to /run/NAME.sock. Write config:app for an app whose module is"
        " called config."
    ),
    examples=(
        Example(
            "Print the configuration of nginx",
            "config nginx mysite.wsgi --script-name /shop --threads 8",
        ),
    ),
)

DOCTOR: Final = Command(
    "doctor",
    "vsgi_fcgi.cli.settings.options:Options",
    run="vsgi_fcgi.cli.commands.doctor:doctor",
    base=SERVE,
    argument="app",
    summary="diagnose the configuration of a web server from the requests that it sends",
    description=(
        "Answer each request of a web server with a page that shows what the web server sent, what"
        " the server corrected, and what to change in the web server's configuration. The app does"
        " not run."
    ),
    epilog=(
        "The doctor takes the command line that serves the app and listens on the same addresses."
        " Options for the app, such as --reload, have no effect. Do not use it in production: it"
        " shows every client what the web server sends. It refuses TCP addresses that other"
        " machines can reach, and UNIX sockets that every local user may connect to. Write"
        " doctor:app for an app whose module is called doctor."
    ),
    examples=(
        Example(
            "Find out why nginx gets a 404",
            "doctor mysite:app --bind unix:/run/mysite.sock --socket-group www-data",
        ),
    ),
)

GATEWAY: Final = Command(
    "gateway",
    "vsgi_fcgi.cli.commands.forward:GatewayOptions",
    run="vsgi_fcgi.cli.commands.forward:gateway",
    summary="serve HTTP and forward the requests to FastCGI application servers",
    description=(
        "Serve HTTP, and forward each request to a FastCGI application server. If the application"
        " server multiplexes, one connection carries many requests at once."
    ),
    epilog=(
        "Options may also be set in the environment, as in VSGI_FCGI_UPSTREAM=unix:/run/app.sock,"
        " or in the table [gateway] of the configuration file. Write gateway:app for an app whose"
        " module is called gateway."
    ),
    examples=(
        Example(
            "Serve php-fpm over HTTP",
            "gateway --http 127.0.0.1:8000 --upstream unix:/run/php/php-fpm.sock",
        ),
    ),
)

RELAY: Final = Command(
    "relay",
    "vsgi_fcgi.cli.commands.forward:RelayOptions",
    run="vsgi_fcgi.cli.commands.forward:relay",
    summary="carry the requests of web servers over few multiplexed FastCGI connections",
    description=(
        "Accept requests from web servers that use one FastCGI connection per request, and carry"
        " them over few connections to an application server that multiplexes."
    ),
    epilog=(
        "Without an option that says where to listen, the relay uses the sockets that systemd"
        " passes, or else descriptor 0. Options may also be set in the environment, as in"
        " VSGI_FCGI_UPSTREAM=unix:/run/app.sock, or in the table [relay] of the configuration"
        " file. Write relay:app for an app whose module is called relay."
    ),
    examples=(
        Example(
            "Carry the requests of nginx over one connection",
            "relay --bind unix:/run/relay.sock --upstream unix:/run/app.sock",
        ),
    ),
)

STATUS: Final = Command(
    "status",
    "vsgi_fcgi.cli.commands.status:StatusOptions",
    run="vsgi_fcgi.cli.commands.status:status",
    argument="status_address",
    summary="show what a running server does",
    description=(
        "Show the processes of a running server, its running requests, and what it has counted. The"
        " exit status is 0 if the server serves."
    ),
    epilog=(
        "The server must run with --status-bind. Without ADDRESS, the command uses the setting"
        " status-bind of the configuration file, or of the environment. Write status:app for an app"
        " whose module is called status."
    ),
    examples=(Example("Watch a server", "status 127.0.0.1:9100 --watch"),),
    validates=False,
)

STACKS: Final = Command(
    "stacks",
    "vsgi_fcgi.cli.commands.status:StacksOptions",
    run="vsgi_fcgi.cli.commands.status:stacks",
    argument="status_address",
    summary="print the Python stacks of the workers of a running server",
    description="Print where each worker of a running server is, like py-spy dump.",
    epilog=(
        "The server must run with --status-bind. Without ADDRESS, the command uses the setting"
        " status-bind of the configuration file, or of the environment. Write stacks:app for an app"
        " whose module is called stacks."
    ),
    examples=(Example("Find out where requests are stuck", "stacks 127.0.0.1:9100"),),
    validates=False,
)

REPLAY: Final = Command(
    "replay",
    "vsgi_fcgi.cli.commands.replay:ReplayOptions",
    run="vsgi_fcgi.cli.commands.replay:replay",
    argument="recording",
    summary="print the records of a recording and the events that they cause",
    description=(
        "Drive the protocol of a server with a recording of --record, and print each record and the"
        " events that it causes."
    ),
    epilog="Write replay:app for an app whose module is called replay.",
    examples=(Example("Show what happened on a connection", "replay /var/lib/mysite/a.recording"),),
    validates=False,
)

TIMELINE: Final = Command(
    "timeline",
    "vsgi_fcgi.cli.commands.replay:ReplayOptions",
    run="vsgi_fcgi.cli.commands.replay:timeline",
    argument="recording",
    summary="print a recording as an HTML page",
    description=(
        "Print a recording of --record as an HTML page: a lane for each request id, when its"
        " records passed, and who waited for whom. The page needs no other file."
    ),
    epilog="Write timeline:app for an app whose module is called timeline.",
    examples=(Example("Draw a recording", "timeline /var/lib/mysite/a.recording > a.html"),),
    validates=False,
)

COMMANDS: Final[dict[str, Command]] = {
    command.name: command
    for command in (SERVE, CONFIG, DOCTOR, GATEWAY, RELAY, STATUS, STACKS, REPLAY, TIMELINE)
}
"""All commands by the first word of the command line; the server has none."""
